"""How a loop waits: it spins a little, then sleeps in growing steps, and never on a large transfer.

A rank of the same host that sends something rings a doorbell, which ends a sleep at once; the steps are for all others.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Any

from handoff_mpi.comm.doorbell import AWAKE_S, Doorbell

#: Shorter spins would meet the sleep on every link of a chain.
SPIN_S = 0.0003
#: A wait this short would have ended in the spin, had the other side spun too: sleeps on both sides lengthen it.
_SHORT_WAIT_S = 0.0008
_MIN_SLEEP_S = 0.00005
#: Each look costs some 100 µs of a core, sleeping included: so few a second keep idle ranks well under 2 % of it.
MAX_SLEEP_S = 0.012
#: A sleep is at most this share of the time nothing has happened. Two loops that wait for each other then wake ever
#: sooner, down to the spin; with sleeps that merely grow, each would keep the other asleep for ever.
_SLEEP_SHARE = 1 / 8
#: Where all that may come rings, looks are for a ring that was left out: its sender took this rank to be awake.
_RUNG_SLEEP_SHARE = 1 / 2
_FD_SETSIZE = 1024

_offset = time.time() - time.monotonic()


def clock() -> float:
    """Return seconds since the epoch by a clock that never jumps."""
    return time.monotonic() + _offset


def at(monotonic_s: float) -> float:
    """Return what :func:`clock` said when ``time.monotonic()``, in any process of this host, was ``monotonic_s``."""
    return monotonic_s + _offset


class Backoff:
    """Decides between spinning and sleeping.

    It spins if what it waited for last came while it did. Where waits outlast the spin, the other process may need
    the core: then it sleeps at once.

    Args:
        doorbell: what is rung when something was sent here; None if nobody rings.
    """

    def __init__(self, doorbell: Doorbell | None = None) -> None:
        self._doorbell = doorbell
        self._alert_until = 0.0
        self._idle_since = 0.0
        self._idle_until = 0.0
        self._spins = True

    def was_busy(self) -> None:
        """Note that something was done just now."""
        if self._idle_until > self._idle_since:
            self._spins = self._idle_until - self._idle_since < _SHORT_WAIT_S
        self._idle_since = self._idle_until = clock()

    def wait(self, was_busy: bool, is_transferring: bool, until: float, wake: Sequence[object] = ()) -> None:
        """Wait a little, not beyond ``until``; anything readable in ``wake`` ends a sleep at once."""
        if not self.spin(was_busy, is_transferring):
            self.sleep(until, wake)

    def spin(self, was_busy: bool, is_transferring: bool) -> bool:
        """Wait as short as possible, if that is best; return whether it was. Else it is time to :meth:`sleep`.

        Args:
            was_busy: whether anything was done since the last wait.
            is_transferring: whether something is expected at once.
        """
        if was_busy:
            self.was_busy()
            return True
        now = self._idle_until = clock()
        if is_transferring or now < self._alert_until or (self._spins and now - self._idle_since < SPIN_S):
            os.sched_yield()
            return True
        return False

    def sleep(self, until: float, wake: Sequence[object] = (), all_rings: bool = False) -> None:
        """Sleep a little, not beyond ``until``; anything readable in ``wake`` ends it at once.

        Args:
            all_rings: see :attr:`~handoff_mpi.comm.transport.Transport.all_rings`.
        """
        now = self._idle_until
        idle_s = now - self._idle_since
        sleep_s = min(max(_MIN_SLEEP_S, idle_s * (_RUNG_SLEEP_SHARE if all_rings else _SLEEP_SHARE)), MAX_SLEEP_S)
        seconds = max(0.0, min(sleep_s, until - now))
        doorbell = self._doorbell
        if doorbell is not None:
            if doorbell in wait_for([*wake, doorbell], seconds):
                doorbell.clear()
                self._alert_until = clock() + AWAKE_S
        elif wake:
            wait_for(wake, seconds)
        else:
            time.sleep(seconds)


def wait_for(wake: Sequence[Any], seconds: float) -> list[Any]:
    """Wait until some of ``wake`` (each has a file descriptor) are readable, ``seconds`` at most; return those."""
    if max(each.fileno() for each in wake) < _FD_SETSIZE:
        return select.select(wake, (), (), seconds)[0]
    poll = select.poll()  # it knows all descriptors, but waits for whole milliseconds
    for each in wake:
        poll.register(each, select.POLLIN)
    readable = {fd for fd, _ in poll.poll(seconds * 1000)}
    return [each for each in wake if each.fileno() in readable]
