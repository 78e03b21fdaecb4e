"""The bottom rows of a terminal, kept for a view while everybody else's output scrolls above them.

The terminal itself keeps output out of these rows: its scrolling region (DECSTBM) ends above them. So functions,
programs and native code print on the terminal as ever, a debugger and ``input()`` work, and no output passes through
this package. Each change is one ``write``, which the kernel does not mix with the output of others, and it leaves the
cursor, and the colours that others have set, as they were.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

_ESC = "\x1b"
_SAVE, _RESTORE = f"{_ESC}7", f"{_ESC}8"
_WHOLE_SCREEN = f"{_ESC}[r"
_DOWN = f"{_ESC}D"  # unlike a line feed, it keeps the column
_CLEAR_LINE, _CLEAR_BELOW = f"{_ESC}[2K", f"{_ESC}[J"
_PLAIN = f"{_ESC}[0m"
#: The size of a terminal that does not tell its own.
_USUAL_SIZE = os.terminal_size((80, 24))
#: A run that is over sooner is not drawn.
DELAY_S = 1.0
#: Gives the terminal back where the process that drew was killed; what is drawn below the cursor is cleared.
GIVE_BACK = f"{_SAVE}{_WHOLE_SCREEN}{_RESTORE}{_CLEAR_BELOW}"


def terminal_size(fd: int) -> os.terminal_size:
    """Return the size of a terminal; the usual one if it does not know its own.

    Raises:
        OSError: it no longer exists.
    """
    size = os.get_terminal_size(fd)
    return size if size.columns > 0 and size.lines > 0 else _USUAL_SIZE


class BottomRows:
    """Draws lines in the bottom rows of a terminal.

    Args:
        fd: of the terminal.
        encoding: of the terminal.
    """

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self._fd = fd
        self._encoding = encoding
        self._size = _USUAL_SIZE
        self._count = 0

    @property
    def is_shown(self) -> bool:
        """Whether rows are kept."""
        return self._count > 0

    def draw(self, lines: Sequence[str], size: os.terminal_size) -> None:
        """Draw ``lines`` at the bottom of the terminal; as many rows stay kept as were at the most.

        Args:
            lines: none is longer than the terminal is wide.
            size: of the terminal; after a change the rows are found again.

        Raises:
            OSError: the terminal no longer exists.
        """
        count = max(len(lines), self._count)
        text = ""
        if size != self._size or count >= size.lines:
            text, count = self._forget(), min(len(lines), size.lines - 1)
            self._size = size
        text += self._keep(count)
        top = size.lines - count
        # Another program may have reset the scrolling region, so each frame sets it; that moves the cursor.
        text += f"{_SAVE}{_ESC}[1;{top}r"
        blank = count - len(lines)
        for row, line in enumerate([*[""] * blank, *lines][-count:]):
            text += f"{_ESC}[{top + row + 1};1H{_PLAIN}{_CLEAR_LINE}{line}"
        self._write(f"{text}{_PLAIN}{_RESTORE}")

    def give_back(self) -> None:
        """Clear the rows and let the whole terminal scroll again.

        Raises:
            OSError: the terminal no longer exists.
        """
        if not self._count:
            return
        if terminal_size(self._fd) != self._size:
            self._write(self._forget())
            return
        top = self._size.lines - self._count
        self._count = 0
        self._write(f"{_SAVE}{_WHOLE_SCREEN}{_ESC}[{top + 1};1H{_PLAIN}{_CLEAR_BELOW}{_RESTORE}")

    def _forget(self) -> str:
        """Return what clears the rows after a change of size: nobody knows where they are, but below the cursor."""
        was_shown, self._count = self._count > 0, 0
        return GIVE_BACK if was_shown else ""

    def _keep(self, count: int) -> str:
        """Return what makes room for more rows, so that the cursor, and all that was printed, is above them."""
        more, self._count = count - self._count, count
        return f"{_DOWN * more}{_ESC}[{more}A" if more > 0 else ""

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._fd, data) :]
