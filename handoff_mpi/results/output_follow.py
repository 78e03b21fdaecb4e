"""Follows the output of functions as it is written: what is new in a file, whose it is, and as lines with prefixes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from handoff_mpi.formatting import without_controls
from handoff_mpi.results.output_files import IndexReader, Printed

#: At one look at most so much of a file is shown; of more, the last part.
MAX_SHOWN_NBYTES = 256 * 1024
#: What has been held back for so many looks, because its line has not ended, is shown.
_MAX_HELD_LOOKS = 2
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_RESET = "\x1b[0m"


class Follower:
    """Finds what is new in a file of output.

    Args:
        name: of the file, without ``.out``.
        out, index: descriptors to read it and its index; the object does not close them.
        begin: where to begin in the file.
        shows_prompts: whether a line that has not ended is shown soon: somebody may be asked for an answer.
    """

    def __init__(self, name: str, out: int, index: int, begin: int = 0, shows_prompts: bool = False) -> None:
        self._reader = IndexReader(name)
        self._out = out
        self._index = index
        self._index_position = 0
        self._rest = b""
        self._position = begin
        self._shows_prompts = shows_prompts
        self._held = 0

    @property
    def holds_back(self) -> bool:
        """Whether a line that has not ended may be shown at the next look, though nothing is new."""
        return self._held > 0

    def look(self, is_last: bool = False) -> Iterator[tuple[Printed | None, bytes]]:
        """Yield what is new, and whose; None stands for what was printed between calls.

        Args:
            is_last: whether what belongs to nobody yet, and lines that have not ended, are yielded too.
        """
        size = os.fstat(self._out).st_size  # before the index: the output it describes is in the file then
        self._read_index()
        self._position = min(self._position, size)  # the middle of what a call printed may have been dropped
        while (entry := self._entry()) is not None:
            end = entry.offset + entry.nbytes if entry.nbytes >= 0 else size
            if self._position < entry.offset:
                yield from self._new(None, entry.offset, True)
            yield from self._new(entry, min(end, size), entry.has_ended or is_last)
            if entry.nbytes < 0 or size < end:
                return
            self._position = end
        if is_last:
            yield from self._new(None, size, True)

    def _entry(self) -> Printed | None:
        """Return the first entry that is not behind the position; those before it are forgotten."""
        entries = self._reader.entries
        while len(entries) > 1 and entries[0].nbytes >= 0 and entries[0].offset + entries[0].nbytes <= self._position:
            del entries[0]
        if not entries or (entries[0].nbytes >= 0 and entries[0].offset + entries[0].nbytes <= self._position):
            return None
        return entries[0]

    def _read_index(self) -> None:
        while part := os.pread(self._index, 1 << 16, self._index_position):
            self._index_position += len(part)
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                self._reader.take(line)

    def _new(self, entry: Printed | None, end: int, has_ended: bool) -> Iterator[tuple[Printed | None, bytes]]:
        skipped = end - self._position - MAX_SHOWN_NBYTES
        if skipped > 0:
            self._position += skipped
            yield entry, f"[... {skipped:,} bytes not shown ...]\n".encode()
        part = os.pread(self._out, max(0, end - self._position), self._position)
        if not has_ended:
            part = self._whole_lines(part)
        self._position += len(part)
        if part:
            yield entry, part

    def _whole_lines(self, part: bytes) -> bytes:
        whole = part[: part.rfind(b"\n") + 1]
        if len(part) == len(whole):
            self._held = 0
        else:
            self._held = 1 if whole else self._held + 1
        if self._held > _MAX_HELD_LOOKS and self._shows_prompts:
            self._held = 0
            return part
        return whole


class LinePrefixer:
    """Puts before each line whose it is.

    Args:
        has_rank: whether the rank is put there too.
    """

    def __init__(self, has_rank: bool) -> None:
        self._has_rank = has_rank
        self._open: str | None = None  # the prefix of a line that has not ended

    def lines(self, rank: int, printed: Printed | None, part: bytes) -> str:
        """Return ``part`` as lines with prefixes; a terminal obeys nothing in it but colours."""
        prefix = self._prefix(rank, printed)
        before = "" if self._open in (None, prefix) else "\n"
        text = part.decode(errors="replace")
        if printed is not None and printed.has_ended and not text.endswith("\n"):
            text += "\n"  # a call has one part after its end
        first, *others = text.removesuffix("\n").split("\n")
        begin = "" if self._open == prefix else prefix
        self._open = None if text.endswith("\n") else prefix
        end = "\n" if text.endswith("\n") else ""
        return before + begin + "\n".join([visible(first), *(prefix + visible(line) for line in others)]) + end

    def end_line(self) -> str:
        """Return what ends a line that has not ended."""
        has_open, self._open = self._open is not None, None
        return "\n" if has_open else ""

    def _prefix(self, rank: int, printed: Printed | None) -> str:
        who = f"{rank}: " if self._has_rank else ""
        if printed is None:
            return f"{who}| "
        again = f" #{printed.attempt}" if printed.attempt > 1 else ""
        return f"{who}{visible(printed.id)}{again} | "


def visible(line: str) -> str:
    """Return a line as a terminal may show it: as its carriage returns leave it, controls but colours escaped."""
    if line.isprintable():
        return line
    kept = next((each for each in reversed(line.split("\r")) if each), "")
    if "\x1b" not in kept:
        return without_controls(kept)
    parts = [part if at % 2 else without_controls(part) for at, part in enumerate(_COLOUR.split(kept))]
    return "".join(parts) + (_RESET if len(parts) > 1 else "")
