"""The cost of recording: run time and CPU time with events and use of hosts recorded, against none, interleaved.

    python -m tests.benchmarks.recording [--ranks 3] [--repeats 5] [--json FILE]

The run time is the run's own, as ``status.json`` tells it; the CPU time is that of all its processes, their starts
included. It prints what an event costs that nobody listens to, in nanoseconds, too.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import timeit
from pathlib import Path

from handoff_mpi import telemetry
from handoff_mpi.results.status_file import read_status
from tests.benchmarks.harness import LIMIT_S, Answer, Setting, arguments, in_turns
from tests.faults.launching import fresh

DAG = Path(__file__).with_name("journal_dag.py")
WORKLOADS = {"50,000 no-ops": (50_000, 0.0), "10,000 functions of 1 ms": (10_000, 0.001)}
MODES = ("none", "summary", "calls")
_CALLS = 1_000_000


def ask(setting: Setting) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def durations(mode: str) -> dict[str, float]:
            found = {}
            for name, (count, seconds) in WORKLOADS.items():
                for ranks, where in ((setting.ranks, f"{setting.ranks} ranks"), (0, "one process")):
                    figures = measure(Path(place, "cell"), ranks, count // (10 if setting.quick else 1), seconds, mode)
                    found[f"{name}, {where}: run"], found[f"{name}, {where}: CPU"] = figures
            return found

        figures = in_turns({mode: (lambda mode=mode: durations(mode)) for mode in MODES}, setting.repeats)
    print(f"an event without handlers: {event_ns():.0f} ns")
    return Answer("time with recording", "none", figures, "s", setting.ranks)


def measure(directory: Path, ranks: int, functions: int, seconds: float, mode: str) -> tuple[float, float]:
    """Return how long one run took, and the CPU time of its processes; without ranks, in one process.

    Raises:
        RuntimeError: it did not end well.
    """
    fresh(directory)
    words = ["-n", str(ranks), "--isolation", "rank"] if ranks else []
    words += ["--run-dir", "run", "--progress", "none", "--report", "none", "--record", mode, str(DAG)]
    command = [sys.executable, "-m", "handoff_mpi", "run", *words, "--", str(functions), str(seconds), "on"]
    before = _cpu_s()
    run = subprocess.run(command, cwd=directory, capture_output=True, timeout=LIMIT_S, check=False)
    after = _cpu_s()
    status = read_status(directory / "run")
    if run.returncode or status.get("exit_code") != 0:
        raise RuntimeError(f"a run did not end well: {run.stderr.decode(errors='replace')[-500:]}")
    return float(status["duration_s"]), after - before


def event_ns() -> float:
    """Return what it costs to tell nobody of an event, in nanoseconds."""
    setting = {"execute": telemetry.execute, "event": telemetry.FUNCTION_STOP, "nothing": {}}
    taken_s = timeit.repeat("execute(event, nothing, nothing)", globals=setting, number=_CALLS, repeat=5)
    return min(taken_s) / _CALLS * 1e9


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
