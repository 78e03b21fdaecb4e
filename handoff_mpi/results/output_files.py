"""The output of functions as files of a run-dir: their names, and reading them.

``output/rank-N.out`` holds what the calls in rank N print, ``output/rank-N.slot-S.out`` what those in the child process
of its slot S print. The index beside each (``.index``, see :mod:`handoff_mpi.worker.output_index`) says which attempt
printed what. Nothing here is unpickled, and nothing that the files say is trusted: they may be somebody else's.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from handoff_mpi.formatting import MAX_LAST_NBYTES, last_lines
from handoff_mpi.results.secure_files import Directory

#: The directory below the run-dir.
OUTPUT = "output"
_NAME = re.compile(r"rank-(\d{1,9})(?:\.slot-(\d{1,9}))?\.(?:out|index)")
_MAX_LINE_NBYTES = 16_384
#: An attempt is read in parts of this size.
PART_NBYTES = 1 << 16


def file_name(rank: int, slot: int | None = None) -> str:
    """Return the name of the files of a rank, or of a slot of it, without ``.out`` or ``.index``."""
    return f"rank-{rank}" if slot is None else f"rank-{rank}.slot-{slot}"


@dataclass(slots=True)
class Printed:
    """Something that an attempt printed.

    Attributes:
        id: as text.
        rank: where it ran.
        name: of its file, without ``.out``.
        offset, nbytes: where in the file.
        dropped: how many bytes more it printed that were not kept.
        has_ended: whether the attempt has ended, and said so.
    """

    id: str
    attempt: int
    launch: int
    rank: int
    name: str
    offset: int
    nbytes: int
    dropped: int = 0
    has_ended: bool = True


class OutputDirectory:
    """The ``output`` directory of any user's run-dir, opened for reading.

    Args:
        run_dir: the path of the run-dir.

    Attributes:
        unreadable: how many lines of indexes could not be read.

    Raises:
        OSError: there is none, or it cannot be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self.fd = os.open(run_dir / OUTPUT, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.unreadable = 0

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)

    def __enter__(self) -> OutputDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has_output(self) -> bool:
        """Return whether functions have printed anything that was kept."""
        return any(name.endswith(".index") for name in os.listdir(self.fd))  # noqa: PTH208

    def names(self) -> list[str]:
        """Return the names of its files, without ``.out``, by rank and slot."""
        found = {match[0].rpartition(".")[0]: match for match in map(_NAME.fullmatch, os.listdir(self.fd)) if match}  # noqa: PTH208
        return sorted(found, key=lambda name: (int(found[name][1]), int(found[name][2] or -1)))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file.

        Raises:
            OSError: it is not there, is not a regular file, or cannot be read.
        """
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(f"{name} is not a regular file")
            yield file

    def size(self, name: str) -> int:
        """Return the size of the output of ``name``; 0 if it cannot be read."""
        try:
            status = os.stat(f"{name}.out", dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def printed(self, name: str) -> list[Printed]:
        """Return what attempts have printed into the file ``name``, in order."""
        table = IndexReader(name)
        try:
            with self.open(f"{name}.index") as file:
                while line := file.readline(_MAX_LINE_NBYTES):
                    table.take(line)
        except OSError:
            pass
        self.unreadable += table.unreadable
        return table.finished(self.size(name))

    def all_printed(self) -> list[Printed]:
        """Return what all attempts have printed."""
        return [each for name in self.names() for each in self.printed(name)]

    def read(self, printed: Printed) -> Iterator[bytes]:
        """Yield what an attempt has printed, in parts; nothing if it cannot be read."""
        try:
            with self.open(f"{printed.name}.out") as file:
                left = min(printed.nbytes, os.fstat(file.fileno()).st_size - printed.offset)
                file.seek(printed.offset)
                while left > 0 and (part := file.read(min(left, PART_NBYTES))):
                    left -= len(part)
                    yield part
        except OSError:
            return

    def last_lines(self, printed: Printed) -> str:
        """Return the last lines of what an attempt has printed."""
        skipped = max(0, printed.nbytes - MAX_LAST_NBYTES)
        rest = replace(printed, offset=printed.offset + skipped, nbytes=printed.nbytes - skipped)
        return last_lines(b"".join(self.read(rest)), not skipped)


class IndexReader:
    """Puts the lines of one index together.

    Attributes:
        entries: what was printed, in order; nbytes is -1 of an attempt that has not said how much.
    """

    def __init__(self, name: str) -> None:
        match = _NAME.fullmatch(f"{name}.out")
        self._rank = int(match[1]) if match else -1
        self._name = name
        self.entries: list[Printed] = []
        self.unreadable = 0

    def take(self, line: bytes) -> None:
        """Take in a line of any content."""
        try:
            entry = json.loads(line)
            offset = _whole(entry["offset"])
            self._end_before(offset)
            if "id" in entry:
                self._take_entry(entry, offset)
        except (ValueError, KeyError, TypeError, RecursionError):
            self.unreadable += 1

    def _take_entry(self, entry: dict[str, object], offset: int) -> None:
        has_ended = "nbytes" in entry
        nbytes, dropped = (_whole(entry["nbytes"]), _whole(entry["dropped"])) if has_ended else (-1, 0)
        numbers = _whole(entry["attempt"]), _whole(entry["launch"])
        printed = Printed(str(entry["id"]), *numbers, self._rank, self._name, offset, nbytes, dropped, has_ended)
        last = self.entries[-1] if self.entries else None
        if last is not None and not last.has_ended and _is_of(last, printed):
            self.entries[-1] = printed
        else:
            self.entries.append(printed)

    def _end_before(self, offset: int) -> None:
        """An attempt without a recorded length ends where the next one begins."""
        if self.entries and self.entries[-1].nbytes < 0 and offset > self.entries[-1].offset:
            self.entries[-1].nbytes = offset - self.entries[-1].offset

    def finished(self, size: int) -> list[Printed]:
        """Return what was printed into a file of that size."""
        self._end_before(size)
        for each in self.entries:
            each.nbytes = max(0, min(each.nbytes, size - each.offset))
        return [each for each in self.entries if each.nbytes or each.dropped]


def _is_of(last: Printed, printed: Printed) -> bool:
    same = (last.id, last.attempt, last.launch, last.offset)
    return same == (printed.id, printed.attempt, printed.launch, printed.offset)


def _whole(value: object) -> int:
    """Return a number of the index.

    Raises:
        TypeError: it is not one.
    """
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise TypeError
    return value


def text_of(directory: OutputDirectory, printed: Iterable[Printed]) -> str:
    """Return what attempts have printed as text; bytes that are no UTF-8 are replaced."""
    return b"".join(part for each in printed for part in directory.read(each)).decode(errors="replace")


def clear_output(run_dir: Directory) -> None:
    """Remove what earlier launches have kept of the output of functions."""
    run_dir.remove_directory(OUTPUT)


def remove_empty_output(run_dir: Directory) -> None:
    """Remove the directory of output if functions have not printed anything that was kept."""
    try:
        os.rmdir(OUTPUT, dir_fd=run_dir.fd)
    except OSError:
        pass  # it is not empty, or does not exist
