"""The calls of a launch that took longest, found while it is running."""

from __future__ import annotations

import heapq
from typing import NamedTuple


class SlowCall(NamedTuple):
    """A call that has ended."""

    duration_s: float
    task: int
    rank: int
    has_failed: bool


class Slowest:
    """Keeps the longest calls, one for each task.

    Args:
        most: how many.

    Attributes:
        threshold_s: only calls that have taken longer may be among them; in a long run most have not.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: dict[int, SlowCall] = {}
        self.threshold_s = 0.0

    def add(self, task: int, duration_s: float, rank: int, has_failed: bool = False) -> None:
        """Take in a call that has ended, and has taken longer than the threshold."""
        known = self._calls.get(task)
        if known is None or duration_s > known.duration_s:
            self._calls[task] = SlowCall(duration_s, task, rank, has_failed)
        if len(self._calls) >= 2 * self._most:
            self._calls = {call.task: call for call in self.calls()}
            self.threshold_s = min(call.duration_s for call in self._calls.values())

    def calls(self) -> list[SlowCall]:
        """Return the longest calls, the longest first."""
        return heapq.nsmallest(self._most, self._calls.values(), key=lambda call: (-call.duration_s, call.task))
