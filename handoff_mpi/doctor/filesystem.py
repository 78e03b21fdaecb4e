"""Examines the run-dir's file system: which ranks see it, how fast it writes, whether its locks lock."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handoff_mpi.errors import UsageError
from handoff_mpi.results.secure_files import open_directory, refuse_unsafe_way
from handoff_mpi.results.trust import is_open_to_group

#: A network file system may show new names late; this long they are looked for, in seconds.
SEEN_WITHIN_S = 5.0
_WRITES = 20
_WRITING_S = 3.0
_LOCK, _TOKEN = "lock", "token"
_REFUSED = (errno.EAGAIN, errno.EACCES)


@dataclass(slots=True)
class FolderFacts:
    """The run-dir as rank 0 sees it.

    Attributes:
        path: where it is.
        trouble: why it cannot be used at all, empty if it can.
        refusal: why a run would refuse it, empty if it would not.
        write_s: median seconds that create, fsync and rename take.
        lock_trouble: why flock does not work, empty if it does.
        free_nbytes: space left.
        free_files: files that can still be made, None where that is not limited.
    """

    path: str
    trouble: str = ""
    refusal: str = ""
    write_s: float = 0.0
    lock_trouble: str = ""
    free_nbytes: int = 0
    free_files: int | None = None


@dataclass(slots=True)
class FolderView:
    """The run-dir as one rank sees it.

    Attributes:
        is_seen: whether rank 0's token is there.
        trouble: why the rank cannot write to it, empty if it can.
        is_locked_out: whether rank 0's lock keeps the rank out; None if that could not be tried.
    """

    is_seen: bool
    trouble: str = ""
    is_locked_out: bool | None = None


class Folder:
    """The run-dir while it is looked at, on rank 0.

    Attributes:
        facts: what rank 0 found out.
        probe: a directory in it for the other ranks to look at, None if there is none.
        token: what they should read there.
    """

    def __init__(self, facts: FolderFacts, probe: Path | None) -> None:
        self.facts = facts
        self.probe = probe
        self.token = uuid.uuid4().hex
        self._lock = -1

    def measure(self, is_named: bool) -> None:
        """Try it out; what goes wrong is found in ``facts``."""
        assert self.probe is not None
        facts = self.facts
        path = Path(facts.path)
        facts.refusal = _refusal(path, is_named)
        facts.write_s = _median_write_s(self.probe)
        (self.probe / _TOKEN).write_text(self.token)
        self._lock, facts.lock_trouble = _lock(self.probe / _LOCK)
        space = os.statvfs(path)
        facts.free_nbytes = space.f_bavail * space.f_frsize
        facts.free_files = space.f_favail if space.f_files else None

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextmanager
def open_folder(wanted: str, is_named: bool) -> Iterator[Folder]:
    """Make and measure the run-dir ``wanted``; what was made for it is removed afterwards."""
    path = Path(wanted).absolute()
    made = [each for each in (path, *path.parents) if not each.exists()]
    probe = path / f".doctor-{uuid.uuid4().hex[:12]}"
    folder = Folder(FolderFacts(str(path)), None)
    try:
        try:
            for each in reversed(made):  # no umask makes any of them writable to others
                each.mkdir(0o755, exist_ok=True)
            probe.mkdir(0o755)
            folder.probe = probe
            folder.measure(is_named)
        except OSError as error:
            folder.facts.trouble = error.strerror or str(error)
        yield folder
    finally:
        folder.close()
        shutil.rmtree(probe, ignore_errors=True)
        for each in made:
            _remove_if_empty(each)


def look_at_folder(probe: str, token: str, rank: int) -> FolderView:
    """Look from another rank at what rank 0 made; takes up to ``SEEN_WITHIN_S`` seconds."""
    folder = Path(probe)
    if not _sees(folder / _TOKEN, token):
        return FolderView(False)
    try:
        own = folder / f"rank-{rank}"
        own.write_text(token)
        own.unlink()
    except OSError as error:
        return FolderView(True, error.strerror or str(error))
    return FolderView(True, "", _is_locked_out(folder / _LOCK))


def _sees(path: Path, token: str) -> bool:
    end = time.monotonic() + SEEN_WITHIN_S
    while True:
        try:
            if path.read_text() == token:
                return True
        except OSError:
            pass  # not there, or not yet
        if time.monotonic() > end:
            return False
        time.sleep(0.05)


def _refusal(path: Path, is_named: bool) -> str:
    try:
        if not is_named:  # a run makes a directory of its own in it
            refuse_unsafe_way(path / "new")
        elif not is_open_to_group(path.stat()):  # which a run mends
            open_directory(path).close()
    except UsageError as error:
        return str(error)
    return ""


def _median_write_s(folder: Path) -> float:
    """Return how long it takes to keep a small file for good, in seconds."""
    end = time.monotonic() + _WRITING_S
    taken = []
    for number in range(_WRITES):
        started = time.perf_counter()
        partial = folder / f"partial-{number}"
        with partial.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / f"kept-{number}")
        taken.append(time.perf_counter() - started)
        if time.monotonic() > end:
            break
    return statistics.median(taken)


def _lock(path: Path) -> tuple[int, str]:
    """Lock ``path``; return the descriptor that holds the lock, and why it is none, if so."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return fd, error.strerror or str(error)
    return fd, "" if _is_locked_out(path) else "a lock that is held is given to others as well"


def _is_locked_out(path: Path) -> bool | None:
    """Whether the lock on ``path``, held elsewhere, keeps out a process that opens it again."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _REFUSED else None
    finally:
        os.close(fd)
    return False


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        pass  # somebody uses it by now
