"""The lines of dag.py that add functions to a DAG, for messages about functions that are checked when all are added."""

from __future__ import annotations

from bisect import bisect_right
from types import FrameType

#: So many changes of the line are noted, at most: a loop over several lines changes it each time.
MAX_NOTED = 10_000
_PACKAGE = __file__.removesuffix("dag/places.py")


class Places:
    """Where the functions of a DAG were added: a new entry each time the line is another one."""

    def __init__(self) -> None:
        self._first: list[int] = []  # function of each entry
        self._texts: list[str] = []
        self._instruction = -1
        self._code = 0

    def note(self, function: int, frame: FrameType) -> None:
        """Note that ``frame`` adds the function of this number; it costs little where the last one was added there."""
        if frame.f_lasti == self._instruction and id(frame.f_code) == self._code:
            return
        self._instruction, self._code = frame.f_lasti, id(frame.f_code)
        if len(self._first) <= MAX_NOTED:
            file = frame.f_code.co_filename
            is_known = len(self._first) < MAX_NOTED and not file.startswith(_PACKAGE)
            self._first.append(function)
            self._texts.append(f"{file}, line {frame.f_lineno}" if is_known else "")

    def of(self, function: int) -> str:
        """Return the file and line that added the function of this number; empty if that is not known."""
        entry = bisect_right(self._first, function) - 1
        return self._texts[entry] if entry >= 0 else ""
