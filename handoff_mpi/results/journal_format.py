"""The format of the journal: the names of its segments, their first line, and the frames that follow it.

A segment is a line and then frames:

- ``HMPJ <format> <version of handoff_mpi>``, readable in every format;
- for each commit one frame: the payload's length (u32, little-endian), its CRC-32 seeded with that length (u32), and
  the payload: a pickle of a list of pickles, one for each record. The first frame holds the header, a record
  ``("header", version of handoff_mpi, of Python, epoch, seconds since 1970)``.

Records are pickled one by one, because an id that cannot be pickled, or a class that no longer exists, must cost no
more than its own record.
"""

from __future__ import annotations

import pickle
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

from handoff_mpi.errors import JournalError
from handoff_mpi.results.secure_files import Directory

FORMAT = 3
#: Formats that are read. Format 2 has no times of turns and of failed attempts, see :mod:`handoff_mpi.results.history`.
READABLE = (2, FORMAT)
HEADER = "header"

#: (kind, ...): what it means is between who writes and who reads it.
Record: TypeAlias = "tuple[Any, ...]"

MAGIC = b"HMPJ "
LINE = re.compile(rb"HMPJ (\d+) ([ -~]*)\n")
MAX_LINE_LENGTH = 100
SEGMENT_NAME = re.compile(r"(\d{6,})\.journal")
_HEAD = struct.Struct("<II")
_MAX_PAYLOAD_NBYTES = (1 << 32) - 1


def segment_name(epoch: int) -> str:
    """Return the name of the segment of a launch."""
    return f"{epoch:06}.journal"


def find_epochs(directory: Directory) -> Iterator[int]:
    """Yield the epochs of the segments in the directory of a journal."""
    for name in directory.names():
        match = SEGMENT_NAME.fullmatch(name)
        if match and segment_name(int(match[1])) == name:
            yield int(match[1])


def dump_record(record: Record) -> bytes:
    """Return a record as it stands in a frame."""
    return pickle.dumps(record, 5)


def make_frame(blobs: list[bytes]) -> bytes:
    """Return the frame of a commit of pickled records.

    Raises:
        JournalError: it is too long.
    """
    payload = pickle.dumps(blobs, 5)
    size = len(payload)
    if size > _MAX_PAYLOAD_NBYTES:
        raise JournalError(
            f"cannot write a commit of {size} bytes: the journal holds at most 4 GiB in one; use smaller ids and errors"
        )
    # Seeded with the length, so that a damaged length cannot find a payload that fits.
    return _HEAD.pack(size, zlib.crc32(payload, size)) + payload


def read_payload(file: BinaryIO, size: int) -> bytes:
    """Return the payload of the next frame; nothing if there is none, or none that is whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return b""
    length, crc = _HEAD.unpack(head)
    if length > size - file.tell():  # before room is made for what may be damage
        return b""
    payload = file.read(length)
    return payload if len(payload) == length and zlib.crc32(payload, length) == crc else b""
