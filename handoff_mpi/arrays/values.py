"""The values of one array that rank 0 has: the columns that ranks have sent, found by index.

A column stays as it came, also where its values belong to many intervals; only what a caller asks for is unpacked. The
memory of a column may lie in a file, which is read where its values are asked for.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from handoff_mpi.arrays.columns import NONES, TAKEN, Packed, cut, select, to_numpy, unpack
from handoff_mpi.arrays.filed_columns import (
    FILED,
    ColumnSource,
    FiledColumn,
    count_of_any,
    loaded,
    nbytes_of_any,
)
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.serialization import decode_writable

if TYPE_CHECKING:
    import numpy


#: Of values at larger distances none are sent that lie between them.
MAX_SENT_STEP = 8


#: A segment in a file: start, stop, first, number of its sort; count, offset, nbytes and digest of its column. It is
#: bytes, as there may be tens of thousands of segments: objects would take six times the memory.
_FILED_SEGMENT = struct.Struct("<qqqIqqq16s")


class _Segment(NamedTuple):
    """Indices whose values lie side by side: that of ``start`` at position ``first`` of ``column``."""

    start: int
    stop: int
    column: Packed | FiledColumn
    first: int

    def part(self, start: int, stop: int) -> Packed:
        """Return the column of the values of ``range(start, stop)``, which lies inside."""
        return cut(loaded(self.column), self.first + start - self.start, self.first + stop - self.start)


class ArrayValues:
    """The values of the elements of one array, each a fresh object when it is asked for.

    Args:
        count: the number of elements.

    Attributes:
        have: the indices of the elements with values.
        nbytes: how many bytes the values take, in memory or in a file.
    """

    __slots__ = ("_numbers", "_segments", "_sorts", "_starts", "count", "have", "nbytes")

    def __init__(self, count: int) -> None:
        self.count = count
        self.have = IntervalSet()
        self.nbytes = 0
        self._starts: list[int] = []
        self._segments: list[_Segment | bytes] = []
        self._sorts: list[tuple[Packed, ColumnSource]] = []  # of columns in files: stubs without a count
        self._numbers: dict[tuple[Packed, int], int] = {}

    def __len__(self) -> int:
        """Return how many elements have values."""
        return len(self.have)

    @property
    def is_complete(self) -> bool:
        """Whether all elements have values."""
        return len(self.have) == self.count

    def put(self, intervals: Sequence[Interval], column: Packed | FiledColumn) -> None:
        """Take in the column of the elements of ``intervals``, in their order.

        An element that has a value keeps it.
        """
        first = 0
        for start, stop in intervals:
            for low, high in self._without_value(start, stop):
                self._insert(_Segment(low, high, column, first + low - start))
            self.have.add(start, stop)
            first += stop - start
        self.nbytes += nbytes_of_any(column)

    def fill(self, intervals: Sequence[Interval], column: Packed | FiledColumn, wanted: IntervalSet) -> list[Interval]:
        """Take in those elements of a column that are ``wanted`` and have no value yet; return which these are.

        A part of a column in memory is cut out, so that the rest does not stay there.
        """
        filled: list[Interval] = []
        first = 0
        for start, stop in intervals:
            for bounds in wanted.within(start, stop):
                for low, high in self._without_value(*bounds):
                    self._fill_in(low, high, column, first + low - start)
                    filled.append((low, high))
            first += stop - start
        return filled

    def take(self, other: ArrayValues, start: int, stop: int) -> list[Interval]:
        """Take over those elements of ``range(start, stop)`` that only ``other`` has; return which these are."""
        taken: list[Interval] = []
        for segment, inside in other._inside(range(start, stop)):
            for low, high in self._without_value(inside.start, inside.stop):
                self._fill_in(low, high, segment.column, segment.first + low - segment.start)
                taken.append((low, high))
        return taken

    def _fill_in(self, start: int, stop: int, column: Packed | FiledColumn, first: int) -> None:
        if isinstance(column, FiledColumn):
            self._insert(_Segment(start, stop, column, first))
            self.have.add(start, stop)
            self.nbytes += column.nbytes * (stop - start) // count_of_any(column)
        else:
            self.put([(start, stop)], cut(column, first, first + stop - start))

    def inline_nbytes(self) -> int:
        """Return how many bytes of the values are in memory."""
        columns = {id(each.column): each.column for each in self._segments if isinstance(each, _Segment)}
        return sum(map(nbytes_of_any, columns.values()))

    def __getitem__(self, index: int) -> Any:
        """Return the value of the element ``index``.

        Raises:
            KeyError: it has none.
            EncodingError: the value cannot be decoded in this process.
            ValueDamaged: the file does not hold it.
        """
        return unpack(self.column(index), decode_writable)[0]

    def column(self, index: int) -> Packed:
        """Return the value of the element ``index`` as a column of its own.

        Raises:
            KeyError: it has none.
            ValueDamaged: the file does not hold it.
        """
        place = bisect_right(self._starts, index) - 1
        segment = self._at(place) if place >= 0 else None
        if segment is None or index >= segment.stop:
            raise KeyError(index)
        return segment.part(index, index + 1)

    def columns(self, indices: range) -> list[Packed]:
        """Return columns of the values of ``indices``, in their order; each of these elements has one."""
        upwards = indices if indices.step > 0 else indices[::-1]
        found: list[Packed] = []
        for segment, inside in self._inside(upwards):
            before = segment.first - segment.start
            positions = range(inside.start + before, inside[-1] + before + 1, inside.step)
            found.append(select(loaded(segment.column), positions if indices is upwards else positions[::-1]))
        return found if indices is upwards else found[::-1]

    def values(self, start: int, stop: int, step: int = 1) -> list[Any]:
        """Return the values of the elements of ``range(start, stop, step)``, which are indices of the array.

        Raises:
            KeyError: naming the first of them without a value.
            EncodingError: a value cannot be decoded in this process.
            ValueDamaged: a file does not hold a value.
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

        arrays = [to_numpy(part, decode_writable) for part in self._parts()]
        return numpy.concatenate(arrays) if arrays else numpy.empty(0)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the values themselves: a process that unpickles them may not have the file."""
        return _with_parts, (self.count, [*self._starts], [*self._parts()])

    def _parts(self) -> Iterator[Packed]:
        """Yield a column of the values of each segment."""
        for place in range(len(self._segments)):
            segment = self._at(place)
            yield segment.part(segment.start, segment.stop)

    def _at(self, place: int) -> _Segment:
        segment = self._segments[place]
        if isinstance(segment, _Segment):
            return segment
        start, stop, first, number, count, offset, nbytes, digest = _FILED_SEGMENT.unpack(segment)
        (kind, *others), source = self._sorts[number]
        plain = FILED, count, (kind, count, *others), offset, nbytes, digest
        return _Segment(start, stop, FiledColumn(plain, source), first)

    def _packed(self, segment: _Segment, column: FiledColumn) -> bytes:
        """Return the form in which a segment is kept whose column lies in a file."""
        _, count, (kind, _, *others), offset, nbytes, digest = column.plain
        sort = (kind, *others)
        number = self._numbers.setdefault((sort, id(column.source)), len(self._sorts))
        if number == len(self._sorts):
            self._sorts.append((sort, column.source))
        return _FILED_SEGMENT.pack(segment.start, segment.stop, segment.first, number, count, offset, nbytes, digest)

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
        column = segment.column
        if not isinstance(column, FiledColumn) and column[0] == NONES:
            place, segment = self._with_neighbours(place, segment)
        self._starts.insert(place, segment.start)
        self._segments.insert(place, self._packed(segment, column) if isinstance(column, FiledColumn) else segment)

    def _with_neighbours(self, place: int, segment: _Segment) -> tuple[int, _Segment]:
        """Take out segments of None beside one of None, so that these need no memory; return place and all of them."""
        start, stop = segment.start, segment.stop
        if place < len(self._segments) and self._starts[place] == stop and self._is_none(place):
            stop = self._take_out(place)
        if place and self._is_none(place - 1) and self._at(place - 1).stop == start:
            place -= 1
            start = self._starts[place]
            self._take_out(place)
        return place, _Segment(start, stop, (NONES, stop - start), 0)

    def _is_none(self, place: int) -> bool:
        segment = self._segments[place]
        return (
            isinstance(segment, _Segment) and not isinstance(segment.column, FiledColumn) and segment.column[0] == NONES
        )

    def _take_out(self, place: int) -> int:
        """Take out a segment; return where it ended."""
        stop = self._at(place).stop
        del self._starts[place], self._segments[place]
        return stop

    def _inside(self, indices: range) -> Iterator[tuple[_Segment, range]]:
        """Yield the segments that hold some of the ascending ``indices``, each with those, in order."""
        if not indices:
            return
        for place in range(max(bisect_right(self._starts, indices.start) - 1, 0), len(self._segments)):
            if self._starts[place] >= indices.stop:
                return
            segment = self._at(place)
            inside = indices[_position(indices, segment.start) : _position(indices, segment.stop)]
            if inside:
                yield segment, inside


class SentColumns(Protocol):
    """The values of an array that may be sent: :class:`ArrayValues`, or :class:`ValuesToCome`."""

    def columns(self, indices: range) -> list[Packed]:
        """Return columns of the values of ``indices``, in their order; each of these elements has one, or will."""
        ...


class ValuesToCome:
    """The values of a lease that has not run yet, in the place of those of its array.

    Args:
        lease: its number.
        first: its first element; it has one interval.
    """

    def __init__(self, lease: int, first: int) -> None:
        self._lease = lease
        self._first = first

    def columns(self, indices: range) -> list[Packed]:
        """Return the columns that stand for the values of ``indices``, each one more than the one before."""
        return [(TAKEN, len(indices), self._lease, indices.start - self._first)]


def _with_parts(count: int, starts: Sequence[int], parts: Sequence[Packed]) -> ArrayValues:
    """Return values of which parts begin at ``starts``; pickles of them name this function."""
    values = ArrayValues(count)
    for start, part in zip(starts, parts, strict=True):
        values.put([(start, start + count_of_any(part))], part)
    return values


def _position(indices: range, bound: int) -> int:
    """Return how many of the ascending ``indices`` lie below ``bound``."""
    return min(max(-((indices.start - bound) // indices.step), 0), len(indices))
