"""Every way a function can take its process down, under every MPI and both isolations: does the run end well?

    python -m tests.faults.matrix [--kind KIND ...] [--way WAY ...] [--isolation ISOLATION ...]

In each cell a DAG of some honest functions and one culprit runs twice on 4 ranks: with a culprit that dies once and
then works (the run must end with the right values), and with one that always dies (it alone must fail, the honest
values must be right). A job that dies whole, as it must where MPI cannot survive a rank's death and functions run in
the ranks, is started again by the same command until it gives a verdict. MPICH takes part where HANDOFF_TEST_MPICH
names the mpiexec of an environment that has it and this package.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import handoff_mpi
from handoff_mpi.errors import EXIT_STOPPED, HandoffError
from handoff_mpi.results.status_file import read_status
from tests.faults.crash_kinds import HONEST, KINDS, WORTH
from tests.faults.launching import fresh, handoff_commands, launch, memory_cgroup

DAG = Path(__file__).with_name("crash_kinds.py")
ISOLATIONS = ("auto", "rank")
#: A culprit that takes its job along does so crash_limit times, and then once more in a child process of its own.
MOST_STARTS = 6
LIMIT_S = 120.0
HONEST_SUM = sum(number * number for number in range(HONEST))


@dataclass
class Cell:
    """The end of one run.

    Attributes:
        problems: what was not as promised; empty if all was.
        starts: how often the command had to be given.
        seconds: from the first start to the verdict.
    """

    problems: list[str]
    starts: int
    seconds: float

    def __str__(self) -> str:
        again = f" ({self.starts} starts)" if self.starts > 1 else ""
        return "; ".join(self.problems) or f"{self.seconds:.1f} s{again}"


def try_cell(kind: str, way: list[str], isolation: str, times: int, directory: Path, cgroup: Path | None) -> Cell:
    """Run one cell in ``directory``; the culprit dies ``times`` times."""
    fresh(directory)
    command = [*way, "--isolation", isolation, "--run-dir", "run", str(DAG), "--", kind, str(times), str(directory)]
    environment = {} if cgroup is None else {"HANDOFF_FAULTS_CGROUP": str(cgroup)}
    problems: list[str] = []
    seconds, starts, status = 0.0, 0, {}
    while starts < MOST_STARTS and not problems and status.get("exit_code") in (None, EXIT_STOPPED):
        starts += 1
        launched = launch(command, directory, environment)
        if launched.wait(LIMIT_S) is None:
            problems.append(f"hung: {launched.text()[-300:]}")
        seconds += launched.seconds
        problems += [f"left behind: {line}" for line in launched.leftovers()]
        status = read_status(directory / "run")
    return Cell(problems or judge(status, directory, times), starts, seconds)


def judge(status: dict[str, Any], directory: Path, times: int) -> list[str]:
    """Return what is wrong with a run that ended."""
    expected = 0 if times == 1 else 1
    if status.get("exit_code") != expected:
        return [f"exit code {status.get('exit_code')} instead of {expected}"]
    results = handoff_mpi.load(directory / "run")
    wanted = {"honest sum": HONEST_SUM} if expected else {"honest sum": HONEST_SUM, "sum": HONEST_SUM + WORTH}
    problems = []
    for id, value in wanted.items():
        try:
            if results[id] != value:
                problems.append(f"{id} is {results[id]}, not {value}")
        except HandoffError as error:
            problems.append(str(error))
    if expected and list(results.errors) != ["culprit"]:
        problems.append(f"{list(results.errors)} failed")
    return problems


def main(words: list[str]) -> int:
    """Print the matrix; return how many cells are not as promised."""
    ways = handoff_commands(4)
    parser = argparse.ArgumentParser(prog="python -m tests.faults.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", action="append", choices=[*KINDS])
    parser.add_argument("--way", action="append", choices=[*ways])
    parser.add_argument("--isolation", action="append", choices=ISOLATIONS)
    given = parser.parse_args(words)
    table = Table("isolation", "MPI", "the culprit", "dies once: all right", "always: it alone fails")
    wrong = 0
    console = Console(width=None if sys.stdout.isatty() else 120)
    with memory_cgroup(200 << 20) as cgroup, tempfile.TemporaryDirectory(prefix="handoff-faults-") as place:
        for isolation in given.isolation or ISOLATIONS:
            for way in given.way or ways:
                for kind in given.kind or KINDS:
                    if kind == "memory hog" and cgroup is None:
                        table.add_row(isolation, way, kind, "not tried: no memory cgroup to be had", "")
                        continue
                    cells = [
                        try_cell(kind, ways[way], isolation, times, Path(place, "cell"), cgroup) for times in (1, 99)
                    ]
                    wrong += sum(bool(cell.problems) for cell in cells)
                    table.add_row(isolation, way, kind, *map(str, cells))
                    print(isolation, way, kind, *cells, sep=" | ", file=sys.stderr, flush=True)
    console.print(table)
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
