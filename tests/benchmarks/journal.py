"""The cost of the journal and of fault tolerance: run time with them against run time without, interleaved.

    python -m tests.benchmarks.journal [--ranks 3] [--repeats 5] [--json FILE]

The run time is the run's own, as ``status.json`` tells it, without the launch.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from handoff_mpi.results.status_file import read_status
from tests.benchmarks.harness import LIMIT_S, Answer, Setting, arguments, in_turns
from tests.conftest import mpirun_command
from tests.faults.launching import fresh, launch

DAG = Path(__file__).with_name("journal_dag.py")
WORKLOADS = {"10,000 functions of 1 ms": (10_000, 0.001), "50,000 no-ops": (50_000, 0.0)}
NEITHER = "neither"
#: name: (fault tolerance, journal)
SETTINGS = {NEITHER: (False, "off"), "journal": (False, "on"), "ft": (True, "off"), "both": (True, "on")}


def ask(setting: Setting) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def durations(ft: bool, journal: str) -> dict[str, float]:
            return {
                name: duration(Path(place, "cell"), setting.ranks, count, seconds, ft, journal)
                for name, (count, seconds) in WORKLOADS.items()
                if not (seconds and setting.quick)
            }

        names = (NEITHER, "both") if setting.quick else SETTINGS
        contenders = {name: (lambda settings=SETTINGS[name]: durations(*settings)) for name in names}
        figures = in_turns(contenders, setting.repeats)
    return Answer("run time with the journal and fault tolerance", NEITHER, figures, "s", setting.ranks)


def duration(directory: Path, ranks: int, functions: int, seconds: float, ft: bool, journal: str) -> float:
    """Return how long one run took, without its launch.

    Raises:
        RuntimeError: it did not end well.
    """
    fresh(directory)
    words = ["-m", "handoff_mpi", "run", "--isolation", "rank", "--run-dir", "run", str(DAG), "--"]
    command = [*mpirun_command(ranks, ft), sys.executable, *words, str(functions), str(seconds), journal]
    launched = launch(command, directory)
    launched.wait(LIMIT_S)
    status = read_status(directory / "run")
    if status.get("exit_code") != 0:
        raise RuntimeError(f"a run did not end well: {launched.text()[-1000:]}")
    return float(status["duration_s"])


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
