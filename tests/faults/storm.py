"""Random victims, signals and moments, isolations and launchers: does each run end, and with the right value?

    python -m tests.faults.storm [--storms 200] [--seed 1] [--jobs 1]

A storm is drawn from its seed alone: a way to launch, an isolation, a number of ranks, and one to three blows. A blow
is a signal that strikes one process (a worker, rank 0, a child of a rank, the launcher or the supervisor) in one phase
of the run: while ranks start, in ``setup``, while values move, or at the goodbye. What was struck must end within
bounds and leave no process behind; then the same command, undisturbed, must resume it to the right value. A storm that
fails is repeated by ``--seed N --storms 1``; how processes interleave is not part of the seed, so it may take several
tries.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import handoff_mpi
from handoff_mpi.errors import HandoffError
from handoff_mpi.results.status_file import read_status
from tests.conftest import mpirun_command
from tests.faults import layers
from tests.faults.launching import Launched, fresh, launch, mpich_python

DAG = Path(__file__).with_name("storm_dag.py")
FUNCTIONS = 121
CALL_S = 0.02
PHASES = ("start", "setup", "calls", "goodbye")
WAYS = ("run -n", "run -n", "run -n", "run -n", "mpirun with ft", "mpirun", "script with ft", "MPICH")
ISOLATIONS = ("auto", "rank", "process")
#: A struck run must end within this time, an undisturbed one too. A launch that lost a rank while MPI started may wait
#: for the join limit before it is repeated.
LIMIT_S = 150.0
#: A phase that has not begun by then does not come any more.
PHASE_LIMIT_S = 60.0
#: Who stops the launcher or the supervisor continues it: no process of the run can.
PAUSE_S = 1.5
MAX_RESUMES = 3
#: How long each phase lasts, about, in seconds: a blow comes at a random moment of it.
_PHASE_S = {"start": 2.0, "setup": 0.5, "calls": 0.5, "goodbye": 0.05}
_FATAL = ("SIGKILL", "SIGKILL", "SIGSTOP", "SIGSEGV", "SIGTERM")
_VICTIMS = {
    "worker": _FATAL,
    "rank 0": _FATAL,
    "child": _FATAL,
    "launcher": ("SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP"),
    "supervisor": ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1", "SIGSTOP"),
}


@dataclass(frozen=True)
class Blow:
    """One signal to one process, ``delay_s`` seconds after ``phase`` has begun."""

    phase: str
    victim: str
    signal: str
    delay_s: float
    choice: float

    def __str__(self) -> str:
        return f"{self.signal} to {self.victim}, {self.delay_s:.2f} s into {self.phase}"


@dataclass(frozen=True)
class Storm:
    """The storm that one seed makes."""

    seed: int
    way: str
    isolation: str
    ranks: int
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        blows = "; ".join(map(str, self.blows))
        return f"seed {self.seed}: {self.way}, {self.ranks} ranks, isolation {self.isolation}: {blows}"


@dataclass
class Seen:
    """The end of a storm.

    Attributes:
        problems: what was not as promised.
        struck: the blows that found their victim.
        code: what ``status.json`` said after the storm, None if nothing.
        resumes: how many further commands it took to the right value.
        seconds: from the first command until it had ended.
    """

    problems: list[str] = field(default_factory=list)
    struck: list[Blow] = field(default_factory=list)
    code: int | None = None
    resumes: int = 0
    seconds: float = 0.0


def command_of(storm: Storm) -> list[str]:
    """Return the command that the storm passes over. Where there is no MPICH, ``run -n`` takes its place."""
    words = ["-m", "handoff_mpi", "run", "--run-dir", "run"]
    target = ["--isolation", storm.isolation, str(DAG), "--", str(FUNCTIONS), str(CALL_S)]
    count = ["-n", str(storm.ranks)]
    if storm.way == "script with ft":
        script = ["-m", "tests.faults.storm_dag", "run", storm.isolation, str(FUNCTIONS), str(CALL_S)]
        return [*mpirun_command(storm.ranks, ft=True), sys.executable, *script]
    if storm.way.startswith("mpirun"):
        launcher = mpirun_command(storm.ranks, ft=storm.way.endswith("with ft"))
        return [*launcher, sys.executable, *words, *target]
    python = mpich_python() if storm.way == "MPICH" else None
    return [python or sys.executable, *words, *count, *target]


def draw(seed: int) -> Storm:
    """Return the storm of ``seed``; half of all use ``run -n``, which is what users are advised to use."""
    rng = random.Random(seed)
    way = rng.choice(WAYS)
    victims = [name for name in _VICTIMS if name != "supervisor" or way in ("run -n", "MPICH")]
    blows = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        victim = rng.choice(["worker", *victims])
        phase = rng.choice(PHASES)
        delay_s = rng.uniform(0, _PHASE_S[phase])
        blows.append(Blow(phase, victim, rng.choice(_VICTIMS[victim]), delay_s, rng.random()))
    blows.sort(key=lambda blow: PHASES.index(blow.phase))
    return Storm(seed, way, rng.choice(ISOLATIONS), rng.randint(2, 6), tuple(blows))


def run(storm: Storm, directory: Path) -> Seen:
    """Let ``storm`` pass over a run in ``directory``, then resume the run undisturbed."""
    fresh(directory)
    (directory / "marks").mkdir()
    command = command_of(storm)
    environment = {"STORM_MARKS": str(directory / "marks"), "PYTHONPATH": str(DAG.parents[2])}
    seen = Seen()
    launched = launch(command, directory, environment)
    for blow in storm.blows:
        if _await_phase(blow, launched, directory / "marks") and _strike(blow, launched):
            seen.struck.append(blow)
    if storm.way in ("mpirun", "mpirun with ft", "script with ft"):
        _continue_if_all_are_stopped(launched)
    _note_end(launched, seen)
    seen.seconds = launched.seconds
    seen.code = read_status(directory / "run").get("exit_code")
    while not seen.problems and read_status(directory / "run").get("exit_code") != 0 and seen.resumes < MAX_RESUMES:
        seen.resumes += 1
        _note_end(launch(command, directory, environment), seen)
    if not seen.problems:
        seen.problems += _judge(directory / "run")
    return seen


def _note_end(launched: Launched, seen: Seen) -> None:
    code = launched.wait(LIMIT_S)
    if code is None:
        seen.problems.append(f"hung for {LIMIT_S:g} s: {launched.text()[-800:]}")
    else:
        seen.problems += [f"left behind: {line}" for line in launched.leftovers(grace_s=10.0)]
    if "Traceback (most recent call last)" in launched.text():
        seen.problems.append(f"a traceback: {launched.text()[-1500:]}")


def _judge(run_dir: Path) -> list[str]:
    code = read_status(run_dir).get("exit_code")
    if code != 0:
        return [f"it did not resume: exit code {code}"]
    try:
        value = handoff_mpi.load(run_dir)["sum"]
    except HandoffError as error:
        return [f"its value cannot be loaded: {error}"]
    return [] if value == layers.expected(FUNCTIONS) else [f"its value is {value}, not {layers.expected(FUNCTIONS)}"]


def _await_phase(blow: Blow, launched: Launched, marks: Path) -> bool:
    """Wait until the blow's moment has come; return whether the run still continues."""
    end = time.monotonic() + PHASE_LIMIT_S
    while blow.phase != "start" and not (marks / blow.phase).exists():
        if launched.process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.005)
    time.sleep(blow.delay_s)
    return launched.process.poll() is None


def _strike(blow: Blow, launched: Launched) -> bool:
    victims = _find(blow.victim, launched)
    if not victims:
        return False
    victim = victims[int(blow.choice * len(victims))]
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.Signals[blow.signal])
        if blow.signal == "SIGSTOP" and blow.victim in ("launcher", "supervisor"):
            time.sleep(PAUSE_S)
            victim.send_signal(signal.SIGCONT)
        return True
    return False


def _continue_if_all_are_stopped(launched: Launched) -> None:
    """Continue a bare mpirun whose ranks are all stopped, as a user does who has suspended a job: no rank can look."""
    ranks = list(launched.ranks().values())
    with contextlib.suppress(psutil.NoSuchProcess):
        if all(process.status() == psutil.STATUS_STOPPED for process in ranks):
            time.sleep(PAUSE_S)
            for process in ranks:
                process.send_signal(signal.SIGCONT)


def _find(victim: str, launched: Launched) -> list[psutil.Process]:
    ranks = launched.ranks()
    if victim == "rank 0":
        return [ranks[0]] if 0 in ranks else []
    if victim == "worker":
        return [process for rank, process in sorted(ranks.items()) if rank]
    if victim == "supervisor":
        return [psutil.Process(launched.process.pid)]
    pids = {process.pid for process in ranks.values()}
    others = [process for process in launched.processes() if process.pid not in pids]
    is_launcher = [_is_launcher(process) for process in others]
    if victim == "launcher":
        return [process for process, is_one in zip(others, is_launcher, strict=True) if is_one]
    return [
        process
        for process, is_one in zip(others, is_launcher, strict=True)
        if not is_one and process.pid != launched.process.pid and _parent(process) in pids
    ]


def _is_launcher(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name().startswith(("mpirun", "mpiexec", "prte", "hydra"))
    return False


def _parent(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return 0


def main(words: list[str]) -> int:
    """Print what was seen; return 1 if something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__.splitlines()[0])
    parser.add_argument("--storms", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="how many storms pass at the same time")
    given = parser.parse_args(words)
    storms = [draw(seed) for seed in range(given.seed, given.seed + given.storms)]
    with tempfile.TemporaryDirectory(prefix="handoff-faults-") as place:

        def pass_over(storm: Storm) -> Seen:
            seen = run(storm, Path(place, str(storm.seed)))
            outcome = "; ".join(seen.problems) or f"ended with {seen.code}, right after {seen.resumes} resumes"
            print(f"{storm} | {seen.seconds:.1f} s | {outcome}", file=sys.stderr, flush=True)
            return seen

        with ThreadPoolExecutor(given.jobs) as pool:
            seens = list(pool.map(pass_over, storms))
    bad = [storm.seed for storm, seen in zip(storms, seens, strict=True) if seen.problems]
    blows = [blow for seen in seens for blow in seen.struck]
    slowest = max(zip(storms, seens, strict=True), key=lambda pair: pair[1].seconds)
    print(f"{len(storms)} storms, {len(blows)} blows: {dict(Counter(blow.victim for blow in blows))}")
    print(f"phases: {dict(Counter(blow.phase for blow in blows))}")
    print(f"exit codes of what was struck: {dict(Counter(seen.code for seen in seens))}")
    print(f"slowest: {slowest[1].seconds:.1f} s ({slowest[0]})")
    print(f"not as promised: seeds {bad}" if bad else "all ended, left nothing behind, and gave the right value")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
