"""How a loop waits: it spins a little, then sleeps in growing steps, and never on a large transfer."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Any

#: Shorter spins would meet the sleep on every link of a chain.
SPIN_S = 0.0003
#: A wait this short would have ended in the spin, had the other side spun too: sleeps on both sides lengthen it.
_SHORT_WAIT_S = 0.0008
_SHORTEST_SLEEP_S = 0.00005
#: Each look costs some 50 µs of a core, sleeping included: so few a second keep idle ranks well under 2 % of it.
LONGEST_SLEEP_S = 0.004
#: A sleep is at most this share of the time nothing has happened. Two loops that wait for each other then wake ever
#: sooner, down to the spin; with sleeps that merely grow, each would keep the other asleep for ever.
_SLEEP_SHARE = 1 / 8

_offset = time.time() - time.monotonic()


def clock() -> float:
    """Return seconds since the epoch by a clock that never jumps."""
    return time.monotonic() + _offset


def at(monotonic_s: float) -> float:
    """Return what :func:`clock` said when ``time.monotonic()``, in any process of this host, was ``monotonic_s``."""
    return monotonic_s + _offset


class Pace:
    """Decides between spinning and sleeping.

    It spins if what it waited for last came while it did. Where waits outlast the spin, whoever is waited for may
    need the core: then it sleeps at once.
    """

    def __init__(self) -> None:
        self._idle_since = 0.0
        self._idle_until = 0.0
        self._spins = True

    def was_busy(self) -> None:
        """Note that something was done just now."""
        if self._idle_until > self._idle_since:
            self._spins = self._idle_until - self._idle_since < _SHORT_WAIT_S
        self._idle_since = self._idle_until = clock()

    def wait(self, was_busy: bool, is_transferring: bool, until: float, wake: Sequence[Any] = ()) -> None:
        """Wait a little, not beyond ``until``; anything readable in ``wake`` ends a sleep at once."""
        if was_busy:
            self.was_busy()
            return
        now = self._idle_until = clock()
        idle_s = now - self._idle_since
        if is_transferring or (self._spins and idle_s < SPIN_S):
            os.sched_yield()
            return
        sleep_s = min(max(_SHORTEST_SLEEP_S, idle_s * _SLEEP_SHARE), LONGEST_SLEEP_S)
        seconds = max(0.0, min(sleep_s, until - now))
        if wake:
            poll = select.poll()  # select() knows no descriptor from 1024 on
            for each in wake:
                poll.register(each, select.POLLIN)
            poll.poll(seconds * 1000)
        else:
            time.sleep(seconds)
