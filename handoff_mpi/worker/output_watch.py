"""The thread that bounds what a call prints while it runs, and ends the capture where the file system gets full."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from handoff_mpi.worker.output_index import MAX_ATTEMPT_NBYTES

#: Seconds between two checks of a file that does not grow, and of one that grows fast.
OUTPUT_CHECK_INTERVAL_S, MIN_LOOK_S = 0.1, 0.002
#: Capture stops where the file system has fewer free bytes: printing must not fail for lack of space.
MIN_FREE_NBYTES = 16 << 20
_FREE_LOOK_S = 1.0


class WatchedOutput(Protocol):
    """An output that grows: :class:`~handoff_mpi.worker.output.CallOutput`."""

    after_look: Callable[[], object]

    def look(self) -> int: ...
    def free_nbytes(self) -> int: ...
    def give_up(self, why: str) -> None: ...


class OutputWatch(threading.Thread):
    """Bounds what a call prints while it runs."""

    def __init__(self, output: WatchedOutput) -> None:
        super().__init__(name="handoff-output", daemon=True)
        self._output = output
        self._is_over = threading.Event()

    def run(self) -> None:
        size, pause_s, until_free = 0, OUTPUT_CHECK_INTERVAL_S, 0.0
        while not self._is_over.wait(pause_s):
            before, size = size, self._output.look()
            self._output.after_look()
            pause_s = _pause_s(size - before, pause_s)
            until_free -= pause_s
            if until_free <= 0:
                until_free = _FREE_LOOK_S
                self._look_at_room()

    def _look_at_room(self) -> None:
        try:
            free = self._output.free_nbytes()
        except OSError:
            return
        if free < MIN_FREE_NBYTES:
            self._is_over.set()
            self._output.give_up(f"the file system of the run-dir has {free >> 20} MB left")

    def close(self) -> None:
        self._is_over.set()


def _pause_s(grown: int, pause_s: float) -> float:
    """Return after how many seconds a file should be looked at that has grown so much in ``pause_s``."""
    if grown <= 0:
        return min(OUTPUT_CHECK_INTERVAL_S, 2 * pause_s)
    return max(MIN_LOOK_S, min(OUTPUT_CHECK_INTERVAL_S, pause_s * MAX_ATTEMPT_NBYTES / grown))
