"""Starts the process that draws the live view, asks it to draw, and sees that the terminal is given back."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handoff_mpi import descendants
from handoff_mpi.process_context import this_process
from handoff_mpi.python_path import python_program
from handoff_mpi.visualization.bottom_rows import DELAY_S, GIVE_BACK

#: The process sleeps this long before it imports what it draws with: most runs are over by then.
_SLEEP_MS = 800
#: It answers within this time, or does not matter any more: somebody has stopped the terminal with Ctrl-S, say.
ANSWER_S = 2.0
# It leaves the process group of the terminal first, so that no key ends it.
_IMPORTS = f"""import os, select
os.setpgid(0, 0)
sleep = select.poll()
sleep.register(0, 0)
if sleep.poll({_SLEEP_MS}): sys.exit()
from handoff_mpi.visualization.viewer import main"""


class ViewerProcess:
    """The process that draws on one terminal.

    Args:
        terminal: a descriptor of it, which this object closes.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(ANSWER_S)
        self._number = 0
        self._shown_at = 0.0
        with theirs:
            program = python_program(_IMPORTS, "main()")
            self._process = subprocess.Popen(program, stdin=theirs.fileno(), stdout=terminal, stderr=subprocess.DEVNULL)
        descendants.spare(self._process.pid)

    @property
    def has_ended(self) -> bool:
        """Whether it no longer runs."""
        return self._process.poll() is not None

    def show(self, run_dir: Path) -> None:
        """Have it draw the run in ``run_dir``, once that has lasted for a second."""
        self._shown_at = time.monotonic()
        self._ask({"show": str(run_dir)})

    def hide(self) -> None:
        """Have it give the terminal back, and wait until it has."""
        if time.monotonic() - self._shown_at < DELAY_S:  # it has not drawn yet: a loop of small runs waits for nothing
            self._ask({"hide": 0})
            return
        self._number += 1
        self._ask({"hide": self._number})
        if not self._is_answered(self._number):
            self._give_back_if_killed()

    def close(self) -> None:
        """Have it end, and wait until it has."""
        self._sock.close()
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.returncode = 0  # it waits for the terminal, and ends after that
        self._give_back_if_killed()
        os.close(self._terminal)

    def abandon(self) -> None:
        """In a forked process: close what it has inherited."""
        self._sock.close()
        self._process.returncode = 0
        os.close(self._terminal)

    def _ask(self, what: dict[str, object]) -> None:
        try:
            self._sock.sendall(json.dumps(what).encode() + b"\n")
        except OSError:
            pass  # it was killed, and the next run starts another

    def _is_answered(self, number: int) -> bool:
        answers = b""
        end = time.monotonic() + ANSWER_S
        try:
            while time.monotonic() < end:
                arrived = self._sock.recv(4096)
                if not arrived:
                    return False
                answers += arrived
                if answers.endswith(b"\n") and int(answers.split()[-1]) >= number:
                    return True
        except (OSError, ValueError):
            pass
        return False

    def _give_back_if_killed(self) -> None:
        """Give the terminal back for a process that could not: it was killed."""
        if self._process.poll():
            try:
                os.write(self._terminal, GIVE_BACK.encode())
            except OSError:
                pass  # somebody has closed it


class OwnViewer:
    """The process that draws for this one, started once for all its runs; a part of the process context."""

    def __init__(self) -> None:
        self._viewer: ViewerProcess | None = None
        atexit.register(self.end)
        os.register_at_fork(after_in_child=self._forget)

    def on(self, terminal: int) -> ViewerProcess | None:
        """Return the process, which is started if none lives; None where it cannot be started."""
        if self._viewer is None or self._viewer.has_ended:
            self._viewer = _started(terminal)
        return self._viewer

    def end(self) -> None:
        """End the process, if there is one."""
        viewer, self._viewer = self._viewer, None
        if viewer is not None:
            viewer.close()

    def _forget(self) -> None:
        """In a forked process: the viewer is its parent's."""
        viewer, self._viewer = self._viewer, None
        if viewer is not None:
            viewer.abandon()


def _started(terminal: int) -> ViewerProcess | None:
    try:
        return ViewerProcess(os.dup(terminal))
    except OSError:
        return None


@contextmanager
def drawn(run_dir: Path, terminal: int | None) -> Iterator[None]:
    """Have the run in ``run_dir`` drawn on a terminal within ``with``; nothing if there is none."""
    viewer = None if terminal is None else this_process.of(OwnViewer).on(terminal)
    if viewer is None:
        yield
        return
    viewer.show(run_dir)
    try:
        yield
    finally:
        viewer.hide()
