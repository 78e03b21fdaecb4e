"""A run's directory: who may use it, its lock, and its ``status.json``.

What lies in a run-dir is unpickled, so whoever can write to it runs code as its user. One that exists is therefore
used as ssh uses a key: it must belong to the user, and nobody else may write to it (the sticky bit changes nothing;
a group is nobody else if it is the user's private one). Its parents are not looked at: they let others move it
away, but not put anything of the user's into its place.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import json
import os
import pwd
import shlex
import socket
import stat
import time
from pathlib import Path
from typing import Any

from handoff_mpi.errors import EXIT_STOPPED, JournalError, RunDirBusy, UsageError

STATUS = "status.json"
LOCK = "lock"
JOINED = ".joined"
JOURNAL = "journal"
VALUES = "values"
#: Names, by the supervisor's mark, whose launch this is: the next one of the same supervisor may take the lock away.
LAUNCHED_BY = "HANDOFF_LAUNCHED_BY"

#: A rank 0 that was killed, or whose launcher was, is gone by then.
LOCK_WAIT_S = 5.0
#: Of the directories of a run: a umask made for sharing must not open them to others.
DIRECTORY_MODE = 0o755
_ANOTHER = "name another with --run-dir"
_OWN = "name a run-dir of your own with --run-dir"
# What file systems answer that know no locks.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_RESERVE = ".reserve"
_RESERVE_NBYTES = 64 * 1024
_HELD_BY_ANOTHER = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})


def make_run_dir(wanted: Any) -> Path:
    """Make and return the directory of a run: ``wanted``, or a new timestamped one under ``handoff-runs/``.

    Raises:
        UsageError: it cannot be made or written to, or others can write to it.
    """
    path = Path("handoff-runs" if wanted is None else wanted)
    try:
        path = path.absolute()
        if wanted is None:
            path = _fresh(path)
        elif not _is_made(path):
            refuse_if_others_write(path, path.stat())
            _refuse_what_is_in_the_way(path)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"the run-dir {path} cannot be used: {error.strerror or error}; {_ANOTHER}") from error
    return path


def _is_made(path: Path) -> bool:
    """Make ``path``; return False if it was there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(DIRECTORY_MODE)
    except OSError:  # not only that it exists: a read-only file system says that first
        if path.is_dir():
            return False
        for each in (path, *path.parents):
            if each.exists() and not each.is_dir():
                raise UsageError(f"the run-dir {path}: {each} is no directory; {_ANOTHER}") from None
        raise
    return True


def _refuse_what_is_in_the_way(path: Path) -> None:
    """A run has never made such things, so they are somebody's, and ``--fresh`` must not remove them either.

    Raises:
        UsageError: naming the first.
    """
    for name, is_directory in ((JOURNAL, True), (VALUES, True), (STATUS, False), (LOCK, False)):
        each = path / name
        if os.path.lexists(each) and each.is_dir() != is_directory:
            kind = "no directory" if is_directory else "a directory"
            raise UsageError(f"the run-dir {path} cannot be used: {each} is {kind}; move it away, or {_ANOTHER}")


def _fresh(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for serial in range(1000):
        path = parent / (f"{stamp}-{serial}" if serial else stamp)
        try:
            path.mkdir(DIRECTORY_MODE)
            return path
        except FileExistsError:
            continue
    raise OSError(f"{parent} holds a thousand runs of this second")


# -- who may use it ------------------------------------------------------------------------------------


def refuse_if_others_write(path: Path, status: os.stat_result) -> None:
    """Refuse a file or directory that somebody else than the user could have written.

    Raises:
        UsageError: it belongs to somebody else, or its mode lets others write to it.
    """
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    owner, me = _user(status.st_uid), _user(os.geteuid())
    why = "and what it holds would run as you"
    if status.st_uid != os.geteuid():
        raise UsageError(f"{path} belongs to {owner} ({mode}) and not to you ({me}), {why}; {_OWN}")
    others = _other_writers(status)
    if others:
        remedy = f"chmod go-w {shlex.quote(str(path))}"
        raise UsageError(f"{path} (of {owner}, {mode}) can be written to by {others}, {why}; {remedy}, or {_OWN}")


def _other_writers(status: os.stat_result) -> str:
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
        return f"the group {_group(status.st_gid)}"
    return ""


def _is_private(gid: int) -> bool:
    """Whether a group is the user's private one: it has the user's name, and no other member."""
    try:
        me = pwd.getpwuid(os.geteuid()).pw_name
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == me and set(group.gr_mem) <= {me}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# -- its lock ------------------------------------------------------------------------------------------


class RunLock:
    """The sole use of a run-dir, until it is closed or its process ends, however that happens.

    Attributes:
        note: why nothing is locked after all; empty if it is.
    """

    def __init__(self, fd: int, note: str = "") -> None:
        self.note = note
        self._fd = fd
        if fd >= 0:
            _held.add(self)

    def close(self) -> None:
        """Let others use the run-dir."""
        if self._fd < 0:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            pass  # closing does it as well
        self._leave()

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


def lock_run_dir(run_dir: Path) -> RunLock:
    """Lock ``run_dir`` against other launches; where the file system knows no locks, the lock has a note instead.

    The file ``lock`` stays when the lock is released: to delete it would let two launches lock two files of that name.

    Raises:
        UsageError: another process has locked it, or it cannot be written to.
    """
    path = run_dir / LOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise UsageError(f"the run-dir {run_dir} cannot be used: {path}: {error.strerror}; {_ANOTHER}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _unlocked(run_dir, fd, error)
    _say_who(fd)
    return RunLock(fd)


def lock_run_dir_soon(run_dir: Path, wait_s: float = LOCK_WAIT_S) -> RunLock:
    """As :func:`lock_run_dir`, but give a process that is just dying ``wait_s`` seconds to let go of it.

    An earlier launch of the same supervisor that still holds it then is on a host that was lost: the lock is taken
    away from it, and it leaves once it sees the journal of this launch.

    Raises:
        UsageError: as there.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            return lock_run_dir(run_dir)
        except RunDirBusy:
            if time.monotonic() >= end:
                if not _is_of_our_supervisor(run_dir):
                    raise
                (run_dir / LOCK).unlink(missing_ok=True)
                return lock_run_dir(run_dir)
        time.sleep(0.1)


_mark = ""


def take_mark() -> None:
    """Take the supervisor's mark out of the environment: what functions of the run launch themselves is not its."""
    global _mark
    _mark = os.environ.pop(LAUNCHED_BY, "")


def _is_of_our_supervisor(run_dir: Path) -> bool:
    try:
        return bool(_mark) and json.loads((run_dir / LOCK).read_bytes()).get(LAUNCHED_BY) == _mark
    except (OSError, ValueError, AttributeError):
        return False


def _unlocked(run_dir: Path, fd: int, error: OSError) -> RunLock:
    try:
        if error.errno in _HELD_BY_ANOTHER:
            remedy = "wait until that has ended, or end it, or name another with --run-dir"
            raise RunDirBusy(f"the run-dir {run_dir} is in use by {_who(fd)}; {remedy}") from None
    finally:
        os.close(fd)
    if error.errno in _NO_LOCKS:
        return RunLock(-1, f"the file system of {run_dir} knows no locks: do not use it for two runs at once")
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


def reserve_room(run_dir: Path) -> None:
    """Take some room on the disk that :func:`write_status` gives up for a verdict once the disk is full.

    Raises:
        UsageError: there is none.
    """
    try:
        (run_dir / _RESERVE).write_bytes(bytes(_RESERVE_NBYTES))
    except OSError as error:
        raise UsageError(f"nothing can be written to the run-dir {run_dir}: {error.strerror}; {_ANOTHER}") from error


def give_up_room(run_dir: Path) -> None:
    """Give back what :func:`reserve_room` took."""
    (run_dir / _RESERVE).unlink(missing_ok=True)


def write_status(run_dir: Path, **fields: Any) -> None:
    """Write ``status.json``, whole or not at all.

    Raises:
        JournalError: it cannot be written.
    """
    text = json.dumps(fields, indent=1, default=repr) + "\n"
    try:
        try:
            _replace_status(run_dir, text)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            give_up_room(run_dir)
            _replace_status(run_dir, text)
    except OSError as error:
        raise JournalError(f"{run_dir / STATUS} cannot be written: {error.strerror}", EXIT_STOPPED) from error


def _replace_status(run_dir: Path, text: str) -> None:
    partial = run_dir / f".{STATUS}.{os.getpid()}"
    try:
        partial.write_text(text)
        partial.replace(run_dir / STATUS)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def note_joined(run_dir: Path) -> None:
    """Show the supervisor, if there is one, that all ranks of its launch have joined."""
    if not _mark:
        return
    try:
        (run_dir / JOINED).touch()
    except OSError:
        pass  # a run-dir that cannot be used is refused a moment later


def touch_status(run_dir: Path) -> None:
    """Show that the launch whose ``status.json`` it is still lives."""
    try:
        os.utime(run_dir / STATUS)
    except OSError:
        pass  # it is the supervisor who looks, and it has other ways to tell


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return what ``status.json`` says, an empty dict if it is not there or not whole."""
    try:
        status = json.loads((run_dir / STATUS).read_text())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
