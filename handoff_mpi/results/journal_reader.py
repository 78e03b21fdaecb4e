"""Reads the journal of a run-dir: the records of all its launches, as far as each has committed them.

A torn commit ends what is read of its segment. Ids can be of any class, so what may be unpickled cannot be judged by
its class: it is judged by its owner instead (see :mod:`handoff_mpi.results.trust`). Classes go by name, so the module
that defines them (``dag.py``) must have been loaded before its records are read.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from handoff_mpi.errors import JournalError, UsageError
from handoff_mpi.results.journal_format import (
    FORMAT,
    HEADER,
    LINE,
    MAGIC,
    MAX_LINE_LENGTH,
    READABLE,
    Record,
    find_epochs,
    read_payload,
    segment_name,
)
from handoff_mpi.results.run_dir import JOURNAL
from handoff_mpi.results.secure_files import Directory, opened
from handoff_mpi.unpickling import reading_originals
from handoff_mpi.version import VERSION

_ANOTHER = "name another run-dir with --run-dir"
_FRESH = f"run with --fresh to start over, or {_ANOTHER}"
_AWAY = f"move it away, or {_ANOTHER}"


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


def has_successor(run_dir: Path | Directory, epoch: int) -> bool:
    """Whether a launch began after that of ``epoch``: each takes the next number."""
    try:
        with _journal(run_dir) as directory:
            return directory is not None and directory.status(segment_name(epoch + 1)) is not None
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
    run_dir: Path | Directory, notes: list[str], unpickle: Callable[[bytes], object] = pickle.loads
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
                for epoch in sorted(find_epochs(directory)):
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


def _read_segment(
    directory: Directory, segment: Segment, notes: list[str], unpickle: Callable[[bytes], object]
) -> Iterator[Record]:
    path = directory.path / segment_name(segment.epoch)
    with os.fdopen(directory.open(path.name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if _read_line(path, file, size, notes):
            yield from _read_frames(path, file, size, segment, notes, unpickle)


def _read_line(path: Path, file: BinaryIO, size: int, notes: list[str]) -> bool:
    """Read the first line; return False if the launch died before it was whole.

    Raises:
        JournalError: it is not of this format.
    """
    line = file.readline(MAX_LINE_LENGTH)
    match = LINE.fullmatch(line)
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
    for start in range(1, MAX_LINE_LENGTH):
        file.seek(start)
        if read_payload(file, size):
            file.seek(start)
            return True
    return False


def _is_torn(line: bytes, size: int) -> bool:
    # A host that dies may leave zeros where nothing had reached the disk yet.
    is_cut = len(line) == size and (MAGIC.startswith(line) or line.startswith(MAGIC)) and b"\n" not in line
    return is_cut or not line.strip(b"\0")


def _read_frames(
    path: Path, file: BinaryIO, size: int, segment: Segment, notes: list[str], unpickle: Callable[[bytes], Any]
) -> Iterator[Record]:
    end = file.tell()
    errors: list[str] = []
    while payload := read_payload(file, size):
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
        notes.append(f"{path}: {len(errors)} record(s) cannot be unpickled ({errors[0]}); what they record runs again")


def _unpickled(blob: bytes, errors: list[str], unpickle: Callable[[bytes], object]) -> Record | None:
    try:
        with reading_originals():  # ids are compared with those of the DAG
            return cast(Record, unpickle(blob))
    except (Exception, SystemExit) as error:  # it may import a module of the user's
        errors.append(f"{type(error).__name__}: {error}")
        return None
