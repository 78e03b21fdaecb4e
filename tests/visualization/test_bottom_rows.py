"""The bottom rows of a terminal: what others print stays above them, and the terminal is given back."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import tty

import pyte
import pytest

from handoff_mpi.visualization.bottom_rows import BottomRows


class Pty:
    """Both ends of a terminal in this process; what is written shows on ``screen``."""

    def __init__(self, columns, lines):
        self._ours, self.fd = pty.openpty()
        tty.setraw(self.fd)
        self.screen = pyte.HistoryScreen(columns, lines, history=1000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.resize(columns, lines)

    def resize(self, columns, lines):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def print(self, text):
        os.write(self.fd, text.replace("\n", "\r\n").encode())
        self.feed()

    def feed(self):
        self._stream.feed(os.read(self._ours, 65536))

    @property
    def size(self):
        return os.get_terminal_size(self.fd)

    @property
    def rows(self):
        return [line.rstrip() for line in self.screen.display]

    @property
    def above(self):
        """The rows that have scrolled off the top, and those on the screen, without empty ones."""
        history = ["".join(line[column].data for column in sorted(line)).rstrip() for line in self.screen.history.top]
        return [line for line in [*history, *self.rows] if line]

    def close(self):
        os.close(self._ours)
        os.close(self.fd)


@pytest.fixture
def terminal():
    made = Pty(40, 10)
    yield made
    made.close()


def drawn(terminal, rows, *lines):
    rows.draw(lines, terminal.size)
    terminal.feed()


@pytest.mark.parametrize("before", [0, 3, 8, 9, 10, 30])
def test_output_scrolls_above_the_rows_and_none_is_lost(terminal, before):
    rows = BottomRows(terminal.fd)
    said = [f"line {number}" for number in range(before + 30)]
    terminal.print("".join(f"{line}\n" for line in said[:before])) if before else None
    drawn(terminal, rows, "first", "second")
    for number in range(before, before + 30):
        terminal.print(f"{said[number]}\n")
        if number % 7 == 0:
            drawn(terminal, rows, f"first {number}", "second")
    drawn(terminal, rows, "first", "second")
    assert terminal.above == [*said, "first", "second"]
    assert terminal.rows[-2:] == ["first", "second"]
    rows.give_back()
    terminal.feed()
    assert terminal.above == said
    terminal.print("$ prompt")
    assert terminal.above == [*said, "$ prompt"]
    assert terminal.screen.margins is None


def test_a_line_that_is_typed_or_printed_in_parts_stays_whole(terminal):
    rows = BottomRows(terminal.fd)
    terminal.print("\n" * 9 + "\x1b[31mname? ")
    for count, text in enumerate("Ada", 1):
        drawn(terminal, rows, *["view"] * count)
        terminal.print(text)
    (row,) = [number for number, line in enumerate(terminal.rows) if line == "name? Ada"]
    assert row == terminal.screen.cursor.y
    assert terminal.screen.buffer[row][8].fg == "red", "the colour that was set is still set"


def test_more_rows_push_output_up_and_fewer_leave_empty_ones(terminal):
    rows = BottomRows(terminal.fd)
    terminal.print("".join(f"line {number}\n" for number in range(20)))
    drawn(terminal, rows, "a")
    drawn(terminal, rows, "a", "b", "c")
    assert terminal.rows[-4:] == ["", "a", "b", "c"]
    assert terminal.rows[-5] == "line 19"
    drawn(terminal, rows, "a")
    assert terminal.rows[-3:] == ["", "", "a"]


@pytest.mark.parametrize("size", [(40, 16), (40, 6), (80, 10), (20, 5), (40, 3)])
def test_after_a_change_of_size_the_rows_are_at_the_bottom_again_once(terminal, size):
    rows = BottomRows(terminal.fd)
    terminal.print("".join(f"line {number}\n" for number in range(4)))
    drawn(terminal, rows, "first", "second")
    terminal.resize(*size)
    drawn(terminal, rows, "first", "second")
    assert terminal.rows[-2:] == ["first", "second"]
    assert terminal.above.count("first") == terminal.above.count("second") == 1
    terminal.print("next\n")
    assert "next" in terminal.above
    terminal.resize(40, 12)
    rows.give_back()
    terminal.feed()
    assert "first" not in terminal.above
    assert terminal.screen.margins is None


def test_a_scrolling_region_that_a_program_resets_is_set_again(terminal):
    rows = BottomRows(terminal.fd)
    drawn(terminal, rows, "first", "second")
    terminal.print("\x1b[r\x1b[1;1H")
    drawn(terminal, rows, "first", "second")
    terminal.print("".join(f"line {number}\n" for number in range(30)))
    assert terminal.rows[-2:] == ["first", "second"]


def test_a_terminal_lower_than_the_view_shows_its_end(terminal):
    rows = BottomRows(terminal.fd)
    drawn(terminal, rows, *[f"row {number}" for number in range(20)])
    assert terminal.rows[1:] == [f"row {number}" for number in range(11, 20)]
    terminal.print("printed\n")
    assert terminal.rows[-1] == "row 19"


def test_a_terminal_that_was_closed_is_an_error(terminal):
    rows = BottomRows(os.dup(terminal.fd))
    drawn(terminal, rows, "view")
    os.close(rows._fd)
    with pytest.raises(OSError):
        rows.draw(["view"], terminal.size)
    with pytest.raises(OSError):
        rows.give_back()
