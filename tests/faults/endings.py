"""Every way a script can end, on 2 to 8 ranks: do all ranks end, within seconds, and with which status?

    python -m tests.faults.endings [--ranks N ...] [--how HOW ...] [--way WAY ...] [--others OTHERS ...] [--mpi MPI ...]

A cell is one launch of :mod:`tests.faults.ends`. It is all right if mpirun ends with the status that Python would give
(where that is a matter of rank 0 alone), within LIMIT_S seconds, leaves no process behind, and if ranks that still work
when rank 0 has ended well are left to it. A rank that waits in MPI for a rank 0 that has ended well waits for ever in
any MPI program, unless its MPI is fault-tolerant: such cells are tried with fault tolerance only.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conftest import mpirun_command
from tests.faults.ends import HOWS, WORK_S
from tests.faults.launching import fresh, launch, mpich_python

SCRIPT = Path(__file__).with_name("ends.py")
OTHERS = ("end", "barrier", "recv", "work")
WAYS = ("script", "cluster")
LIMIT_S = 25.0
_ENDS_WELL = frozenset({"normal", "exit(0)", "thread raises", "thread exits"})


def launchers(ranks: int) -> dict[str, list[str]]:
    """Return, for each MPI that this machine has, the words before the script."""
    found = {
        "ft": [*mpirun_command(ranks, ft=True), sys.executable],
        "no ft": [*mpirun_command(ranks), sys.executable],
    }
    python = mpich_python()
    if python is not None:
        found["MPICH"] = [str(Path(python).with_name("mpiexec")), "-n", str(ranks), python]
    return found


def is_sensible(how: str, others: str, mpi: str, ranks: int) -> bool:
    """Whether a cell says something about this package: see above."""
    if how.startswith("STOP") and ranks == 2:
        return False  # nobody is left who could end the rank that is stopped
    if others == "end":
        return True
    if how in _ENDS_WELL and others in ("barrier", "recv"):
        return mpi == "ft"
    return not (how.startswith("rank 1") and others != "barrier")


def judge(how: str, others: str, status: int | None, directory: Path, ranks: int) -> str:
    """Return what is wrong with a cell; empty if nothing is."""
    if status is None:
        return "HANGS"
    expected = HOWS[how]
    if how in _ENDS_WELL and others in ("barrier", "recv"):
        return ""  # the ranks that waited have failed
    if (expected is None and status == 0) or (expected is not None and status != expected):
        return f"status {status} instead of {expected if expected is not None else 'a failure'}"
    worked = len([*directory.glob("worked*")])
    if how in _ENDS_WELL and others == "work" and worked != ranks - 1:
        return f"{ranks - 1 - worked} ranks were ended at work"
    return ""


def try_cell(ranks: int, how: str, way: str, others: str, mpi: str, directory: Path) -> tuple[str, bool]:
    """Run one cell; return what to say about it, and whether all is right."""
    fresh(directory)
    limit_s = LIMIT_S + (WORK_S if others == "work" else 0)
    launched = launch([*launchers(ranks)[mpi], str(SCRIPT), how, way, others, str(directory)], directory)
    try:
        status = launched.wait(limit_s)
    except BaseException:  # a user who ends this command wants no ranks left spinning
        launched.kill()
        raise
    problem = judge(how, others, status, directory, ranks)
    left = launched.leftovers()
    if left and status is not None:
        problem = problem or f"left behind: {left[0]}"
    text = f"{launched.seconds:.1f} s, status {status}"
    return (f"{text}: {problem}" if problem else text), not problem


def main(words: list[str]) -> int:
    """Print the table; return how many cells are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.endings", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", action="append", type=int)
    parser.add_argument("--how", action="append", choices=[*HOWS])
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--others", action="append", choices=OTHERS)
    parser.add_argument("--mpi", action="append", choices=[*launchers(2)])
    given = parser.parse_args(words)
    rank_counts = given.ranks or [2, 3, 4, 5, 8]
    table = Table("rank 0 ends by", "way", "MPI", "the others", *(f"{ranks} ranks" for ranks in rank_counts))
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="handoff-endings-") as place:
        choices = (given.mpi or launchers(2), given.way or WAYS, given.how or HOWS, given.others or OTHERS)
        for mpi, way, how, others in itertools.product(*choices):
            cells = [
                try_cell(ranks, how, way, others, mpi, Path(place, "cell"))
                if is_sensible(how, others, mpi, ranks)
                else ("", True)
                for ranks in rank_counts
            ]
            if not any(text for text, _ in cells):
                continue
            wrong += sum(not is_right for _, is_right in cells)
            table.add_row(how, way, mpi, others, *(text for text, _ in cells))
            print(mpi, way, how, others, *(text for text, _ in cells), sep=" | ", file=sys.stderr, flush=True)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return wrong


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(min(1, main(sys.argv[1:])))
