"""A small job in which ranks die, to see what this MPI makes of it: started, watched, and ended.

:func:`try_deaths` is called by the doctor; :func:`main` is what the ranks of that job run. Rank 1 kills itself,
rank 2 leaves with ``exit(1)`` later, and rank 0 writes down what MPI reports, until it is ended itself.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from handoff_mpi.launch.environment import environment_to_launch, is_under_launcher
from handoff_mpi.launch.launcher_process import started
from handoff_mpi.launch.mpirun import launcher_command
from handoff_mpi.python_path import python_program
from handoff_mpi.worker.child_process import environment_of_child

#: The whole trial, all its jobs together.
TRIAL_S = 30.0
RANKS = 3
FT_FLAGS = ("--with-ft", "ulfm")
_STARTED_S = 15.0
_TOLD_S = 5.0
_EXIT_TOLD_S = 1.5
_SAID_NBYTES = 4000
# What batch systems say of their allocation: the trial stays on this host, in nobody's way.
_BATCH_PREFIXES = ("SLURM_", "PBS_", "LSB_", "LSF_", "FLUX_", "COBALT_", "PE_HOSTFILE")
_ROOT_VARIABLES = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
_DIE, _ECHO, _EXIT = "die", "echo", "exit"


@dataclass(slots=True)
class Trial:
    """How one job went in which a rank died.

    Attributes:
        command: the launcher and its flags, as one would type them.
        is_ft: whether fault tolerance was asked for.
        library: the MPI library as rank 0 saw it; empty if no rank came that far.
        thread_level: what MPI granted.
        size: how many ranks rank 0 saw.
        is_started: whether all ranks were together.
        told_s: seconds until MPI reported a killed rank to rank 0, None if it did not.
        goes_on: whether the ranks left could still talk.
        is_exit_told: whether MPI reported a rank that left with ``exit(1)`` to rank 0; None if it did not come to that.
        code: the launcher's exit status, None if it had to be ended.
        said: the end of what the job wrote to stderr.
    """

    command: str
    is_ft: bool = False
    library: str = ""
    thread_level: str = ""
    size: int = 0
    is_started: bool = False
    told_s: float | None = None
    goes_on: bool = False
    is_exit_told: bool | None = None
    code: int | None = None
    said: str = ""

    @property
    def survives(self) -> bool:
        """Whether runs live through a rank's death in such a job."""
        return self.goes_on and self.told_s is not None


# -- the doctor's side ---------------------------------------------------------------------------------


def try_deaths(timeout_s: float = TRIAL_S) -> list[Trial]:
    """Run the trial with and, where it can be switched, without fault tolerance; both at once.

    Raises:
        UsageError: there is no launcher.
    """
    command, environment = launcher_command(RANKS)
    environment = child_environment(environment)
    with ExitStack() as stack:
        jobs = [stack.enter_context(_trial_job(each, environment)) for each in _variants(command)]
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and any(job.process.poll() is None for job in jobs):
            time.sleep(0.02)
        return [job.trial() for job in jobs]


def _variants(command: list[str]) -> list[list[str]]:
    plain = [word for word in command if word not in FT_FLAGS]
    return [command] if plain == command else [command, plain]


def child_environment(wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a launcher that may be started inside another's job, and stays on this host."""
    # Outside a launcher its variables are the user's own settings, which a run would have too.
    clean = environment_of_child() if is_under_launcher() else environment_to_launch(os.environ)
    clean = {name: value for name, value in clean.items() if not name.startswith(_BATCH_PREFIXES)}
    return clean | {name: wanted[name] for name in _ROOT_VARIABLES if name in wanted}


@dataclass(slots=True)
class _TrialJob:
    process: subprocess.Popen[Any]
    command: list[str]
    told: Path
    said: Path

    def trial(self) -> Trial:
        """Return how it went, as far as rank 0 had written it down."""
        shown = shlex.join([Path(self.command[0]).name, *self.command[1:]])
        trial = Trial(shown, is_ft=FT_FLAGS[0] in self.command, code=self.process.poll())
        for line in _text(self.told).splitlines():
            for name, value in json.loads(line).items():
                setattr(trial, name, value)
        trial.said = _text(self.said)[-_SAID_NBYTES:].strip()
        return trial


@contextmanager
def _trial_job(command: list[str], environment: Mapping[str, str]) -> Iterator[_TrialJob]:
    with tempfile.TemporaryDirectory(prefix="handoff-doctor-") as folder:
        told, said = Path(folder, "told"), Path(folder, "said")
        words = [*command, *python_program(f"from {__name__} import main", "main(sys.argv[1])"), str(told)]
        with said.open("wb") as stderr:
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": stderr}
            with started(words, environment, is_local=True, **streams) as process:
                yield _TrialJob(process, command, told, said)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# -- the ranks' side -----------------------------------------------------------------------------------


def main(path: str) -> NoReturn:
    """One rank of the trial; rank 0 writes to ``path``."""
    signal.alarm(round(TRIAL_S))  # ends this process if the doctor has ended, also inside a call of MPI
    from handoff_mpi.comm import mpi, mpi_info, mpi_transport

    comm = mpi.world()
    if comm.Get_rank() == 0:
        _write(path, library=mpi_info.library(), thread_level=mpi_info.thread_level(), size=comm.Get_size())
    if comm.Get_size() == RANKS:
        mpi.wait_for_all(comm, _STARTED_S)
        transport = mpi_transport.MPITransport(comm)
        if transport.rank:
            _obey(transport)
        _observe(transport, path)
    os._exit(0)


def _obey(transport: Any) -> NoReturn:
    while True:
        for each in transport.poll():
            order = getattr(each, "message", ("",))[0]
            if order == _DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            elif order == _ECHO:
                transport.send(0, (_ECHO,))
            elif order == _EXIT:
                os._exit(1)
        time.sleep(0.001)


def _observe(transport: Any, path: str) -> None:
    """Rank 0: have rank 1 killed, see whether rank 2 and this one continue, then let rank 2 leave."""
    _write(path, is_started=True)
    transport.send(1, (_DIE,))
    told_s = _wait(transport, lambda each: getattr(each, "rank", None) == 1, _TOLD_S)
    transport.send(2, (_ECHO,))
    echo_s = _wait(transport, lambda each: getattr(each, "message", None) == (_ECHO,), _TOLD_S)
    _write(path, told_s=told_s, goes_on=echo_s is not None)
    transport.send(2, (_EXIT,))
    exit_s = _wait(transport, lambda each: getattr(each, "rank", None) == 2, _EXIT_TOLD_S)
    _write(path, is_exit_told=exit_s is not None)


def _wait(transport: Any, is_it: Any, timeout_s: float) -> float | None:
    """Return after how many seconds something arrived, None if it did not."""
    start = time.monotonic()
    while (waited_s := time.monotonic() - start) < timeout_s:
        if any(is_it(each) for each in transport.poll()):
            return waited_s
        time.sleep(0.001)
    return None


def _write(path: str, **known: Any) -> None:
    with Path(path).open("a") as file:
        file.write(json.dumps(known) + "\n")
