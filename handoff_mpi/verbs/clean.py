"""``clean``: remove the files of runs that have ended; never those of a run that is running, or of somebody else."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator

from handoff_mpi.errors import EXIT_DONE, EXIT_FAILED, HandoffError, UsageError
from handoff_mpi.formatting import counted, noun_of_calls, one_line, show
from handoff_mpi.resources.amounts import format_nbytes
from handoff_mpi.results.run_lock import lock_run_dir
from handoff_mpi.verbs.run_dirs import RUNS
from handoff_mpi.verbs.runs import Run, find_runs

_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d{1,6})([mhdw])")
#: What handoff_mpi writes into a run-dir; a directory that holds anything else is not removed.
_OWN_FILES = re.compile(
    r"journal|values|spilled|output|questions|answers|lock|launch\.lock|\.(joined|arrived|stop|reserve|array)|\.probe-\w+"
    r"|(status|summary)\.json|events\.jsonl|report\.html|trace\.(json(\.gz)?|tsv)|[^/]*\.[0-9a-f]+\.partial"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    where = f"where the runs are (default: {RUNS})"
    parser.add_argument("directory", nargs="?", metavar="DIR", default=RUNS, help=where)
    parser.add_argument("--keep", type=_count, metavar="N", help="remove all but the newest N runs that have begun")
    parser.add_argument(
        "--older", type=_age, metavar="AGE", help="remove runs that began longer ago than this: 12h, 30d or 8w"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{show(text)} is not a whole number")
    return int(text)


def _age(text: str) -> float:
    found = _AGE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{show(text)} is not an age; write 12h, 30d or 8w")
    return float(int(found[1]) * _UNITS_S[found[2]])


def main(given: argparse.Namespace) -> int:
    """Show which runs are removed, ask, and remove them; return the exit code.

    Raises:
        UsageError: no condition is given, or stdin is not a terminal and --yes is missing.
    """
    if given.keep is None and given.older is None:
        raise UsageError("say which runs to remove: --keep 10 or --older 30d")
    runs, now = find_runs(given.directory), time.time()
    chosen = choose(runs, given.keep, given.older, now)
    if not chosen:
        why = why_kept(runs, given.keep, given.older, now) or f"there are no runs in {one_line(given.directory)}"
        print(f"no run is to be removed: {why}")
        return EXIT_DONE
    for run in chosen:
        size = format_nbytes(run.nbytes, " ")
        print(f"{one_line(str(run.path))}  {run.state}, {run.done} {noun_of_calls(run.status)} done, {size}")
    if not given.yes and not _agrees(len(chosen), sum(run.nbytes for run in chosen)):
        print("nothing was removed")
        return EXIT_DONE
    problems = [problem for run in chosen if (problem := remove(run))]
    for problem in problems:
        print(problem, file=sys.stderr)
    removed = len(chosen) - len(problems)
    what = f"{counted(removed, 'run')} {'was' if removed == 1 else 'were'} removed" if removed else "no run was removed"
    kept = f", {len(problems):,} {'is' if len(problems) == 1 else 'are'} kept" if problems else ""
    print(f"{what}{kept}")
    return EXIT_FAILED if problems else EXIT_DONE


def choose(runs: list[Run], keep: int | None, older_s: float | None, now: float) -> list[Run]:
    """Return which of ``runs``, the newest first, are to be removed: those that both conditions allow, of this user,
    that have ended. A run that was refused, and so holds nothing, does not count as one that is kept.
    """
    return [run for run, why in _judged(runs, keep, older_s, now) if not why]


def why_kept(runs: list[Run], keep: int | None, older_s: float | None, now: float) -> str:
    """Return why :func:`choose` leaves runs out: ``3 runs are running, 1 run is not yours``."""
    counts = Counter(why for _, why in _judged(runs, keep, older_s, now) if why)
    return ", ".join(f"{count:,} {'run is' if count == 1 else 'runs are'} {why}" for why, count in counts.items())


def _judged(runs: list[Run], keep: int | None, older_s: float | None, now: float) -> Iterator[tuple[Run, str]]:
    """Yield each run, and why it is not removed, or nothing."""
    begun = [run for run in runs if run.state != "refused"]
    kept = {run.path for run in begun[: keep or 0]}
    for run in runs:
        if run.is_live:
            yield run, "running"
        elif not run.is_own:
            yield run, "not yours"
        elif run.state == "unreadable":
            yield run, "unreadable"
        elif run.path in kept:
            yield run, "among the newest ones, which --keep keeps"
        else:
            is_young = older_s is not None and now - run.began_s < older_s
            yield run, "younger than --older says" if is_young else ""


def _agrees(count: int, nbytes: int) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("cannot ask whether to remove these runs: stdin is not a terminal; use --yes")
    try:
        question = f"remove {count:,} runs, {format_nbytes(nbytes, ' ')}? [y/N] "
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def remove(run: Run) -> str:
    """Remove a run, which nothing else uses meanwhile; return why it could not be removed, or nothing."""
    path = run.path
    try:
        with lock_run_dir(path):
            others = [name for name in sorted(os.listdir(path)) if not _OWN_FILES.fullmatch(name)]  # noqa: PTH208
            if others:
                more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
                named = ", ".join(map(one_line, others[:3])) + more
                return f"{one_line(str(path))} is kept: it holds other files ({named}); move them elsewhere"
            shutil.rmtree(path)
    except HandoffError as error:
        return f"{one_line(str(path))} is kept: {error}"
    except OSError as error:
        where = one_line(str(error.filename or path))
        return f"cannot remove {one_line(str(path))}: {where}: {error.strerror}; check the mode and the owner there"
    return ""
