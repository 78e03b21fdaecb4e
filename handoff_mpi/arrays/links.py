"""Links: which elements of one array the elements of another one take.

A link is arithmetic on intervals: it has no entry for each element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from handoff_mpi.arrays.intervals import Interval, IntervalSet

#: The source of a link to other elements of the array itself.
OWN = -1
#: No array has so many elements. A link to one whose elements are counted while it runs has so many indices until then.
UNKNOWN_COUNT = 1 << 48


@dataclass(frozen=True, slots=True)
class Link:
    """Elements of an array that take values of elements of ``source``.

    The array's element ``first + b`` takes those at the positions ``b * block`` up to ``(b + 1) * block`` of
    ``indices``; the last one takes what is left of them.

    Attributes:
        source: the number of an array, or :data:`OWN`.
        indices: of elements of the source.
        block: how many of them an element takes.
        first: the first element of the array that the link is about.
    """

    source: int
    indices: range
    block: int = 1
    first: int = 0

    def __len__(self) -> int:
        """Return how many elements of the array take any."""
        return -(-len(self.indices) // self.block)

    @property
    def elements(self) -> Interval:
        """The elements of the array that the link is about."""
        return self.first, self.first + len(self)

    def cut(self, count: int) -> Link:
        """Return the link where the source has no more than ``count`` elements."""
        return replace(self, indices=self.indices[: self.positions(0, count)[1]])

    def taken(self, start: int, stop: int) -> range:
        """Return the indices in the source that elements take, ``range(start, stop)`` of those with links."""
        return self.indices[(start - self.first) * self.block : (stop - self.first) * self.block]

    def taken_between(self, start: int, stop: int) -> range:
        """Return the indices in the source that elements of ``range(start, stop)`` take, if any of them does."""
        first, last = self.elements
        low, high = max(start, first), min(stop, last)
        return self.taken(low, high) if low < high else range(0)

    def positions(self, start: int, stop: int) -> Interval:
        """Return the positions of ``indices`` at which indices of ``range(start, stop)`` are: they lie side by side."""
        first, step, count = self.indices.start, self.indices.step, len(self.indices)
        if step > 0:
            low, high = -((first - start) // step), -((first - stop) // step)
        else:
            low, high = (first - stop) // -step + 1, (first - start) // -step + 1
        low = max(low, 0)
        return low, max(min(high, count), low)

    def touched(self, start: int, stop: int) -> Interval:
        """Return the elements of the array that take any of ``range(start, stop)`` of the source."""
        low, high = self.positions(start, stop)
        if low == high:
            return self.first, self.first
        return self.first + low // self.block, self.first - -high // self.block

    def supplied(self, have: IntervalSet, start: int, stop: int) -> Iterator[Interval]:
        """Yield those elements of ``range(start, stop)`` that take nothing but what is at the positions ``have``."""
        low, high = max(start, self.first), min(stop, self.first + len(self))
        bounds = (low - self.first) * self.block, min((high - self.first) * self.block, len(self.indices))
        for begin, end in have.within(*bounds):
            is_last = end == len(self.indices)
            begun, ended = -(-begin // self.block), len(self) if is_last else end // self.block
            if begun < ended:
                yield self.first + begun, self.first + ended
