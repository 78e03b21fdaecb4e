"""``runs``: the runs of all users below a directory; nothing is unpickled."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.formatting import duration_text, one_line, total_text
from handoff_mpi.resources.amounts import format_nbytes
from handoff_mpi.results.run_status import RUNNING, find_states, is_ended
from handoff_mpi.verbs.run_dirs import RUNS, default_run_dirs, is_run_dir, run_dirs_below, shown_run_dir

#: So many files of a run are counted.
MAX_FILES = 1_000_000
_MAX_CHARS = 500
_HEADING = ("run", "state", "began", "age", "done", "size")
_LEFT = ("run", "state", "began")
_YEAR_5000_S = 95_617_584_000


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        state: "running", "died", "unreadable", or what its verdict says.
        status: the fields of its ``status.json``.
        began_s: when its newest launch began, in seconds since the epoch; when the directory was changed if unknown.
        nbytes: the size of its files.
        is_own: whether this user owns it.
    """

    path: Path
    state: str
    status: dict[str, object]
    began_s: float
    nbytes: int
    is_own: bool

    @property
    def is_live(self) -> bool:
        return self.state == RUNNING

    @property
    def done(self) -> str:
        """How many functions are done of how many."""
        counts = self.status.get("counts")
        done = counts.get("done") if isinstance(counts, dict) else self.status.get("done")
        total = self.status.get("functions")
        return f"{done:,}/{total_text(self.status, total)}" if isinstance(done, int) and isinstance(total, int) else "?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("directory", nargs="?", metavar="DIR", help=f"where to look (default: {RUNS} and here)")
    parser.add_argument("--json", action="store_true", help="print them as data")


def main(given: argparse.Namespace) -> int:
    """List the runs; return the exit code.

    Raises:
        UsageError: the directory cannot be read.
    """
    runs = find_runs(given.directory)
    if given.json:
        print(json.dumps([_as_data(run) for run in runs]))
    elif runs:
        print("\n".join(_lines(runs)))
    else:
        where = f"{RUNS} and in the current directory" if given.directory is None else one_line(given.directory)
        print(f"there are no runs in {where}; `handoff-mpi runs DIR` looks elsewhere")
    return EXIT_DONE


def find_runs(directory: str | None) -> list[Run]:
    """Return the runs below ``directory``, or that itself if it is a run-dir; the newest first.

    Args:
        directory: None for those that :func:`handoff_mpi.verbs.run_dirs.default_run_dirs` yields.

    Raises:
        UsageError: it cannot be read.
    """
    paths = list(default_run_dirs()) if directory is None else _run_dirs_in(directory)
    states = find_states(paths)
    return sorted((_run(path, *states[path]) for path in paths), key=lambda run: (run.began_s, run.path), reverse=True)


def _run_dirs_in(directory: str) -> list[Path]:
    above = Path(directory).absolute()
    try:
        os.scandir(above).close()
        return [above] if is_run_dir(above) else list(run_dirs_below(above))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{one_line(directory)} cannot be read: {why}; name the directory that holds runs") from error


def _run(path: Path, state: str, status: dict[str, object]) -> Run:
    about = path.lstat()
    began = status.get("started_s")
    if not status and not os.access(path, os.R_OK | os.X_OK):
        state = "unreadable"
    began_s = float(began) if isinstance(began, (int, float)) else about.st_mtime
    return Run(path, state, status, began_s, nbytes_below(path), about.st_uid == os.geteuid())


def nbytes_below(path: Path) -> int:
    """Return how many bytes the files below ``path`` take. Links are not followed."""
    total, files, waiting = 0, 0, [path]
    while waiting and files < MAX_FILES:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    files += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            pass
    return total


def _lines(runs: list[Run]) -> Iterator[str]:
    """Yield a heading, and for each run a line, and another that says how to resume it where that makes sense."""
    rows = [_HEADING, *(_row(run) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, run in zip(rows, [None, *runs], strict=True):
        cells = [
            f"{cell:{'<' if name in _LEFT else '>'}{width}}"
            for cell, name, width in zip(row, _HEADING, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()
        if run is not None and (resume := _resume(run)):
            yield f"    to resume: {resume}"


def _row(run: Run) -> tuple[str, ...]:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began_s)) if 0 <= run.began_s < _YEAR_5000_S else "?"
    age = duration_text(max(0.0, time.time() - run.began_s))
    state = one_line(run.state if run.is_own else f"{run.state} (not yours)")
    return one_line(shown_run_dir(run.path), _MAX_CHARS), state, began, age, run.done, format_nbytes(run.nbytes, " ")


def _resume(run: Run) -> str:
    """Return the command that resumes a run of this user that is not done."""
    command = run.status.get("resume")
    if run.state in ("done", RUNNING) or not run.is_own or not isinstance(command, str):
        return ""
    where = str(run.status.get("directory"))
    place = "" if where == str(Path.cwd()) else f"   (in {one_line(where, _MAX_CHARS)})"
    return f"{one_line(command, _MAX_CHARS)}{place}"


def _as_data(run: Run) -> dict[str, object]:
    about = {"run_dir": str(run.path), "state": run.state, "began_s": run.began_s, "nbytes": run.nbytes}
    about["is_own"] = run.is_own
    ended = {"exit_code": run.status.get("exit_code")} if is_ended(run.status) else {}
    return {**about, **ended, "functions": run.status.get("functions"), "resume": run.status.get("resume")}
