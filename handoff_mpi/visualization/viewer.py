"""The process that draws the live view of runs on a terminal.

It reads ``status.json`` alone, so that drawing costs the scheduler nothing. Its standard input is a socket of the
process that has started it; standard output is the terminal. Requests are lines of JSON: ``{"show": PATH}`` has it draw
the run in that directory; ``{"hide": NUMBER}`` has it give the terminal back and answer with the number, unless that is
0. It ends, and gives the terminal back, when the other end of the socket is closed, however that came about.

Another process group than the terminal's runs it, so that no key of the user's stops or ends it. It draws only while
the process that has started it is in the foreground.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from handoff_mpi.results.status_file import read_status
from handoff_mpi.visualization.bottom_rows import DELAY_S, BottomRows, terminal_size
from handoff_mpi.visualization.live_view import Painter, rows_for

#: Seconds between two frames, and between two looks at the terminal's size and at who is in the foreground.
VIEW_FRAME_S, VIEWER_POLL_INTERVAL_S = 0.5, 0.1
#: Seconds between two looks for the process that has started this one, while there is nothing to draw.
IDLE_LOOK_S = 2.0
#: Ranks that compute come first.
_NICENESS = 5
_REQUEST_NBYTES = 65536


def main() -> NoReturn:
    """Draw until the starting process closes its end of the socket."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTTOU, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    os.nice(_NICENESS)
    sock = socket.socket(fileno=os.dup(0))
    viewer = Viewer(_own_terminal(1), os.getppid())
    try:
        serve(sock, viewer)
    finally:
        viewer.close()
    sys.exit()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit()


def _own_terminal(fd: int) -> int:
    """Return a descriptor of the terminal for this process alone, which only then can lock it against other viewers."""
    try:
        return os.open(os.ttyname(fd), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # it has another name in this container
        return fd


def serve(sock: socket.socket, viewer: Viewer) -> None:
    """Obey requests and draw, until the other end is closed or the terminal no longer exists."""
    pending = b""
    is_waiting = select.poll()
    is_waiting.register(sock, select.POLLIN)
    while viewer.is_wanted:
        if is_waiting.poll(1000 * (VIEWER_POLL_INTERVAL_S if viewer.is_drawing else IDLE_LOOK_S)):
            arrived = sock.recv(_REQUEST_NBYTES)
            if not arrived:
                return
            *requests, pending = (pending + arrived).split(b"\n")
            for request in requests:
                number = viewer.obey(json.loads(request))
                if number:
                    sock.sendall(b"%d\n" % number)
        viewer.look(time.monotonic())


class Viewer:
    """Draws the run that was asked for.

    Args:
        fd: of the terminal.
        parent: the process that has started this one.
    """

    def __init__(self, fd: int, parent: int) -> None:
        self._fd = fd
        self._parent = parent
        self._rows = BottomRows(fd, sys.stdout.encoding)
        self._painter = Painter(sys.stdout.encoding)
        self._run_dir: Path | None = None
        self._wanted_at = 0.0
        self._next_frame = 0.0
        self._size: os.terminal_size | None = None
        self._beat: object = None
        self._beat_at = 0.0
        self._holds_terminal = False
        self.is_wanted = True

    @property
    def is_drawing(self) -> bool:
        """Whether a run is to be drawn."""
        return self._run_dir is not None

    def obey(self, request: dict[str, Any]) -> int:
        """Obey a request; return the number to answer with, or 0."""
        path = request.get("show")
        self._run_dir = None if path is None else Path(path)
        self._wanted_at, self._beat = time.monotonic(), None
        if path is None:
            self._give_back()
        return int(request.get("hide", 0))

    def look(self, now: float) -> None:
        """Draw a frame if one is due, and give the terminal back if nothing is to be drawn.

        Args:
            now: ``time.monotonic()``.
        """
        if os.getppid() != self._parent:
            self.is_wanted = False
            return
        try:
            size = terminal_size(self._fd)
            if not self._may_draw():
                self._give_back()
            elif now >= self._next_frame or size != self._size:
                self._next_frame, self._size = now + VIEW_FRAME_S, size
                self._draw(size, now)
        except OSError:
            self.is_wanted = False  # somebody has closed the terminal

    def close(self) -> None:
        """Give the terminal back."""
        try:
            self._give_back()
        except OSError:
            pass  # it no longer exists

    def _draw(self, size: os.terminal_size, now: float) -> None:
        status = {} if self._run_dir is None else read_status(self._run_dir)
        if status.get("status") != "running" or now < self._wanted_at + DELAY_S or not self._hold_terminal():
            self._give_back()
            return
        beat = status.get("beat")
        if beat is None or beat != self._beat:
            self._beat, self._beat_at = beat, now
        silent_s = now - self._beat_at
        rank_0_now = float(status["time_s"]) + silent_s if "time_s" in status else time.time()
        lines = self._painter.lines(status, rank_0_now, size.columns, rows_for(size.lines), silent_s)
        self._rows.draw(lines, size)

    def _may_draw(self) -> bool:
        """Whether the process that has started this one is in the foreground of the terminal."""
        if self._run_dir is None:
            return False
        try:
            return os.tcgetpgrp(self._fd) == os.getpgid(self._parent)
        except OSError as error:
            return error.errno == errno.ENOTTY  # it is not the terminal that controls this session

    def _hold_terminal(self) -> bool:
        """Lock the terminal, so that of two viewers one draws; return whether this one does."""
        if not self._holds_terminal:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._holds_terminal = True
            except BlockingIOError:
                return False
            except OSError:
                self._holds_terminal = True  # this system knows no locks of terminals
        return True

    def _give_back(self) -> None:
        self._rows.give_back()
        if self._holds_terminal:
            self._holds_terminal = False
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError:
                pass
