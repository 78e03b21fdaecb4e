"""``export``: what happened in a run, for archives (RO-Crate) and simulators (WfFormat); nothing is unpickled."""

from __future__ import annotations

import argparse
import errno
import os
import secrets
import shutil
import sys
import time
from pathlib import Path

from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.formatting import one_line
from handoff_mpi.results.anybodys_story import AnybodysReader, read_anybodys
from handoff_mpi.results.story import Story
from handoff_mpi.results.whole_files import write_whole
from handoff_mpi.verbs.run_dirs import OF_THE_RUN, find_run_dir
from handoff_mpi.visualization.ro_crate import CrateAbout, crate_files, refuse_without_library
from handoff_mpi.visualization.wfformat import wfformat_pieces

_MAX_WORKFLOW_NBYTES = 16 << 20
_MAX_CHARS = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("run_dir", nargs="?", metavar="RUN-DIR", help=OF_THE_RUN)
    add("--rocrate", metavar="DIR", help="make this directory: a Workflow Run RO-Crate, for repositories")
    add("--wfformat", metavar="FILE", help="write this file: the run in WfFormat 1.5, for WfCommons and simulators")
    what = "with --rocrate: the file that made the DAG (default: the one that your own run names, if it is there)"
    add("--workflow", metavar="FILE", help=what)
    add("--license", metavar="URL", default="", help="with --rocrate: the license of its contents")
    add("--author", metavar="NAME", default="", help="with --rocrate: the author of the run")


def main(given: argparse.Namespace) -> int:
    """Write what the arguments ask for, and print where it is; return the exit code.

    Raises:
        UsageError: there is no such run, a library is missing, or a file cannot be read or written.
        JournalError: the journal cannot be read.
    """
    if given.rocrate is None and given.wfformat is None:
        raise UsageError("nothing to export is named; add --rocrate DIR or --wfformat FILE")
    if given.rocrate is not None:
        refuse_without_library()
        _refuse_existing(Path(given.rocrate))
    _, story, is_own = read_anybodys(find_run_dir(given.run_dir), AnybodysReader)
    now = time.time()
    for note in story.notes:
        print(note, file=sys.stderr)
    if given.wfformat is not None:
        path = Path(given.wfformat).absolute()
        try:
            write_whole(path, wfformat_pieces(story, now))
        except (OSError, ValueError) as error:
            raise _unwritable(path, error, "--wfformat") from error
        print(one_line(str(path)))
    if given.rocrate is not None:
        path = Path(given.rocrate).absolute()
        about = _about(story, is_own, given, now)
        _write_crate(path, story, about)
        for note in about.notes:
            print(note, file=sys.stderr)
        print(one_line(str(path)))
    return EXIT_DONE


def _unwritable(path: Path, error: Exception, flag: str) -> UsageError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return UsageError(f"cannot write {one_line(str(path), _MAX_CHARS)}: {why}; name another with {flag}")


# -- the workflow's file ---------------------------------------------------------------------------------


def _about(story: Story, is_own: bool, given: argparse.Namespace, now: float) -> CrateAbout:
    notes: list[str] = []
    texts = {"license": one_line(given.license, _MAX_CHARS), "author": one_line(given.author, _MAX_CHARS)}
    if given.workflow is not None:
        path = Path(given.workflow)
        try:
            return CrateAbout(path, _read(path), now, notes=notes, **texts)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"cannot read {one_line(str(path), _MAX_CHARS)}: {why}; name another file") from error
    recorded, content = _recorded(story, is_own, notes)
    return CrateAbout(recorded, content, now, notes=notes, **texts)


def _recorded(story: Story, is_own: bool, notes: list[str]) -> tuple[Path | None, bytes]:
    """Return the file that the run names, and what it holds; None if it cannot be known to be that of the run."""
    named = story.launches[-1].about.get("file")
    add = "name it with --workflow FILE; without it the graph stands for the workflow"
    if not is_own or not isinstance(named, str) or not named.endswith(".py"):
        # A journal of somebody else's, or a copy of it, could name a private file of this user's to have it published.
        notes.append(f"the file of the DAG is unknown: the run does not record it, or is another user's; {add}")
        return None, b""
    path = Path(named)
    try:
        content = _read(path)
        if path.stat().st_mtime > story.launches[-1].started_s:
            notes.append(f"{one_line(str(path), _MAX_CHARS)} was changed after the newest launch had begun")
        return path, content
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        notes.append(f"cannot read {one_line(str(path), _MAX_CHARS)}, the file of the DAG: {why}; {add}")
        return None, b""


def _read(path: Path) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else, or too large.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(_MAX_WORKFLOW_NBYTES + 1)
    if len(content) > _MAX_WORKFLOW_NBYTES:
        raise ValueError(f"it is larger than {_MAX_WORKFLOW_NBYTES >> 20} MB")
    return content


# -- the crate -------------------------------------------------------------------------------------------


def _refuse_existing(path: Path) -> None:
    try:
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            what = "is not empty" if path.is_dir() else "is not a directory"
            raise UsageError(f"--rocrate {one_line(str(path), _MAX_CHARS)} {what}; name one that is not there")
    except (OSError, ValueError) as error:
        raise _unwritable(path, error, "--rocrate") from error


def _write_crate(path: Path, story: Story, about: CrateAbout) -> None:
    """Make the directory, whole or not at all."""
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.partial")
    try:
        partial.mkdir()
        for name, pieces in crate_files(story, about):
            write_whole(partial / name, pieces)
        partial.rename(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
            raise UsageError(f"{one_line(str(path), _MAX_CHARS)} is not empty; name another with --rocrate") from error
        raise _unwritable(path, error, "--rocrate") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
