"""Sets of indices, as the intervals that they consist of.

The indices of an array are leased, done and failed in runs, so that a million of them are few intervals. Each operation
finds its place by bisection and takes time in proportion to the intervals that it changes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeAlias

#: Indices from the first number up to the second one, which is not among them.
Interval: TypeAlias = "tuple[int, int]"


class IntervalSet:
    """A set of integers, kept as disjoint intervals in ascending order; its length is the number of the integers.

    Args:
        intervals: the intervals to begin with, in any order; they may overlap.
    """

    __slots__ = ("_count", "_starts", "_stops")

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        self.update(intervals)

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def __iter__(self) -> Iterator[Interval]:
        """Yield the intervals, the lowest first; no two of them touch."""
        return zip(self._starts, self._stops, strict=True)

    def intervals(self) -> list[Interval]:
        """Return the intervals, the lowest first; ``list(self)`` would make room for as many as there are members."""
        return list(iter(self))

    def __contains__(self, index: int) -> bool:
        place = bisect_right(self._starts, index) - 1
        return place >= 0 and index < self._stops[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"IntervalSet({self.intervals()})"

    def copy(self) -> IntervalSet:
        """Return an equal set."""
        other = IntervalSet()
        other._starts, other._stops, other._count = self._starts.copy(), self._stops.copy(), self._count
        return other

    def add(self, start: int, stop: int) -> None:
        """Add ``range(start, stop)``; intervals that it touches become one with it."""
        if start >= stop:
            return
        if not self._stops or start > self._stops[-1]:  # as most do, that come in their order
            self._starts.append(start)
            self._stops.append(stop)
            self._count += stop - start
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._replace(first, last, [start], [stop])

    def update(self, intervals: Iterable[Interval]) -> None:
        """Add each of ``intervals``."""
        for start, stop in intervals:
            self.add(start, stop)

    def discard(self, start: int, stop: int) -> None:
        """Remove the members that are in ``range(start, stop)``."""
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        low, high = self._starts[first], self._stops[last - 1]
        if low < start:
            self._replace(first, last, [low, stop] if stop < high else [low], [start, high] if stop < high else [start])
        elif stop < high:
            self._replace(first, last, [stop], [high])
        else:
            self._replace(first, last, [], [])

    def take(self, count: int) -> list[Interval]:
        """Remove the lowest ``count`` members, or all if they are fewer, and return them as intervals."""
        taken: list[Interval] = []
        if count >= self._count:
            taken = self.intervals()
            self._starts.clear()
            self._stops.clear()
            self._count = 0
            return taken
        for start, stop in self:
            if count <= 0:
                break
            taken.append((start, min(stop, start + count)))
            count -= stop - start
        if taken:
            self.discard(taken[0][0], taken[-1][1])
        return taken

    def within(self, start: int, stop: int) -> list[Interval]:
        """Return the intervals of the members that are in ``range(start, stop)``."""
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last or start >= stop:
            return []
        found = [*zip(self._starts[first:last], self._stops[first:last], strict=True)]
        if found[0][0] < start:
            found[0] = start, found[0][1]
        if found[-1][1] > stop:
            found[-1] = found[-1][0], stop
        return found

    def last_of(self, indices: range) -> int | None:
        """Return the largest of the ascending ``indices`` that is a member, None if none is."""
        if not indices:
            return None
        place = bisect_right(self._starts, indices[-1]) - 1
        while place >= 0 and self._stops[place] > indices.start:
            last = min(self._stops[place] - 1, indices[-1])
            last -= (last - indices.start) % indices.step
            if last >= self._starts[place]:
                return last
            place -= 1
        return None

    def missing(self, count: int) -> IntervalSet:
        """Return the integers of ``range(count)`` that are not members."""
        others = IntervalSet([(0, count)])
        for start, stop in self:
            others.discard(start, stop)
        return others

    def _replace(self, first: int, last: int, starts: list[int], stops: list[int]) -> None:
        """Put intervals into the place of those from number ``first`` up to ``last``."""
        self._count += sum(stops) - sum(starts) - sum(self._stops[first:last]) + sum(self._starts[first:last])
        self._starts[first:last] = starts
        self._stops[first:last] = stops
