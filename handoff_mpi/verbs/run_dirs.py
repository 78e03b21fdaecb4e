"""Finds the run-dir that a subcommand reads: the one that is named, or the newest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.results.run_dir import JOURNAL, STATUS
from handoff_mpi.suggestions import did_you_mean

#: Where runs keep their files that were not told where.
RUNS = "handoff-runs"
#: What ``--help`` says of a run-dir that need not be named.
OF_THE_RUN = f"directory of the run (default: the newest one in {RUNS} or in this directory)"
#: So many entries of a directory are looked at.
MAX_ENTRIES = 10_000


def find_run_dir(given: str | None) -> Path:
    """Return the absolute path of the run-dir ``given``; of the newest one if it is None: see :func:`default_run_dirs`.

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
            raise UsageError(f"{one_line(given)} is not a run-dir: no run has begun there{_below(path) or _near(path)}")
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
        except UsageError as error:
            raise UsageError(f"{one_line(word)} is neither a run-dir nor the id of a function: {error}") from error
    return find_run_dir(word), id


def newest_run_dir() -> Path:
    """Return the run-dir that was changed last, of those that :func:`default_run_dirs` yields.

    Raises:
        UsageError: there is none.
    """
    newest = max(default_run_dirs(), key=_changed, default=None)
    if newest is None:
        where = f"there are no runs in {RUNS} and in the current directory ({one_line(str(Path.cwd()))})"
        raise UsageError(f"{where}; name a run-dir, or list those of another directory with `handoff-mpi runs DIR`")
    return newest


def default_run_dirs() -> Iterator[Path]:
    """Yield the run-dirs that are meant where none is named.

    These are those below ``handoff-runs``, and those below the current directory, or that itself if it is a run-dir.
    Anybody may write into some directories (``/tmp``), so run-dirs of third persons below the current one are left out.
    """
    here = Path.cwd()
    if _is_run_dir(here):
        yield here
        return
    yield from run_dirs_below(here / RUNS)
    try:
        owners = {os.geteuid(), here.stat().st_uid}
    except OSError:
        return
    yield from (path for path in run_dirs_below(here) if _owner(path) in owners)


def run_dirs_below(directory: Path) -> Iterator[Path]:
    """Yield the run-dirs in ``directory``, without links; nothing if it cannot be read."""
    try:
        with os.scandir(directory) as entries:
            found = [entry.path for entry in islice(entries, MAX_ENTRIES) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    yield from filter(_is_run_dir, map(Path, found))


def is_run_dir(path: Path) -> bool:
    """Return whether ``path`` holds files of a run."""
    return any(os.path.lexists(path / name) for name in (STATUS, JOURNAL))


def shown_run_dir(path: Path) -> str:
    """Return ``path`` as a user here would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _is_run_dir(path: Path) -> bool:
    try:
        return is_run_dir(path)
    except OSError:
        return False


def _changed(path: Path) -> tuple[float, str]:
    try:
        return path.lstat().st_mtime, path.name
    except OSError:  # it was removed meanwhile
        return 0.0, path.name


def _owner(path: Path) -> int:
    try:
        return path.lstat().st_uid
    except OSError:
        return -1


def _why_not(path: Path) -> str:
    if os.path.lexists(path):
        return "it is not a directory" if path.exists() else "it is a link to a missing file"
    return f"there is no such directory{_near(path)}"


def _below(path: Path) -> str:
    """Return which run-dir in ``path`` may have been meant."""
    newest = max(chain(run_dirs_below(path), run_dirs_below(path / RUNS)), key=_changed, default=None)
    if newest is None:
        return ""
    return f"; it holds runs: the newest is {one_line(shown_run_dir(newest.resolve()))}"


def _near(path: Path) -> str:
    """Return which run-dir beside ``path`` may have been meant, or else what lists run-dirs."""
    names = sorted(each.name for each in run_dirs_below(path.parent) if each != path)
    return did_you_mean(path.name, names, shown=one_line) or "; `handoff-mpi runs` lists the runs here"
