"""Pulls the elements of a windowed array from the user's iterables, in a thread that may be blocked there for ever."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

#: So many elements are pulled before other threads get their turn, which takes so long.
_BURST, _PAUSE_S = 4096, 0.00005


class ElementPuller:
    """Pulls elements in a thread of its own, at most so many that a window is full.

    The thread is a daemon: where it is blocked in the user's code it ends with the process, and keeps nobody waiting.

    Args:
        begin: returns the iterator, in the thread.
        window: at most so many elements are pulled and have not ended.
        wake: called in the thread when elements have come, or no more will.

    Attributes:
        error: what the user's code has raised; None if it has not.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]], window: int, wake: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._begin = begin
        self._window = window
        self._wake = wake
        #: The thread fills the last of these lists, an element at a time, while the caller takes what is in them.
        self._bursts: deque[list[Any]] = deque()
        self._taken = 0  # of the first of them
        self._allowed = threading.Condition()
        self._asked_for = 0
        self._ended = 0
        self._is_over = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="handoff-elements", daemon=True)

    def start(self) -> None:
        """Begin to pull."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether no more elements will come than those that can be taken now."""
        return self._is_over

    @property
    def has_news(self) -> bool:
        """Whether elements can be taken, or no more will come."""
        return self._is_over or len(self._bursts) > 1 or any(len(burst) > self._taken for burst in [*self._bursts])

    def take(self, most: int) -> list[Any]:
        """Return the next elements that have come, at most so many; no step of Python an element."""
        found: list[Any] = []
        while self._bursts and len(found) < most:
            is_whole = len(self._bursts) > 1 or self._is_over  # asked before its length is
            burst, start = self._bursts[0], self._taken
            self._taken = stop = min(len(burst), start + most - len(found))
            if is_whole and stop - start == len(burst):
                found += burst
            else:
                found += burst[start:stop]
                burst[start:stop] = [None] * (stop - start)  # a large element that is encoded should not stay here
            if stop < len(burst) or not is_whole:
                break
            self._bursts.popleft()
            self._taken = 0
        return found

    def allow(self, ended: int) -> None:
        """Let the thread pull until the window is full, of which ``ended`` elements have ended altogether."""
        if ended != self._ended:
            with self._allowed:
                self._ended = ended
                self._allowed.notify()

    def close(self) -> None:
        """Have the thread end as soon as the user's code returns; it is not waited for."""
        with self._allowed:
            self._is_closed = True
            self._allowed.notify()

    def _run(self) -> None:
        try:
            iterator = self._begin()
            while count := self._next_burst():
                burst: list[Any] = []
                self._bursts.append(burst)
                burst += itertools.islice(iterator, count)  # what came before an exception stays in it
                if len(burst) < count:
                    break
                self._wake()
                time.sleep(_PAUSE_S)
        except BaseException as error:  # a generator may raise SystemExit: it fails the array, not this thread
            self.error = error
        self._is_over = True
        self._wake()

    def _next_burst(self) -> int:
        """Wait until there is room in the window; return how many elements to pull, 0 if no more are wanted."""
        with self._allowed:
            while not self._is_closed:
                count = min(self._window + self._ended - self._asked_for, _BURST)
                if count > 0:
                    self._asked_for += count
                    return count
                self._allowed.wait()
            return 0
