"""The journal of a run-dir: what a launch has done, kept so that the next one resumes after a death at any moment.

Each launch appends to a segment of its own, ``journal/NNNNNN.journal``; the number is the launch's epoch, one more
than the highest that is there. A segment is a line and then frames:

- ``HMPJ <format> <version of handoff_mpi>``, readable in every format;
- for each commit one frame: the payload's length (u32, little-endian), its CRC-32 seeded with that length (u32), and
  the payload: a pickle of a list of pickles, one for each record. The first frame holds the header, a record
  ``("header", version of handoff_mpi, of Python, epoch, seconds since 1970)``.

A commit is whole or not there: a torn one ends what is read of its segment. Records are pickled one by one, because
an id that cannot be pickled, or a class that no longer exists, must cost no more than its own record.

Records are tuples of built-ins and of the users' ids. Ids can be of any class, so what may be unpickled cannot be
judged by its class: it is judged by its owner instead (see :mod:`handoff_mpi.results.trust`). Classes go by name, so
the module that defines them (``dag.py``) must have been loaded before its records are read.
"""

from __future__ import annotations

import errno
import os
import pickle
import platform
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

from handoff_mpi.carried_modules import reading_originals
from handoff_mpi.errors import EXIT_STOPPED, JournalError, UsageError
from handoff_mpi.results.run_dir import JOURNAL, VALUES
from handoff_mpi.results.secure_files import Directory, opened
from handoff_mpi.version import VERSION

FORMAT = 3
#: Formats that are read. Format 2 has no times of turns and of failed attempts, see :mod:`handoff_mpi.results.history`.
READABLE = (2, FORMAT)
HEADER = "header"

#: (kind, ...): what it means is between who writes and who reads it.
Record: TypeAlias = "tuple[Any, ...]"

_MAGIC = b"HMPJ "
_LINE = re.compile(rb"HMPJ (\d+) ([ -~]*)\n")
_MAX_LINE_LENGTH = 100
_NAME = re.compile(r"(\d{6,})\.journal")
_VALUE = re.compile(r"[0-9a-f]{40}(\.value|\.[0-9a-f]+\.partial)")
_HEAD = struct.Struct("<II")
_MAX_PAYLOAD_NBYTES = (1 << 32) - 1

# What file systems answer that cannot fsync (or not a directory); the others' answers are failures.
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}


# -- writing -------------------------------------------------------------------------------------------


class JournalPort(Protocol):
    """A port that takes records, see :class:`Journal`."""

    epoch: int

    def append(self, record: Record) -> bool: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


class Journal:
    """The segment of this launch.

    What is committed survives the death of this process at once, and that of the host after the next fsync: the
    first commit ``fsync_every_s`` after the last one does it, one of nothing too.

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
        epoch = max(_epochs(self._directory), default=0)
        while True:
            epoch += 1
            try:
                fd = self._directory.create(_name(epoch))
            except FileExistsError:
                continue  # another launch was faster
            self.path /= _name(epoch)
            return epoch, fd

    def _begin(self, above: Directory) -> None:
        version = VERSION.encode("ascii", "replace")[: _MAX_LINE_LENGTH // 2]
        line = b"%s%d %s\n" % (_MAGIC, FORMAT, version)
        header = (HEADER, VERSION, platform.python_version(), self.epoch, time.time())
        self._write(line + _frame([_dumps(header)]))
        self._sync()
        # Let the segment's name, and that of its directory, survive the host's death.
        for each in (self._directory, above):
            self._fsync_if_possible(each.fd)

    def append(self, record: Record) -> bool:
        """Take ``record`` into the next commit.

        Returns:
            False, with a note the first time, if an id in it cannot be pickled: what it tells is not resumed.
        """
        try:
            self._pending.append(_dumps(record))
        except Exception as error:
            self.left_out += 1
            if self.left_out == 1:
                why = f"a record ({record[0]}) cannot be pickled ({type(error).__name__}: {error})"
                self.notes.append(f"{why}: what it tells would be done again by a run that resumes")
            return False
        return True

    def commit(self) -> None:
        """Write what was appended, in one write; fsync if the last one was long enough ago.

        After a failure to write, the file holds the earlier commits, and what was appended is still here: it can
        be committed once there is room. After a failure to fsync it is not known what the disk holds.

        Raises:
            JournalError: it cannot be written; nothing that relies on it must be done.
        """
        if self._pending:
            self._write(_frame(self._pending))
            self._pending = []
        if self._is_dirty and self._clock() - self._synced_at >= self._fsync_every_s:
            self._sync()

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
            self._sync()
        finally:
            self._release()

    def _release(self) -> None:
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

    def _sync(self) -> None:
        try:
            self._fsync_if_possible(self._fd)
        except OSError as error:
            raise self._failure(error) from error
        self._is_dirty = False
        self._synced_at = self._clock()  # after it, because it may take longer than the time between two

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


def _dumps(record: Record) -> bytes:
    return pickle.dumps(record, 5)


def _frame(blobs: list[bytes]) -> bytes:
    payload = pickle.dumps(blobs, 5)
    size = len(payload)
    if size > _MAX_PAYLOAD_NBYTES:
        raise JournalError(f"a commit of {size} bytes is longer than the journal's format can hold (4 GiB)")
    # Seeded with the length, so that a damaged length cannot find a payload that fits.
    return _HEAD.pack(size, zlib.crc32(payload, size)) + payload


def _name(epoch: int) -> str:
    return f"{epoch:06}.journal"


# -- reading -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Segment:
    """The records of one launch.

    Attributes:
        epoch: its number.
        records: what it committed, in order.
        version: of handoff_mpi; empty, as what follows, if the launch died before it could write it.
        python: the version of Python.
        started_s: when it started, in seconds since 1970; 0 if that is not known.
    """

    epoch: int
    records: list[Record] = field(default_factory=list)
    version: str = ""
    python: str = ""
    started_s: float = 0.0


@dataclass(slots=True)
class JournalContents:
    """The records of all launches of a run-dir; iterating gives (epoch, record), oldest first.

    Attributes:
        segments: in the order of their epochs.
        notes: what was passed over and why, one line each.
    """

    segments: list[Segment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        for segment in self.segments:
            for record in segment.records:
                yield segment.epoch, record


def newest_epoch(run_dir: Path | Directory) -> int:
    """Return the highest epoch of a run-dir, 0 if there is none; cheap enough to be asked now and then.

    Raises:
        OSError: the directory cannot be listed.
        UsageError: others can write to it.
    """
    with _journal(run_dir) as directory:
        return 0 if directory is None else max(_epochs(directory), default=0)


def has_successor(run_dir: Path | Directory, epoch: int) -> bool:
    """Whether a launch began after that of ``epoch``: each takes the next number."""
    try:
        with _journal(run_dir) as directory:
            return directory is not None and directory.status(_name(epoch + 1)) is not None
    except (OSError, UsageError):
        return False


def read_journal(run_dir: Path | Directory) -> JournalContents:
    """Return what the launches of a run-dir have committed; nothing if there was none.

    Raises:
        UsageError: somebody else than the user could have written a part of it; nothing of it was unpickled.
        JournalError: another version wrote a part of it, or it cannot be read.
    """
    contents = JournalContents()
    for segment, records in stream_journal(run_dir, contents.notes):
        contents.segments.append(segment)
        segment.records += records
    return contents


def stream_journal(
    run_dir: Path | Directory, notes: list[str], unpickle: Callable[[bytes], Any] = pickle.loads
) -> Iterator[tuple[Segment, Iterator[Record]]]:
    """Yield the segments of a run-dir and their records, which are read one by one: a journal may be large.

    The records of a segment must be read before the next segment is asked for.

    Args:
        notes: takes what was passed over and why, one line each.
        unpickle: makes a record, or the list of them that a commit holds, of its pickle.

    Raises:
        UsageError, JournalError: as :func:`read_journal` does.
    """
    path = (run_dir.path if isinstance(run_dir, Directory) else Path(run_dir)) / JOURNAL
    try:
        with _journal(run_dir) as directory:
            if directory is not None:
                for epoch in sorted(_epochs(directory)):
                    segment = Segment(epoch)
                    yield segment, _read_segment(directory, segment, notes, unpickle)
    except OSError as error:
        remedy = _AWAY if isinstance(error, NotADirectoryError) else _FRESH
        raise JournalError(
            f"the journal {error.filename or path} cannot be read: {error.strerror}; {remedy}"
        ) from error


@contextmanager
def _journal(run_dir: Path | Directory) -> Iterator[Directory | None]:
    """Yield the directory of the segments; None where there is none.

    Raises:
        OSError: it cannot be opened.
        UsageError: others can write to it.
    """
    with ExitStack() as stack:
        try:
            above = stack.enter_context(opened(run_dir))
            directory = stack.enter_context(above.child(JOURNAL))
        except FileNotFoundError:
            directory = None
        yield directory


_ANOTHER = "name another run-dir with --run-dir"
_FRESH = f"run with --fresh to start over, or {_ANOTHER}"
_AWAY = f"move it away, or {_ANOTHER}"


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
            for name, made_by_runs in ((JOURNAL, _NAME), (VALUES, _VALUE)):
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
        raise JournalError(f"the run-dir {path} could not be cleared: {what}; {_ANOTHER}") from error


def _epochs(directory: Directory) -> Iterator[int]:
    for name in directory.names():
        match = _NAME.fullmatch(name)
        if match and _name(int(match[1])) == name:
            yield int(match[1])


def _read_segment(
    directory: Directory, segment: Segment, notes: list[str], unpickle: Callable[[bytes], Any]
) -> Iterator[Record]:
    path = directory.path / _name(segment.epoch)
    with os.fdopen(directory.open(path.name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if _read_line(path, file, size, notes):
            yield from _read_frames(path, file, size, segment, notes, unpickle)


def _read_line(path: Path, file: BinaryIO, size: int, notes: list[str]) -> bool:
    """Read the first line; return False if the launch died before it was whole.

    Raises:
        JournalError: it is not of this format.
    """
    line = file.readline(_MAX_LINE_LENGTH)
    match = _LINE.fullmatch(line)
    if match is None:
        if _find_frames(file, size):
            notes.append(f"{path}: its first line is damaged; the rest is used")
            return True
        if line and not _is_torn(line, size):
            raise JournalError(f"{path} is not a journal of handoff_mpi; move it away, or {_FRESH}")
        if line:
            notes.append(f"{path}: its launch died before it had begun ({size} bytes are not used)")
        return False
    if int(match[1]) not in READABLE:
        theirs = f"format {int(match[1])}, written by handoff_mpi {match[2].decode()}"
        ours = f"handoff_mpi {VERSION}, which reads format {FORMAT}"
        remedy = "run with --fresh, or with the version that wrote it"
        raise JournalError(f"the journal {path} is of {theirs}; this is {ours}: {remedy}")
    return True


def _find_frames(file: BinaryIO, size: int) -> bool:
    """Go to the first whole commit that follows a damaged line, if there is one: its checksum tells."""
    for start in range(1, _MAX_LINE_LENGTH):
        file.seek(start)
        if _read_payload(file, size):
            file.seek(start)
            return True
    return False


def _is_torn(line: bytes, size: int) -> bool:
    # A host that dies may leave zeros where nothing had reached the disk yet.
    is_cut = len(line) == size and (_MAGIC.startswith(line) or line.startswith(_MAGIC)) and b"\n" not in line
    return is_cut or not line.strip(b"\0")


def _read_frames(
    path: Path, file: BinaryIO, size: int, segment: Segment, notes: list[str], unpickle: Callable[[bytes], Any]
) -> Iterator[Record]:
    end = file.tell()
    errors: list[str] = []
    while payload := _read_payload(file, size):
        end = file.tell()
        for blob in unpickle(payload):
            record = _unpickled(blob, errors, unpickle)
            if record is None:
                continue
            if record[0] == HEADER and not segment.version:
                _, segment.version, segment.python, _, segment.started_s = record
            else:
                yield record
    if end < size:
        why = "its launch died while it wrote, or it is damaged"
        notes.append(f"{path}: {why}: the last {size - end} of {size} bytes are not used")
    if errors:
        notes.append(f"{path}: {len(errors)} record(s) cannot be unpickled ({errors[0]}); what they tell is done again")


def _read_payload(file: BinaryIO, size: int) -> bytes:
    """Return the payload of the next frame; nothing if there is none, or none that is whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return b""
    length, crc = _HEAD.unpack(head)
    if length > size - file.tell():  # before room is made for what may be damage
        return b""
    payload = file.read(length)
    return payload if len(payload) == length and zlib.crc32(payload, length) == crc else b""


def _unpickled(blob: bytes, errors: list[str], unpickle: Callable[[bytes], Any]) -> Record | None:
    try:
        with reading_originals():  # ids are compared with those of the DAG
            return cast(Record, unpickle(blob))
    except (Exception, SystemExit) as error:  # it may import a module of the user's
        errors.append(f"{type(error).__name__}: {error}")
        return None
