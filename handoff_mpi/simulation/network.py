"""The fake clock, and a network that treats messages as MPI does, or worse.

Small messages of a pair of ranks keep their order. A large one travels in two parts: its header keeps the order, but
the message is there only once its buffers are, and small ones that were sent later overtake it meanwhile.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from handoff_mpi.messages import (
    CONSTANT,
    DISPATCH,
    FINISHED,
    FREE_VALUES,
    HEARTBEAT,
    INPUT_UNAVAILABLE,
    LOST,
    RETRACT,
    RETRACTED,
    VALUE,
    Message,
)

#: Only these have buffers that travel beside the message.
_LARGE = frozenset({VALUE, CONSTANT})
#: MPI repeats nothing, but these must not harm if they come again: twice at once, or much later.
_TWICE = frozenset({DISPATCH, FINISHED})
_AGAIN = frozenset({FINISHED, RETRACTED, INPUT_UNAVAILABLE, RETRACT, FREE_VALUES, LOST, HEARTBEAT})


class Clock:
    """The clock and its events: a heap of (time, serial number, event)."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, tuple[object, ...]]] = []
        self._serial = 0

    def at(self, time: float, *what: object) -> None:
        """Let ``what`` happen at ``time``."""
        self._serial += 1
        heapq.heappush(self._heap, (time, self._serial, what))

    def advance(self) -> tuple[Any, ...]:
        """Advance to the next event, and return it."""
        assert self._heap, "nothing will happen any more, and the run is not over"
        self.now, _, what = heapq.heappop(self._heap)
        return what


class Network:
    """Delivers messages as ``("message", source, dest, message)`` of the clock.

    Args:
        host_of: the host of a rank.
        repeats, is_slow: whether messages come again, and large ones take seconds.
        until: when that ceases.
        on_trouble: told what is wrong, and until when.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        host_of: Callable[[int], str],
        repeats: bool,
        is_slow: bool,
        until: float,
        on_trouble: Callable[[str, float], None],
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._host_of = host_of
        self._repeats = repeats
        self._is_slow = is_slow
        self._until = until
        self._on_trouble = on_trouble
        self._arrival: dict[tuple[int, int], float] = {}
        self._cut_until: dict[str, float] = {}

    def cut_off(self, host: str, until: float) -> None:
        """Delay all messages between ``host`` and others until ``until``."""
        self._cut_until[host] = max(until, self._cut_until.get(host, 0.0))

    def cut_until(self, host: str) -> float:
        """Return until when ``host`` is, or was, cut off."""
        return self._cut_until.get(host, -1.0)

    def send(self, source: int, dest: int, message: Message) -> None:
        """Let ``message`` arrive, now or then."""
        clock, rng, pair = self._clock, self._rng, (source, dest)
        arrival = max(clock.now + rng.expovariate(1000), self._arrival.get(pair, 0.0), self._end_of_cut(*pair))
        self._arrival[pair] = arrival
        kind, *_ = message
        if kind in _LARGE:
            arrival += self._transfer_s()
        clock.at(arrival, "message", source, dest, message)
        if self._repeats and clock.now < self._until:
            self._repeat(arrival, source, dest, kind, message)

    def _end_of_cut(self, source: int, dest: int) -> float:
        if not self._cut_until:
            return 0.0
        one, other = self._host_of(source), self._host_of(dest)
        return 0.0 if one == other else max(self._cut_until.get(one, 0.0), self._cut_until.get(other, 0.0))

    def _transfer_s(self) -> float:
        if not self._is_slow or self._clock.now >= self._until:
            return self._rng.expovariate(100)
        seconds = self._rng.choice((0.01, 0.5, 5.0)) * self._rng.random()
        self._on_trouble("slow value", self._clock.now + seconds)
        return seconds

    def _repeat(self, arrival: float, source: int, dest: int, kind: str, message: Message) -> None:
        rng = self._rng
        if kind in _TWICE and rng.random() < 0.03:
            self._on_trouble("repeat", arrival)
            self._clock.at(arrival, "message", source, dest, message)
        elif kind in _AGAIN and rng.random() < 0.05:
            later = arrival + rng.choice((0.01, 1.0, 40.0)) * rng.random()
            self._on_trouble("repeat", later)
            self._clock.at(later, "message", source, dest, message)
