"""A terminal for tests: a program runs in a pseudo-terminal, and pyte shows what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pyte
import pytest

from tests.conftest import ROOT

_NOT_PASSED = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_", "HANDOFF_", "NO_COLOR")


class Terminal:
    """A program in a terminal of its own.

    Args:
        command: the program and its words.
        cwd: where it runs.
        columns, lines: of the terminal.
        env: more variables.
    """

    def __init__(self, command, cwd, columns=80, lines=24, env=None):
        self.screen = pyte.HistoryScreen(columns, lines, history=2000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.rc = None
        variables = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED)}
        variables |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(env or {})}
        variables.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
                os.execvpe(command[0], [str(word) for word in command], variables)
            finally:
                os._exit(127)

    def read(self, seconds=0.05):
        """Take in what the program has printed; return whether it still has the terminal open."""
        try:
            if select.select([self.fd], [], [], seconds)[0]:
                arrived = os.read(self.fd, 65536)
                self.raw += arrived
                self._stream.feed(arrived)
                return bool(arrived)
        except OSError:  # as Linux says that nobody has it open
            return False
        return True

    def until(self, holds, timeout_s=30.0):
        """Read until ``holds()``; fail the test if that takes too long."""
        end = time.monotonic() + timeout_s
        while not holds():
            if not self.read() or time.monotonic() > end:
                if holds():
                    return
                pytest.fail(f"it never came about; the screen:\n{self.text}\n{self.raw[-200:]!r}")

    def end(self, timeout_s=30.0):
        """Read until the program has ended; return its exit code, negative for a signal."""
        end = time.monotonic() + timeout_s
        while self.rc is None:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.rc = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                pytest.fail(f"it has not ended; the screen:\n{self.text}\n{self.raw[-200:]!r}")
        while select.select([self.fd], [], [], 0.1)[0] and self.read():
            pass
        return self.rc

    def send(self, text):
        """Type on the keyboard."""
        os.write(self.fd, text.encode())

    def resize(self, columns, lines):
        """Resize as xterm does: what does not fit is cut off, and the scrolling region is reset."""
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def close(self):
        """End what is left."""
        if self.rc is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (OSError, ChildProcessError):
                pass
        if self.fd >= 0:
            os.close(self.fd)

    @property
    def lines(self):
        """The rows of the screen."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self):
        """The lines on the screen, and those that have scrolled off its top."""
        above = ["".join(line[column].data for column in sorted(line)).rstrip() for line in self.screen.history.top]
        return "\n".join([*above, *self.lines])

    @property
    def is_given_back(self):
        """Whether all of it scrolls, and the cursor is shown."""
        margins = self.screen.margins
        scrolls = margins is None or (margins.top, margins.bottom) == (0, self.screen.lines - 1)
        return scrolls and not self.screen.cursor.hidden


@pytest.fixture
def terminal(tmp_path):
    """Run ``python`` with some words in a terminal."""
    opened = []

    def run(*words, **options):
        opened.append(Terminal([sys.executable, *words], tmp_path, **options))
        return opened[-1]

    yield run
    for each in opened:
        each.close()
