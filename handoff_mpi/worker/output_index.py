"""The files that take the output of one process: what calls print, and the index that attributes it to attempts.

The index has lines of JSON, for attempts that printed something only:

- ``{"id", "attempt", "launch", "offset"}``: the attempt has begun to print at that offset of the file;
- the same with ``"nbytes"`` and ``"dropped"``: it has ended, after so many bytes that are kept and others that are not;
- ``{"launch", "offset"}``: another launch begins to use the file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Protocol

from handoff_mpi.formatting import MAX_LAST_NBYTES, id_text, last_lines
from handoff_mpi.worker.descriptors import size_of

#: The bytes kept of one attempt's output: the first half and the last half.
MAX_ATTEMPT_NBYTES = 1 << 20
#: The bytes kept of an attempt whose file is full.
MAX_LATE_NBYTES = 4096
#: The size at which the rank truncates the output of a process that cannot do so itself.
MAX_UNBOUNDED_NBYTES = 256 << 20


class Attempt(Protocol):
    """An attempt of a function, or of an element of an array, to which the index attributes output."""

    @property
    def id(self) -> Any: ...

    @property
    def attempt(self) -> int: ...


@dataclass(slots=True)
class OutputFiles:
    """The open files that take the output of one process.

    Attributes:
        out, index: descriptors that append; who makes this object closes them.
        launch: the number of the launch.
        max_nbytes: size of the file from which on little is kept of each attempt.
    """

    out: int
    index: int
    launch: int
    max_nbytes: int


def not_captured(error: OSError) -> str:
    """Return the message that the files cannot be opened."""
    where = f"{error.filename or 'its file'}: {error.strerror}"
    return f"output of functions is not captured: {where}; mend that, or run with --output off"


def make_entry(spec: Attempt, launch: int, offset: int, nbytes: int = -1, dropped: int = 0) -> str:
    """Return the line for an attempt that has begun to print; with ``nbytes``, for one that has ended."""
    # json takes three times as long for the whole
    entry = f'{{"id": {json.dumps(id_text(spec.id))}, "attempt": {spec.attempt}, "launch": {launch}, "offset": {offset}'
    return f'{entry}, "nbytes": {nbytes}, "dropped": {dropped}}}' if nbytes >= 0 else f"{entry}}}"


def append_entry(index: int, entry: str) -> None:
    """Add a line to an index."""
    try:
        os.write(index, f"{entry}\n".encode())
    except OSError:
        pass  # the disk is full: the output is there, attributed to no call


def end_of_killed(files: OutputFiles, id: object, attempt: int) -> str:
    """Write into the index what a call had printed whose process was killed; return the last lines."""
    begin = _end_of_index(files.index)
    size, dropped = size_of(files.out), 0
    if size <= begin:
        return ""
    if size - begin > 2 * MAX_ATTEMPT_NBYTES:
        dropped = size - begin - MAX_ATTEMPT_NBYTES
        size = begin + MAX_ATTEMPT_NBYTES
        os.ftruncate(files.out, size)
    entry = {"id": id_text(id), "attempt": attempt, "launch": files.launch, "offset": begin}
    append_entry(files.index, json.dumps({**entry, "nbytes": size - begin, "dropped": dropped}))
    return read_tail(files.out, begin, size - begin)


def bound_from_outside(files: OutputFiles) -> None:
    """Bound what another process prints, which cannot do so itself: native code there holds the interpreter."""
    size = size_of(files.out)
    if size <= MAX_UNBOUNDED_NBYTES or size - (begin := _end_of_index(files.index)) <= MAX_UNBOUNDED_NBYTES:
        return
    os.ftruncate(files.out, begin + MAX_ATTEMPT_NBYTES)
    dropped = size - begin - MAX_ATTEMPT_NBYTES
    os.write(files.out, f"\n[... {dropped:,} bytes dropped ...]\n".encode())


def _end_of_index(index: int) -> int:
    """Return where the call that runs, or the next one, has begun to print, as far as the index knows."""
    begin = 0
    for line in os.pread(index, 1 << 16, max(0, size_of(index) - (1 << 16))).splitlines():
        try:
            entry = json.loads(line)
            begin = entry["offset"] + entry.get("nbytes", 0)
        except (ValueError, KeyError, TypeError):
            pass  # the first one may be cut
    return begin


def read_tail(out: int, offset: int, nbytes: int) -> str:
    """Return the last lines of so many bytes of a file."""
    count = min(nbytes, MAX_LAST_NBYTES)
    try:
        return last_lines(os.pread(out, count, offset + nbytes - count), count == nbytes)
    except OSError:
        return ""
