"""Finds the run-dir that a subcommand reads: the one that is named, or the newest."""

from __future__ import annotations

import os
from pathlib import Path

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.results.run_dir import JOURNAL, STATUS
from handoff_mpi.suggestions import did_you_mean

#: Where runs keep their files that were not told where.
RUNS = "handoff-runs"
_MAX_LISTED = 10_000


def find_run_dir(given: str | None) -> Path:
    """Return the absolute path of the run-dir ``given``; of the newest one below ``handoff-runs`` if it is None.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    if given is None:
        return newest_run_dir()
    if not given or "\0" in given:
        raise UsageError(f"{show(given)} is not the path of a run-dir; name one, as in {RUNS}/20260131-120000")
    path = Path(given).absolute()
    try:
        if not path.is_dir():
            raise UsageError(f"{one_line(given)} is not a run-dir: {_why_not(path)}")
        if not is_run_dir(path):
            raise UsageError(f"{one_line(given)} is not a run-dir: no run has begun there{_near(path)}")
    except OSError as error:
        raise UsageError(f"the run-dir {one_line(given)} cannot be read: {error.strerror}; check its mode") from error
    return path


def find_run_dir_and_id(word: str | None, id: str | None) -> tuple[Path, str | None]:
    """Return the run-dir and the id; a single word that is no path is the id of a function of the newest run.

    Raises:
        UsageError: there is no such run-dir.
    """
    if word is not None and id is None and os.sep not in word and not os.path.lexists(word):
        try:
            return find_run_dir(None), word
        except UsageError:
            pass  # what is missing is a run-dir
    return find_run_dir(word), id


def newest_run_dir() -> Path:
    """Return the run-dir below ``handoff-runs`` that was begun last.

    Raises:
        UsageError: there is none.
    """
    above = Path(RUNS).absolute()
    try:
        found = [entry for entry in os.scandir(above) if entry.is_dir(follow_symlinks=False)]
        found = [entry for entry in found if is_run_dir(Path(entry.path))]
        if found:
            return Path(max(found, key=lambda entry: (entry.stat().st_mtime, entry.name)).path)
    except OSError:
        pass  # there is no such directory, or it cannot be read
    raise UsageError(f"there are no runs in {RUNS}; name a run-dir, or call it where the run was started")


def is_run_dir(path: Path) -> bool:
    """Return whether ``path`` holds files of a run."""
    return any(os.path.lexists(path / name) for name in (STATUS, JOURNAL))


def _why_not(path: Path) -> str:
    if os.path.lexists(path):
        return "it is not a directory" if path.exists() else "it is a link that leads nowhere"
    return f"there is no such directory{_near(path)}"


def _near(path: Path) -> str:
    """Return which run-dir beside ``path`` may have been meant."""
    try:
        beside = sorted(os.listdir(path.parent))[:_MAX_LISTED]  # noqa: PTH208 (names alone are wanted)
    except OSError:
        return ""
    names = [name for name in beside if name != path.name and is_run_dir(path.parent / name)]
    return did_you_mean(path.name, names, shown=one_line)
