"""The second thread of a child process: it sends what has ended of a lease while the first one computes the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from handoff_mpi.messages import LeaseReport
from handoff_mpi.worker.elements import ElementLoop

#: Parts of a lease are sent this often, also while one element lasts.
PART_INTERVAL_S = 0.05


class PartSender:
    """Sends parts of the leases of a child process, one lease at a time.

    Its thread begins with the first lease, and sleeps between leases that are far apart: most are shorter than its
    interval, and to wake it for each of them would take longer than they do.

    Args:
        send: sends a part to the rank; from the thread.
    """

    def __init__(self, send: Callable[[LeaseReport], object]) -> None:
        self._send = send
        self._loop: ElementLoop | None = None
        self._lock = threading.Lock()  # held while a part is taken and sent
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, loop: ElementLoop) -> None:
        """A lease begins."""
        self._loop = loop
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="handoff-parts", daemon=True)
            self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def finish(self) -> None:
        """The lease has ended: what was taken of it has been sent when this returns, and no more is taken."""
        with self._lock:
            self._loop = None

    def _run(self) -> None:
        while self._wake.wait():
            time.sleep(PART_INTERVAL_S)
            with self._lock:
                if self._loop is None:
                    self._wake.clear()
                    continue
                part = self._loop.take()
                if part is not None:
                    self._send(part)
