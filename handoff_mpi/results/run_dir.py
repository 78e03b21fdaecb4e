"""A run's directory: the names of its files, and making it.

:mod:`~handoff_mpi.results.run_lock` locks it, :mod:`~handoff_mpi.results.status_file` writes its status,
:mod:`~handoff_mpi.results.supervision` has the files by which a supervisor and its launch speak to each other.
:mod:`~handoff_mpi.results.trust` says which users may write to it, and to the directories above it;
:mod:`~handoff_mpi.results.secure_files` opens all files.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from handoff_mpi.console import print_message
from handoff_mpi.errors import UntrustedFile, UsageError
from handoff_mpi.process_context import this_process
from handoff_mpi.results.secure_files import Directory, open_directory, open_new_directory

STATUS = "status.json"
#: Locked by the process that runs the DAG: rank 0.
LOCK = "lock"
#: Locked from the start to the end by the process that was started on the run-dir: the supervisor of ``run -n``, or a
#: rank 0 that has none.
LAUNCH_LOCK = "launch.lock"
JOURNAL = "journal"
VALUES = "values"
#: Below the run-dir: values that ranks moved out of their memory.
SPILLED = "spilled"
#: The remedy for a run-dir that cannot be used.
ANOTHER = "name another with --run-dir"


def make_run_dir(wanted: str | os.PathLike[str] | None) -> Path:
    """Make and return the directory of a run, as :func:`use_run_dir` does, for one who opens it later.

    Raises:
        UsageError: it cannot be made or written to, or others can write to it.
    """
    with use_run_dir(wanted) as directory:
        return directory.path


def use_run_dir(wanted: str | os.PathLike[str] | None) -> Directory:
    """Make and open the directory of a run: ``wanted``, or a new timestamped one under ``handoff-runs/``.

    Group write permission is taken from one that is the user's own; that is said.

    Raises:
        UsageError: it cannot be made or written to, or others can write to it or replace it.
    """
    path = Path("handoff-runs" if wanted is None else wanted)
    try:
        path = path.absolute()
        if wanted is None:
            directory = this_process.of(FreshRunDirs).open(path)
        else:
            directory = open_directory(path, makes=True, closes_to_group=True)
        path = directory.path
        try:
            if wanted is not None:
                _close_to_group(directory)
                _refuse_what_is_in_the_way(directory)
            _probe(directory)
        except BaseException:
            directory.close()
            raise
    except UntrustedFile:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(_why_not(path, error)) from error
    return directory


def _probe(directory: Directory) -> None:
    """Make a file and remove it.

    Raises:
        OSError: naming the directory.
    """
    name = f".probe-{os.urandom(4).hex()}"
    try:
        os.close(directory.create(name))
        directory.remove(name)
    except OSError as error:
        error.filename = str(directory.path)
        raise


def _why_not(path: Path, error: OSError | ValueError) -> str:
    for each in (path, *path.parents):
        if isinstance(error, NotADirectoryError) and os.path.lexists(each) and not each.is_dir():
            return f"the run-dir {path}: {each} is not a directory; {ANOTHER}"
    why = str(error)
    if isinstance(error, OSError) and error.strerror:
        where = error.filename
        why = error.strerror if where in (None, str(path)) else f"{where}: {error.strerror}"
    return f"the run-dir {path} cannot be used: {why}; {ANOTHER}"


def _close_to_group(directory: Directory) -> None:
    closed = [directory.path] if directory.was_open_to_group else []
    for name in (JOURNAL, VALUES, SPILLED):
        status = directory.status(name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            with directory.child(name, closes_to_group=True) as child:
                closed += [child.path] if child.was_open_to_group else []
    if closed:
        where = ", ".join(map(str, closed))
        print_message(f"group write permission was removed from {where}: a run executes what it reads there")


def _refuse_what_is_in_the_way(directory: Directory) -> None:
    """A run has never made such things, so they are somebody's, and ``--fresh`` must not remove them either.

    Raises:
        UsageError: naming the first.
    """
    for name, is_directory in ((JOURNAL, True), (VALUES, True), (SPILLED, True), (STATUS, False), (LOCK, False)):
        status = directory.status(name)
        if status is not None and stat.S_ISDIR(status.st_mode) != is_directory:
            kind = "not a directory" if is_directory else "a directory"
            each = directory.path / name
            raise UsageError(
                f"the run-dir {directory.path} cannot be used: {each} is {kind}; move it away, or {ANOTHER}"
            )


class FreshRunDirs:
    """Makes run-dirs named by the time of day.

    A part of the process context, as it remembers the last name: a loop of small runs makes many within a second, and
    would try them all each time.
    """

    def __init__(self) -> None:
        self._stamp = ""
        self._serial = -1

    def open(self, parent: Path) -> Directory:
        """Make and open a new directory in ``parent``, which need not be the user's own, only safe.

        Raises:
            OSError: it cannot be made.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        first = self._serial + 1 if self._stamp == stamp else 0
        for serial in range(first, first + 1000):
            directory = open_new_directory(parent / (f"{stamp}-{serial}" if serial else stamp))
            if directory is not None:
                self._stamp, self._serial = stamp, serial
                return directory
        raise OSError(f"{parent} holds a thousand runs of this second")
