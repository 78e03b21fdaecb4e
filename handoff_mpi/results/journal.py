"""The journal of a run-dir: what a launch has done, kept so that the next one resumes after a death at any moment.

Each launch appends to a segment of its own, ``journal/NNNNNN.journal``; the number is the launch's epoch, one more
than the highest that is there. A commit is whole or not there. :mod:`~handoff_mpi.results.journal_format` describes
the segments, and :mod:`~handoff_mpi.results.journal_reader` reads them.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from handoff_mpi.errors import EXIT_STOPPED, JournalError
from handoff_mpi.linux import begin_write_out
from handoff_mpi.results.background_sync import BackgroundSync
from handoff_mpi.results.journal_format import (
    FORMAT,
    HEADER,
    MAGIC,
    MAX_LINE_LENGTH,
    SEGMENT_NAME,
    Record,
    dump_record,
    find_epochs,
    make_frame,
    segment_name,
)
from handoff_mpi.results.run_dir import JOURNAL, VALUES
from handoff_mpi.results.secure_files import Directory, opened
from handoff_mpi.version import VERSION

#: After so many bytes the system begins to write them out: the last fsync of a run, which is waited for, is short then.
MIN_WRITE_OUT_NBYTES = 4 * 1024 * 1024
_VALUE = re.compile(r"[0-9a-f]{40}(\.value|\.[0-9a-f]+\.partial)|\d{6,}\.columns")
# What file systems answer that cannot fsync (or not a directory); the others' answers are failures.
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}


class JournalPort(Protocol):
    """A port that takes records, see :class:`Journal`."""

    epoch: int

    def append(self, record: Record) -> bool: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


class Journal:
    """The segment of this launch.

    What is committed survives the death of this process at once, and that of the host after the next fsync: the
    first commit ``fsync_every_s`` after the last one begins it, one of nothing too. A thread waits for the disk.

    Args:
        run_dir: where the ``journal`` directory is, or will be; an open one is used as long as the journal is.
        fsync_every_s: the least time between two fsyncs, in seconds.
        clock, pwrite, fsync: as in :mod:`time` and :mod:`os`.

    Attributes:
        epoch: the number of this launch.
        path: the segment's file.
        left_out: how many records could not be pickled.
        notes: what a user may want to know, one line each.

    Raises:
        JournalError: the segment cannot be made.
        UsageError: others can write to the directory of the journal.
    """

    def __init__(
        self,
        run_dir: Path | Directory,
        *,
        fsync_every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        pwrite: Callable[[int, Any, int], int] = os.pwrite,
        fsync: Callable[[int], None] = os.fsync,
    ) -> None:
        self.left_out = 0
        self.notes: list[str] = []
        self._fsync_every_s = fsync_every_s
        self._clock = clock
        self._pwrite = pwrite
        self._fsync = fsync
        self._pending: list[bytes] = []
        self._size = 0
        self._is_dirty = False
        self._sync = BackgroundSync()
        self._written_out = 0
        self._has_failed = False
        self.path = (run_dir.path if isinstance(run_dir, Directory) else Path(run_dir)) / JOURNAL
        self._fd = -1
        try:
            with opened(run_dir) as above:
                self._directory = above.child(JOURNAL, makes=True)
                try:
                    self.epoch, self._fd = self._make_segment()
                    self._begin(above)
                except BaseException:
                    self._release()
                    raise
        except OSError as error:
            raise self._failure(error) from error

    def _make_segment(self) -> tuple[int, int]:
        epoch = max(find_epochs(self._directory), default=0)
        while True:
            epoch += 1
            try:
                fd = self._directory.create(segment_name(epoch))
            except FileExistsError:
                continue  # another launch was faster
            self.path /= segment_name(epoch)
            return epoch, fd

    def _begin(self, above: Directory) -> None:
        version = VERSION.encode("ascii", "replace")[: MAX_LINE_LENGTH // 2]
        line = b"%s%d %s\n" % (MAGIC, FORMAT, version)
        header = (HEADER, VERSION, platform.python_version(), self.epoch, time.time())
        self._write(line + make_frame([dump_record(header)]))
        self._sync_file()
        # Let the segment's name, and that of its directory, survive the host's death.
        for each in (self._directory, above):
            self._fsync_if_possible(each.fd)

    def append(self, record: Record) -> bool:
        """Take ``record`` into the next commit.

        Returns:
            False, with a note the first time, if an id in it cannot be pickled: a run that resumes does not know of it.
        """
        try:
            self._pending.append(dump_record(record))
        except Exception as error:
            self.left_out += 1
            if self.left_out == 1:
                why = f"a record ({record[0]}) cannot be pickled ({type(error).__name__}: {error})"
                self.notes.append(f"{why}; a run that resumes repeats what it records: use ids of plain types")
            return False
        return True

    def commit(self) -> None:
        """Write what was appended, in one write; begin to fsync if the last one was long enough ago.

        After a failure to write, the file holds the earlier commits, and what was appended is still here: it can
        be committed once there is room. After a failure to fsync, which a later call tells, it is not known what the
        disk holds.

        Raises:
            JournalError: it cannot be written; nothing that relies on it must be done.
        """
        if self._pending:
            self._write(make_frame(self._pending))
            self._pending = []
        if self._sync.has_begun:
            if self._sync.is_running:
                return
            self.wait_for_disk()
        if not self._is_dirty:
            return
        if self._clock() - self._synced_at >= self._fsync_every_s:
            self._sync.begin(self._sync_file)
        elif self._size - self._written_out >= MIN_WRITE_OUT_NBYTES:
            self._sync.begin(self._write_out)

    def wait_for_disk(self) -> None:
        """Wait until the disk has what the fsync that was begun last, if any, is about.

        Raises:
            JournalError: it has failed.
        """
        with self._failures_told():
            self._sync.end()

    def close(self) -> None:
        """Commit (unless that has just failed), fsync and close.

        Raises:
            JournalError: it could not be written; it is closed all the same.
        """
        if self._fd < 0:
            return
        try:
            if not self._has_failed:
                self.commit()
            self.wait_for_disk()
            with self._failures_told():
                self._sync_file()
        finally:
            self._release()

    def _release(self) -> None:
        with suppress(OSError):  # another failure was raised already
            self._sync.end()  # it uses the descriptor
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._directory.close()

    @property
    def is_in_place(self) -> bool:
        """Whether the next launch will find the segment where it was made; True where that is unknown."""
        try:
            found = self._directory.status(self.path.name)
            return found is not None and os.path.samestat(found, os.fstat(self._fd))
        except OSError:
            return True

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, frame: bytes) -> None:
        # Always at the end of the last whole commit: what a failed one left there is written over.
        end = self._size
        rest: bytes | memoryview = frame
        try:
            while rest:
                count = self._pwrite(self._fd, rest, end)
                if not count:
                    raise OSError(errno.EIO, "nothing was written")
                rest, end = memoryview(rest)[count:], end + count
        except OSError as error:
            self._cut()
            raise self._failure(error) from error
        self._size = end
        self._is_dirty = True
        self._has_failed = False

    def _cut(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            pass  # readers skip a torn commit

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Raise a JournalError if the disk does not take what was written."""
        try:
            yield
        except OSError as error:
            raise self._failure(error) from error

    def _sync_file(self) -> None:
        self._is_dirty, self._written_out = False, self._size  # before it: a commit may come meanwhile
        self._fsync_if_possible(self._fd)
        self._synced_at = self._clock()  # after it, because it may take longer than the time between two

    def _write_out(self) -> None:
        self._written_out = self._size
        begin_write_out(self._fd)

    def _fsync_if_possible(self, fd: int) -> None:
        try:
            self._fsync(fd)
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise

    def _failure(self, error: OSError) -> JournalError:
        self._has_failed = True
        remedy = _REMEDIES.get(error.errno or 0, "see that its file system works again")
        return JournalError(
            f"the journal {self.path} cannot be written: {error.strerror}; what was done until then is kept: "
            f"{remedy}, then give the same command again, which resumes",
            EXIT_STOPPED,
        )


def clear(run_dir: Path | Directory) -> None:
    """Forget all that earlier launches left: their values, and what their segments hold.

    The emptied segments stay, so that epochs increase: a launch that still lives somewhere must find a higher one.

    Raises:
        UsageError: something there has the name of a segment or of a value, but no run has made it; all is left.
        JournalError: something could not be removed.
    """
    path = run_dir.path if isinstance(run_dir, Directory) else Path(run_dir)
    try:
        with opened(run_dir) as above, ExitStack() as stack:
            found = []
            for name, made_by_runs in ((JOURNAL, SEGMENT_NAME), (VALUES, _VALUE)):
                if above.status(name) is not None:
                    directory = stack.enter_context(above.child(name))
                    found += [(directory, each) for each in directory.names() if made_by_runs.fullmatch(each)]
            for directory, each in found:
                directory.refuse_irregular(each)
            for directory, each in found:
                if directory.path.name == JOURNAL:
                    directory.write(each, b"")
                else:
                    directory.remove(each)
    except OSError as error:
        what = f"{error.filename or path}: {error.strerror}"
        raise JournalError(
            f"the run-dir {path} cannot be cleared: {what}; name another run-dir with --run-dir"
        ) from error
