"""The locks of a run-dir: one launch at a time runs in it, and one supervisor at a time launches there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from handoff_mpi.errors import RunDirBusy, UsageError
from handoff_mpi.process_context import this_process
from handoff_mpi.results.run_dir import ANOTHER, LAUNCH_LOCK, LOCK
from handoff_mpi.results.secure_files import PRIVATE_MODE, Directory, opened
from handoff_mpi.results.supervision import SupervisorLink

#: A rank 0 that was killed, or whose launcher was, has ended by then.
LOCK_WAIT_S = 5.0
# What file systems answer that know no locks.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_HELD_BY_ANOTHER = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
_NO_SUPERVISOR = SupervisorLink()


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
            this_process.of(HeldLocks).add(self)

    def close(self) -> None:
        """Let others use the run-dir."""
        if self._fd >= 0:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError:
                pass  # closing does it as well
            self.leave()
        if self._outer is not None:
            self._outer.close()

    def leave(self) -> None:
        """Close the descriptor; another process that shares it keeps the lock."""
        this_process.of(HeldLocks).discard(self)
        fd, self._fd = self._fd, -1
        os.close(fd)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HeldLocks:
    """The locks of this process; a part of the process context.

    A process that it forks leaves them: a lock lasts until all that share it leave it.
    """

    def __init__(self) -> None:
        self._locks: set[RunLock] = set()
        os.register_at_fork(after_in_child=self.leave_all)

    def add(self, lock: RunLock) -> None:
        """``lock`` was taken."""
        self._locks.add(lock)

    def discard(self, lock: RunLock) -> None:
        """``lock`` was left."""
        self._locks.discard(lock)

    def leave_all(self) -> None:
        """Leave the locks to the process that forked this one."""
        for lock in list(self._locks):
            lock.leave()


def lock_run_dir(run_dir: Path | Directory, supervisor: SupervisorLink = _NO_SUPERVISOR) -> RunLock:
    """Lock ``run_dir`` against other launches; where the file system knows no locks, the lock has a note instead.

    A launch that has no supervisor takes the supervisor's lock as well, so that none begins beside it.
    The files stay when the locks are released: to delete one would let two launches lock two files of that name.

    Args:
        supervisor: of the launch that takes the lock.

    Raises:
        UsageError: another process has locked it, or it cannot be written to.
    """
    with _usable(run_dir) as directory:
        if supervisor.is_present:
            return RunLock(*_lock(directory, LOCK, supervisor))
        outer = RunLock(*_lock(directory, LAUNCH_LOCK))
        try:
            return RunLock(*_lock(directory, LOCK), outer)
        except BaseException:
            outer.close()
            raise


def lock_run_dir_soon(
    run_dir: Path | Directory, supervisor: SupervisorLink = _NO_SUPERVISOR, wait_s: float = LOCK_WAIT_S
) -> RunLock:
    """As :func:`lock_run_dir`, but give a process that is just dying ``wait_s`` seconds to let go of it.

    An earlier launch of the same supervisor that still holds it then is on a host that was lost: the lock is taken
    away from it, and it leaves once it sees the journal of this launch.

    Raises:
        UsageError: as there.
    """
    try:
        return _soon(lambda: lock_run_dir(run_dir, supervisor), wait_s)
    except RunDirBusy:
        with _usable(run_dir) as directory:
            if not supervisor.owns_lock_of(directory):
                raise
            directory.remove(LOCK)
        return lock_run_dir(run_dir, supervisor)


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
        raise UsageError(f"the run-dir {path} cannot be used: {what}; {ANOTHER}") from error


def _lock(directory: Directory, name: str, supervisor: SupervisorLink = _NO_SUPERVISOR) -> tuple[int, str]:
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
    _say_who(fd, supervisor)
    return fd, ""


def _unlocked(run_dir: Path, fd: int, error: OSError) -> tuple[int, str]:
    try:
        if error.errno in _HELD_BY_ANOTHER:
            remedy = "wait until that has ended, or end it, or name another with --run-dir"
            raise RunDirBusy(f"the run-dir {run_dir} is in use by {_who(fd)}; {remedy}") from None
    finally:
        os.close(fd)
    if error.errno in _NO_LOCKS:
        return -1, f"the file system of {run_dir} knows no locks: do not use it for two runs at once"
    raise UsageError(f"the run-dir {run_dir} cannot be locked: {error.strerror}; {ANOTHER}") from error


def _say_who(fd: int, supervisor: SupervisorLink) -> None:
    about = {"pid": os.getpid(), "host": socket.gethostname(), "started_s": time.time()}
    text = json.dumps({**about, **supervisor.fields()})
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
