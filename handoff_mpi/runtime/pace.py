"""How a loop waits: it spins a little, then sleeps in growing steps, and never on a large transfer."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Any

#: Shorter spins would meet the sleep on every link of a chain.
SPIN_S = 0.0003
_FIRST_SLEEP_S = 0.00005
LONGEST_SLEEP_S = 0.002

_offset = time.time() - time.monotonic()


def clock() -> float:
    """Return seconds since the epoch by a clock that never jumps."""
    return time.monotonic() + _offset


class Pace:
    """Decides between spinning and sleeping."""

    def __init__(self) -> None:
        self._idle_since = 0.0
        self._sleep_s = _FIRST_SLEEP_S

    def wait(self, was_busy: bool, is_transferring: bool, until: float, wake: Sequence[Any] = ()) -> None:
        """Wait a little, not beyond ``until``; anything readable in ``wake`` ends a sleep at once."""
        now = clock()
        if was_busy:
            self._idle_since = now
            self._sleep_s = _FIRST_SLEEP_S
            return
        if is_transferring or now - self._idle_since < SPIN_S:
            os.sched_yield()
            return
        seconds = max(0.0, min(self._sleep_s, until - now))
        if wake:
            poll = select.poll()  # select() knows no descriptor from 1024 on
            for each in wake:
                poll.register(each, select.POLLIN)
            poll.poll(seconds * 1000)
        else:
            time.sleep(seconds)
        self._sleep_s = min(2 * self._sleep_s, LONGEST_SLEEP_S)
