"""Which threads of this process call functions here: a run restores the directory and the environment after each call.

So while the calls of a run are made in one thread, runs and maps of other threads make theirs in child processes. Maps
that call functions where they are restore nothing, and may be side by side.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class CallingThread:
    """The thread that executes a run whose functions are called here, and those within that run; threads that map."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs_in = 0
        self._maps_in: Counter[int] = Counter()

    @contextmanager
    def running(self) -> Iterator[bool]:
        """Execute a run within ``with``, in this thread; give whether another thread calls functions here."""
        me = threading.get_ident()
        with self._lock:
            is_beside = self._is_of_others(me) or any(each != me for each in self._maps_in)
            takes = not (is_beside or self._runs_in)
            if takes:
                self._runs_in = me
        try:
            yield is_beside
        finally:
            if takes:
                self._runs_in = 0

    @contextmanager
    def mapping(self) -> Iterator[bool]:
        """Call functions where they are within ``with``; give whether a run of another thread does so."""
        me = threading.get_ident()
        with self._lock:
            is_beside = self._is_of_others(me)
            self._maps_in[me] += not is_beside
        try:
            yield is_beside
        finally:
            with self._lock:
                self._maps_in[me] -= not is_beside
                if not self._maps_in[me]:
                    del self._maps_in[me]

    def _is_of_others(self, me: int) -> bool:
        return self._runs_in not in (0, me)
