"""The values of one array that rank 0 has: the columns that ranks have sent, found by index.

A column stays as it came, also where its values belong to many intervals; only what a caller asks for is unpacked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_mpi.arrays.columns import Packed, cut, nbytes_of, select, to_numpy, unpack
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.serialization import decode_writable

if TYPE_CHECKING:
    import numpy


#: Of values at larger distances none are sent that lie between them.
MAX_SENT_STEP = 8


class _Segment(NamedTuple):
    """Indices whose values lie side by side: that of ``start`` at position ``first`` of ``column``."""

    start: int
    stop: int
    column: Packed
    first: int

    def part(self, start: int, stop: int) -> Packed:
        """Return the column of the values of ``range(start, stop)``, which lies inside."""
        return cut(self.column, self.first + start - self.start, self.first + stop - self.start)


class ArrayValues:
    """The values of the elements of one array, each a fresh object when it is asked for.

    Args:
        count: the number of elements.

    Attributes:
        have: the indices of the elements with values.
        nbytes: the memory that the values take.
    """

    __slots__ = ("_segments", "_starts", "count", "have", "nbytes")

    def __init__(self, count: int) -> None:
        self.count = count
        self.have = IntervalSet()
        self.nbytes = 0
        self._starts: list[int] = []
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        """Return how many elements have values."""
        return len(self.have)

    @property
    def is_complete(self) -> bool:
        """Whether all elements have values."""
        return len(self.have) == self.count

    def put(self, intervals: Sequence[Interval], packed: Packed) -> None:
        """Take in the column of the elements of ``intervals``, in their order.

        An element that has a value keeps it.
        """
        first = 0
        for start, stop in intervals:
            for low, high in self._without_value(start, stop):
                self._insert(_Segment(low, high, packed, first + low - start))
            self.have.add(start, stop)
            first += stop - start
        self.nbytes += nbytes_of(packed)

    def __getitem__(self, index: int) -> Any:
        """Return the value of the element ``index``.

        Raises:
            KeyError: it has none.
            EncodingError: the value cannot be decoded in this process.
        """
        return unpack(self.column(index), decode_writable)[0]

    def column(self, index: int) -> Packed:
        """Return the value of the element ``index`` as a column of its own.

        Raises:
            KeyError: it has none.
        """
        place = bisect_right(self._starts, index) - 1
        if place < 0 or index >= self._segments[place].stop:
            raise KeyError(index)
        return self._segments[place].part(index, index + 1)

    def columns(self, indices: range) -> list[Packed]:
        """Return columns of the values of ``indices``, in their order; each of these elements has one."""
        upwards = indices if indices.step > 0 else indices[::-1]
        found: list[Packed] = []
        for segment, inside in self._inside(upwards):
            before = segment.first - segment.start
            positions = range(inside.start + before, inside[-1] + before + 1, inside.step)
            found.append(select(segment.column, positions if indices is upwards else positions[::-1]))
        return found if indices is upwards else found[::-1]

    def values(self, start: int, stop: int, step: int = 1) -> list[Any]:
        """Return the values of the elements of ``range(start, stop, step)``, which are indices of the array.

        Raises:
            KeyError: naming the first of them without a value.
            EncodingError: a value cannot be decoded in this process.
        """
        wanted = range(start, stop, step)
        upwards = wanted if step > 0 else wanted[::-1]
        found: list[Any] = []
        for segment, inside in self._inside(upwards):
            values = unpack(segment.part(inside[0], inside[-1] + 1), decode_writable)
            found += values if inside.step == 1 else values[:: inside.step]
        if len(found) != len(wanted):
            raise KeyError(next(index for index in wanted if index not in self.have))
        if step < 0:
            found.reverse()
        return found

    def parts(self, indices: range) -> Iterator[tuple[Packed, int, int]]:
        """Yield columns that the values of the ascending ``indices`` lie in, in order, so far as they are there.

        Of each the first value and those at multiples of the step behind it are meant: ``(column, index of the first
        value, step)``.
        """
        for segment, inside in self._inside(indices):
            if len(inside) > 1 and inside.step > MAX_SENT_STEP:
                yield from ((segment.part(index, index + 1), index, 1) for index in inside)
            else:
                yield segment.part(inside[0], inside[-1] + 1), inside[0], inside.step

    def to_numpy(self) -> numpy.ndarray[Any, Any]:
        """Return the values that are there, in the order of their indices, as one array; axis 0 is that of elements."""
        import numpy  # the caller wants an array of it

        arrays = [to_numpy(segment.part(segment.start, segment.stop), decode_writable) for segment in self._segments]
        return numpy.concatenate(arrays) if arrays else numpy.empty(0)

    def _without_value(self, start: int, stop: int) -> list[Interval]:
        there = self.have.within(start, stop)
        if not there:
            return [(start, stop)] if start < stop else []
        without = IntervalSet([(start, stop)])
        for interval in there:
            without.discard(*interval)
        return without.intervals()

    def _insert(self, segment: _Segment) -> None:
        place = bisect_right(self._starts, segment.start)
        self._starts.insert(place, segment.start)
        self._segments.insert(place, segment)

    def _inside(self, indices: range) -> Iterator[tuple[_Segment, range]]:
        """Yield the segments that hold some of the ascending ``indices``, each with those, in order."""
        if not indices:
            return
        for place in range(max(bisect_right(self._starts, indices.start) - 1, 0), len(self._segments)):
            segment = self._segments[place]
            if segment.start >= indices.stop:
                return
            inside = indices[_position(indices, segment.start) : _position(indices, segment.stop)]
            if inside:
                yield segment, inside


def _position(indices: range, bound: int) -> int:
    """Return how many of the ascending ``indices`` lie below ``bound``."""
    return min(max(-((indices.start - bound) // indices.step), 0), len(indices))
