"""The tree in which values are folded: fixed by their number alone, so that sums of floats are the same in each run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from handoff_mpi.arrays.intervals import Interval
from handoff_mpi.arrays.links import OWN, Link


class Tree:
    """Aligned blocks of ``fan_in`` values, then blocks of the results of these, up to a single one.

    The blocks are numbered level by level, from 0; the last one gives the result.

    Args:
        count: how many values are folded, at least one.
        fan_in: how many values a block has, at least two; the last one of a level has what is left.

    Attributes:
        levels: the numbers of the blocks of each level.
        firsts: those of the first blocks of the levels, and the number of blocks.
    """

    __slots__ = ("count", "fan_in", "firsts", "levels")

    def __init__(self, count: int, fan_in: int) -> None:
        self.count = count
        self.fan_in = fan_in
        self.levels: list[Interval] = []
        first = 0
        while not self.levels or count > 1:
            count = -(-count // fan_in)
            self.levels.append((first, first + count))
            first += count
        self.firsts = [*(low for low, _ in self.levels), first]

    def __len__(self) -> int:
        """Return how many blocks there are."""
        return self.firsts[-1]

    def taken(self, block: int) -> Interval:
        """Return what a block takes: positions of values on the first level, else blocks."""
        level = bisect_right(self.firsts, block) - 1
        first, stop = self.levels[level - 1] if level else (0, self.count)
        low = first + (block - self.firsts[level]) * self.fan_in
        return low, min(low + self.fan_in, stop)

    def folded(self, block: int) -> Interval:
        """Return the positions of all values whose fold the result of a block is."""
        low, high = self.taken(block)
        while block >= self.firsts[1]:
            low, high, block = self.taken(low)[0], self.taken(high - 1)[1], low
        return low, high

    def links(self) -> list[Link]:
        """Return which blocks of an array with these levels take results of others of its blocks."""
        pairs = zip(self.levels, self.levels[1:], strict=False)
        return [Link(OWN, range(first, last), self.fan_in, low) for (first, last), (low, _) in pairs]

    def parts(self, start: int, stop: int) -> Iterator[Interval]:
        """Yield the blocks of ``range(start, stop)``, those of each level apart."""
        for first, last in self.levels:
            low, high = max(start, first), min(stop, last)
            if low < high:
                yield low, high
