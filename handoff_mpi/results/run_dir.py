"""A run's directory: making it, its locks, and its ``status.json``.

:mod:`~handoff_mpi.results.trust` says which users may write to it, and to the directories above it;
:mod:`~handoff_mpi.results.secure_files` opens all files.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handoff_mpi.console import print_message
from handoff_mpi.errors import EXIT_STOPPED, JournalError, RunDirBusy, UntrustedFile, UsageError
from handoff_mpi.results.secure_files import PRIVATE_MODE, Directory, open_directory, open_new_directory, opened

STATUS = "status.json"
#: Locked by the process that runs the DAG: rank 0.
LOCK = "lock"
#: Locked from the start to the end by the process that was started on the run-dir: the supervisor of ``run -n``, or a
#: rank 0 that has none.
LAUNCH_LOCK = "launch.lock"
JOINED = ".joined"
ARRIVED = ".arrived"
STOP = ".stop"
JOURNAL = "journal"
VALUES = "values"
#: Below the run-dir: values that ranks moved out of their memory.
SPILLED = "spilled"
#: Names, by the supervisor's mark, whose launch this is: the next one of the same supervisor may take the lock away.
LAUNCHED_BY = "HANDOFF_LAUNCHED_BY"

#: A rank 0 that was killed, or whose launcher was, has ended by then.
LOCK_WAIT_S = 5.0
_ANOTHER = "name another with --run-dir"
# What file systems answer that know no locks.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_RESERVE = ".reserve"
_RESERVE_NBYTES = 64 * 1024
_HELD_BY_ANOTHER = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})


def make_run_dir(wanted: Any) -> Path:
    """Make and return the directory of a run, as :func:`use_run_dir` does, for one who opens it later.

    Raises:
        UsageError: it cannot be made or written to, or others can write to it.
    """
    with use_run_dir(wanted) as directory:
        return directory.path


def use_run_dir(wanted: Any) -> Directory:
    """Make and open the directory of a run: ``wanted``, or a new timestamped one under ``handoff-runs/``.

    Group write permission is taken from one that is the user's own; that is said.

    Raises:
        UsageError: it cannot be made or written to, or others can write to it or replace it.
    """
    path = Path("handoff-runs" if wanted is None else wanted)
    try:
        path = path.absolute()
        directory = _open_fresh(path) if wanted is None else open_directory(path, makes=True, closes_to_group=True)
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
            return f"the run-dir {path}: {each} is not a directory; {_ANOTHER}"
    why = str(error)
    if isinstance(error, OSError) and error.strerror:
        where = error.filename
        why = error.strerror if where in (None, str(path)) else f"{where}: {error.strerror}"
    return f"the run-dir {path} cannot be used: {why}; {_ANOTHER}"


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
                f"the run-dir {directory.path} cannot be used: {each} is {kind}; move it away, or {_ANOTHER}"
            )


#: The time of day and the serial number of the last directory that was made fresh: a loop of small runs makes many.
_last_fresh = ("", -1)


def _open_fresh(parent: Path) -> Directory:
    """Make a directory named by the time of day in ``parent``, which need not be the user's own, only safe."""
    global _last_fresh
    stamp = time.strftime("%Y%m%d-%H%M%S")
    first = _last_fresh[1] + 1 if _last_fresh[0] == stamp else 0
    for serial in range(first, first + 1000):
        name = f"{stamp}-{serial}" if serial else stamp
        directory = open_new_directory(parent / name)
        if directory is not None:
            _last_fresh = stamp, serial
            return directory
    raise OSError(f"{parent} holds a thousand runs of this second")


# -- its lock ------------------------------------------------------------------------------------------


class RunLock:
    """The sole use of a run-dir, until it is closed or its process ends, however that happens.

    Args:
        fd: of the locked file; -1 where nothing is locked.
        outer: another lock, which is closed with this one.

    Attributes:
        note: why nothing is locked after all; empty if it is.
    """

    def __init__(self, fd: int, note: str = "", outer: RunLock | None = None) -> None:
        self.note = note
        self._fd = fd
        self._outer = outer
        if fd >= 0:
            _held.add(self)

    def close(self) -> None:
        """Let others use the run-dir."""
        if self._fd >= 0:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError:
                pass  # closing does it as well
            self._leave()
        if self._outer is not None:
            self._outer.close()

    def _leave(self) -> None:
        _held.discard(self)
        fd, self._fd = self._fd, -1
        os.close(fd)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_held: set[RunLock] = set()


def _leave_all() -> None:
    # A lock lasts until the last process that shares it has closed it, and a forked one may outlive the run.
    for lock in list(_held):
        lock._leave()


os.register_at_fork(after_in_child=_leave_all)


def lock_run_dir(run_dir: Path | Directory) -> RunLock:
    """Lock ``run_dir`` against other launches; where the file system knows no locks, the lock has a note instead.

    A launch that has no supervisor takes the supervisor's lock as well, so that none begins beside it.
    The files stay when the locks are released: to delete one would let two launches lock two files of that name.

    Raises:
        UsageError: another process has locked it, or it cannot be written to.
    """
    with _usable(run_dir) as directory:
        if _mark:
            return RunLock(*_lock(directory, LOCK))
        outer = RunLock(*_lock(directory, LAUNCH_LOCK))
        try:
            return RunLock(*_lock(directory, LOCK), outer)
        except BaseException:
            outer.close()
            raise


def lock_run_dir_soon(run_dir: Path | Directory, wait_s: float = LOCK_WAIT_S) -> RunLock:
    """As :func:`lock_run_dir`, but give a process that is just dying ``wait_s`` seconds to let go of it.

    An earlier launch of the same supervisor that still holds it then is on a host that was lost: the lock is taken
    away from it, and it leaves once it sees the journal of this launch.

    Raises:
        UsageError: as there.
    """
    try:
        return _soon(lambda: lock_run_dir(run_dir), wait_s)
    except RunDirBusy:
        with _usable(run_dir) as directory:
            if not _is_of_our_supervisor(directory):
                raise
            directory.remove(LOCK)
        return lock_run_dir(run_dir)


def lock_for_supervisor(run_dir: Directory, wait_s: float = LOCK_WAIT_S) -> RunLock:
    """Lock ``run_dir`` for a supervisor, whose rank 0 locks it in turn; nothing else begins there until it is closed.

    Raises:
        UsageError: another process has locked it, or it cannot be written to.
    """
    outer = _soon(lambda: RunLock(*_lock(run_dir, LAUNCH_LOCK)), wait_s)
    try:
        # A rank 0 whose supervisor was killed may live a moment longer.
        _soon(lambda: RunLock(*_lock(run_dir, LOCK)), wait_s).close()
    except BaseException:
        outer.close()
        raise
    return outer


def _soon(locks: Callable[[], RunLock], wait_s: float) -> RunLock:
    end = time.monotonic() + wait_s
    while True:
        try:
            return locks()
        except RunDirBusy:
            if time.monotonic() >= end:
                raise
        time.sleep(0.1)


@contextmanager
def _usable(run_dir: Path | Directory) -> Iterator[Directory]:
    """Yield ``run_dir``, opened.

    Raises:
        UsageError: it cannot be opened, or what is done with it fails.
    """
    try:
        with opened(run_dir) as directory:
            yield directory
    except OSError as error:
        path = run_dir.path if isinstance(run_dir, Directory) else run_dir
        what = f"{error.filename}: {error.strerror}"
        raise UsageError(f"the run-dir {path} cannot be used: {what}; {_ANOTHER}") from error


def _lock(directory: Directory, name: str) -> tuple[int, str]:
    """Lock the file ``name``; return its descriptor, and why nothing is locked (the descriptor is -1 then).

    Raises:
        OSError: it cannot be opened.
        UsageError: another process has locked it, or others can write to it.
    """
    fd = directory.open_or_create(name, PRIVATE_MODE)
    try:
        os.fchmod(fd, PRIVATE_MODE)  # a user who may open it could lock it; older versions let everybody read it
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _unlocked(directory.path, fd, error)
    _say_who(fd)
    return fd, ""


_mark = ""


def take_mark() -> None:
    """Take the supervisor's mark out of the environment: what functions of the run launch themselves is not its."""
    global _mark
    _mark = os.environ.pop(LAUNCHED_BY, "")


def _is_of_our_supervisor(directory: Directory) -> bool:
    try:
        return bool(_mark) and json.loads(directory.read(LOCK)).get(LAUNCHED_BY) == _mark
    except (OSError, UsageError, ValueError, AttributeError):
        return False


def _unlocked(run_dir: Path, fd: int, error: OSError) -> tuple[int, str]:
    try:
        if error.errno in _HELD_BY_ANOTHER:
            remedy = "wait until that has ended, or end it, or name another with --run-dir"
            raise RunDirBusy(f"the run-dir {run_dir} is in use by {_who(fd)}; {remedy}") from None
    finally:
        os.close(fd)
    if error.errno in _NO_LOCKS:
        return -1, f"the file system of {run_dir} knows no locks: do not use it for two runs at once"
    raise UsageError(f"the run-dir {run_dir} cannot be locked: {error.strerror}; {_ANOTHER}") from error


def _say_who(fd: int) -> None:
    said = {"pid": os.getpid(), "host": socket.gethostname(), "started_s": time.time()}
    if _mark:
        said[LAUNCHED_BY] = _mark
    text = json.dumps(said)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode() + b"\n", 0)
    except OSError:
        pass  # a full disk, say; it only serves the message to others


def _who(fd: int) -> str:
    try:
        said = json.loads(os.pread(fd, 4096, 0))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said["started_s"]))
        return f"process {said['pid']} on host {said['host']} since {since}"
    except (OSError, ValueError, TypeError, KeyError, OverflowError):  # it has not been written yet
        return "another process"


# -- its status ----------------------------------------------------------------------------------------


def reserve_space(run_dir: Path | Directory) -> None:
    """Take some room on the disk that :func:`write_status` gives up for a verdict once the disk is full.

    Raises:
        UsageError: there is none.
    """
    try:
        with opened(run_dir) as directory:
            directory.write(_RESERVE, bytes(_RESERVE_NBYTES))
    except OSError as error:
        path = run_dir.path if isinstance(run_dir, Directory) else run_dir
        raise UsageError(f"nothing can be written to the run-dir {path}: {error.strerror}; {_ANOTHER}") from error


def release_space(run_dir: Path | Directory) -> None:
    """Give back what :func:`reserve_space` took."""
    with opened(run_dir) as directory:
        directory.remove(_RESERVE)


def write_status(run_dir: Path | Directory, **fields: Any) -> None:
    """Write ``status.json``, whole or not at all.

    Raises:
        JournalError: it cannot be written.
    """
    content = (json.dumps(fields, indent=1, default=repr) + "\n").encode()
    try:
        with opened(run_dir) as directory:
            try:
                directory.write(STATUS, content)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                release_space(directory)
                directory.write(STATUS, content)
    except OSError as error:
        path = run_dir.path if isinstance(run_dir, Directory) else run_dir
        raise JournalError(f"{path / STATUS} cannot be written: {error.strerror}", EXIT_STOPPED) from error


def has_supervisor() -> bool:
    """Whether a supervisor watches the launch of this process."""
    return bool(_mark)


def note_arrived(run_dir: Path | Directory) -> None:
    """Show the supervisor, if there is one, that another rank has come so far as to start MPI."""
    if not _mark:
        return
    try:
        with opened(run_dir) as directory:
            mark = directory.open_or_create(ARRIVED)
            try:
                os.utime(mark)
            finally:
                os.close(mark)
    except (OSError, UsageError):
        pass  # a run-dir that cannot be used is refused by rank 0


def note_joined(run_dir: Path | Directory) -> None:
    """Show the supervisor, if there is one, that all ranks of its launch have joined, and which process rank 0 is."""
    if not _mark:
        return
    try:
        with opened(run_dir) as directory:
            directory.write(JOINED, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    except (OSError, UsageError):
        pass  # a run-dir that cannot be used is refused a moment later


def note_stop(run_dir: Path | Directory, mark: str, why: str) -> None:
    """Tell rank 0 of the launch with the supervisor's ``mark`` why it is asked to stop: a signal carries no words."""
    try:
        with opened(run_dir) as directory:
            directory.write(STOP, json.dumps({LAUNCHED_BY: mark, "why": why}).encode())
    except (OSError, UsageError):
        pass  # then it says which signal it was


def read_stop(run_dir: Path) -> str:
    """Return why this launch is asked to stop, if its supervisor has said so."""
    try:
        with opened(run_dir) as directory:
            said = json.loads(directory.read(STOP))
        return str(said["why"]) if _mark and said[LAUNCHED_BY] == _mark else ""
    except (OSError, UsageError, ValueError, KeyError, TypeError):
        return ""


def touch_status(run_dir: Path | Directory) -> None:
    """Show that the launch whose ``status.json`` it is still lives."""
    try:
        with opened(run_dir) as directory:
            directory.touch(STATUS)
    except (OSError, UsageError):
        pass  # it is the supervisor who looks, and it has other ways to tell


def read_status(run_dir: Path | Directory) -> dict[str, Any]:
    """Return what ``status.json`` says, an empty dict if it is not there, not whole, or of somebody else."""
    return _read(run_dir, STATUS)


def read_joined(run_dir: Path | Directory) -> dict[str, Any]:
    """Return ``pid`` and ``host`` of a rank 0 whose ranks have joined, an empty dict if they have not."""
    return _read(run_dir, JOINED)


def _read(run_dir: Path | Directory, name: str) -> dict[str, Any]:
    try:
        with opened(run_dir) as directory:
            said = json.loads(directory.read(name))
    except (OSError, UsageError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
