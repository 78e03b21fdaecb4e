"""The calls of a launch that took longest, found while it is running."""

from __future__ import annotations

import heapq


class Slowest:
    """Keeps the longest calls, one for each task.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: dict[int, tuple[float, int]] = {}
        self._least_s = 0.0

    def add(self, task: int, duration_s: float, rank: int) -> None:
        """Take in a call that has ended."""
        if duration_s <= self._least_s:
            return  # as most are, in a long run
        known = self._calls.get(task)
        if known is None or duration_s > known[0]:
            self._calls[task] = duration_s, rank
        if len(self._calls) >= 2 * self._most:
            self._calls = {task: (seconds, rank) for seconds, task, rank in self.calls()}
            self._least_s = min(seconds for seconds, _ in self._calls.values())

    def calls(self) -> list[tuple[float, int, int]]:
        """Return (seconds, task, rank) of the longest calls, the longest first."""
        found = ((seconds, task, rank) for task, (seconds, rank) in self._calls.items())
        return heapq.nsmallest(self._most, found, key=lambda call: (-call[0], call[1]))
