"""What the journal and fault tolerance cost: run time with them against run time without, interleaved.

    python -m tests.benchmarks.journal [--ranks 3] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from handoff_mpi.results.run_dir import read_status
from tests.conftest import mpirun_command
from tests.faults.launching import fresh, launch

DAG = Path(__file__).with_name("journal_dag.py")
WORKLOADS = {"10,000 functions of 1 ms": (10_000, 0.001), "50,000 no-ops": (50_000, 0.0)}
#: name: (fault tolerance, journal)
SETTINGS = {"neither": (False, "off"), "journal": (False, "on"), "ft": (True, "off"), "both": (True, "on")}
LIMIT_S = 120.0


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


def measure(ranks: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return, for each workload and setting, the durations of all repeats in seconds."""
    seen: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
        for name, (functions, seconds) in WORKLOADS.items():
            times: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
            for _ in range(repeats):
                for setting, (ft, journal) in SETTINGS.items():
                    times[setting].append(duration(Path(place, "cell"), ranks, functions, seconds, ft, journal))
            seen[name] = times
    return seen


def ratios(times: dict[str, list[float]], setting: str) -> list[float]:
    """Return what ``setting`` took against neither, repeat by repeat."""
    return [mine / base for mine, base in zip(times[setting], times["neither"], strict=True)]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.journal", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    seen = measure(given.ranks, given.repeats)
    table = Table("workload", "neither: functions/s", *[f"{setting}: ratio of run time" for setting in [*SETTINGS][1:]])
    report: dict[str, Any] = {"ranks": given.ranks, "repeats": given.repeats, "seconds": seen}
    for name, times in seen.items():
        cells = []
        for setting in [*SETTINGS][1:]:
            each = ratios(times, setting)
            cells.append(f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})")
        rate = WORKLOADS[name][0] / statistics.median(times["neither"])
        table.add_row(name, f"{rate:,.0f}", *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
