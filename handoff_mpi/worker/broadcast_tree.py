"""Remembers the ranks that took a value from this rank, and redirects later ranks to them, so that they form a tree.

N ranks that want one value at once would all have it from the rank that made it. So a rank serves a few of them, and
refers later ranks to one of those few, in turn. That one has the value, or waits for it: then it notes who
asked and serves once it has it, again a few. Nobody gives a value to more than ``FAN_OUT`` others (but after mishaps),
and the depth grows with the logarithm of N.
"""

from __future__ import annotations

from collections import deque

#: Wide enough that a few ranks need no detour; one that sends a value twice as often has it for others twice as late.
FAN_OUT = 4
#: Smaller values are sent sooner than another rank is asked.
REFERRED_NBYTES = 256 * 1024


class BroadcastTree:
    """The ranks that last took each value from this rank, or will take it.

    Args:
        fan_out: how many of them are known for each value; beyond these, ranks are referred.
    """

    def __init__(self, fan_out: int = FAN_OUT) -> None:
        self._fan_out = fan_out
        self._of: dict[int, deque[int]] = {}

    def note(self, task: int, rank: int) -> None:
        """``rank`` is served the value of ``task`` from here."""
        takers = self._of.setdefault(task, deque(maxlen=self._fan_out))
        if rank not in takers:
            takers.append(rank)

    def instead(self, task: int, rank: int) -> int | None:
        """Return whom ``rank`` should ask for the value of ``task`` instead; None if it is to be served from here."""
        takers = self._of.get(task)
        if takers is None or len(takers) < self._fan_out or rank in takers:  # a rank that asks again has lost it
            return None
        takers.rotate(-1)
        return takers[-1]

    def forget(self, task: int) -> None:
        """The value is not here any more, or will not come."""
        self._of.pop(task, None)

    def lose(self, rank: int) -> None:
        """``rank`` is lost, and what it took."""
        for takers in self._of.values():
            if rank in takers:
                takers.remove(rank)
