"""The values of one array that rank 0 has: the columns that ranks have sent, found by index.

A column stays as it came, also where its values belong to many intervals; only what a caller asks for is unpacked. The
memory of a column may lie in a file, which is read where its values are asked for.
"""

from __future__ import annotations

import pickle
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_mpi.arrays.columns import Decode, Packed, to_numpy, unpack
from handoff_mpi.arrays.filed_columns import (
    FILED,
    ColumnSource,
    FiledColumn,
    count_of_any,
    cut_any,
    in_memory,
    nbytes_of_any,
)
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.serialization import Payload, decode_writable, decoder_of_parts, encode

if TYPE_CHECKING:
    import numpy


#: What is kept of a segment in a file: start, stop, first, number of its sort, and the facts of its column. It is
#: bytes, as there may be tens of thousands of segments: objects would take six times the memory.
_FILED_SEGMENT = struct.Struct("<qqqIqqq16s")


class _Segment(NamedTuple):
    """Indices whose values lie side by side: that of ``start`` at position ``first`` of ``column``."""

    start: int
    stop: int
    column: Any
    first: int

    def part(self, start: int, stop: int) -> Packed:
        """Return the column of the values of ``range(start, stop)``, which lies inside."""
        return cut_any(self.column, self.first + start - self.start, self.first + stop - self.start)


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
        """Take in those elements of a column that are ``wanted`` and have no value yet; return which these are."""
        filled: list[Interval] = []
        first = 0
        for start, stop in intervals:
            for bounds in wanted.within(start, stop):
                for low, high in self._without_value(*bounds):
                    self._insert(_Segment(low, high, column, first + low - start))
                    self.have.add(low, high)
                    filled.append((low, high))
            first += stop - start
        if filled:
            self.nbytes += nbytes_of_any(column)
        return filled

    def take(self, other: ArrayValues, start: int, stop: int) -> list[Interval]:
        """Take over those elements of ``range(start, stop)`` that only ``other`` has; return which these are."""
        taken: list[Interval] = []
        for segment in other._between(start, stop):
            for low, high in self._without_value(max(start, segment.start), min(stop, segment.stop)):
                first = segment.first + low - segment.start
                self._insert(_Segment(low, high, segment.column, first))
                self.have.add(low, high)
                self.nbytes += nbytes_of_any(segment.column) * (high - low) // count_of_any(segment.column)
                taken.append((low, high))
        return taken

    def inline_columns(self) -> Iterator[Packed]:
        """Yield the columns that lie in memory, each once for each of its segments."""
        return (each.column for each in self._segments if isinstance(each, _Segment))

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
        segment = self._at(place) if place >= 0 else None
        if segment is None or index >= segment.stop:
            raise KeyError(index)
        return segment.part(index, index + 1)

    def values(self, start: int, stop: int, step: int = 1) -> list[Any]:
        """Return the values of the elements of ``range(start, stop, step)``, which are indices of the array.

        Raises:
            KeyError: naming the first of them without a value.
            EncodingError: a value cannot be decoded in this process.
        """
        wanted = range(start, stop, step)
        upwards = wanted if step > 0 else wanted[::-1]
        found: list[Any] = []
        for segment in self._between(upwards.start, upwards.stop) if upwards else ():
            inside = upwards[_position(upwards, segment.start) : _position(upwards, segment.stop)]
            if inside:
                values = unpack(segment.part(inside[0], inside[-1] + 1), decode_writable)
                found += values if inside.step == 1 else values[:: inside.step]
        if len(found) != len(wanted):
            raise KeyError(next(index for index in wanted if index not in self.have))
        if step < 0:
            found.reverse()
        return found

    def to_numpy(self) -> numpy.ndarray[Any, Any]:
        """Return the values that are there, in the order of their indices, as one array; axis 0 is that of elements."""
        import numpy  # the caller wants an array of it

        arrays = [to_numpy(part, decode_writable) for part in self._parts()]
        return numpy.concatenate(arrays) if arrays else numpy.empty(0)

    def payload(self) -> Payload:
        """Return a payload that decodes to the list of all values; every element has one.

        Memory that columns hold is not copied, and each consumer of the payload makes a list of its own.
        """
        assert self.is_complete, "each element has a value"
        return encode(_Gathered([*self._parts()]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the values themselves: who unpickles them may not have the file."""
        return _with_parts, (self.count, self._starts, [in_memory(part) for part in self._parts()])

    def _parts(self) -> Iterator[Packed]:
        """Yield columns of all values."""
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

    def _filed(self, segment: _Segment) -> bytes:
        """Return what is kept of a segment whose column lies in a file."""
        column = segment.column
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
        self._starts.insert(place, segment.start)
        is_filed = isinstance(segment.column, FiledColumn)
        self._segments.insert(place, self._filed(segment) if is_filed else segment)

    def _between(self, start: int, stop: int) -> Iterator[_Segment]:
        """Yield the segments that have indices in ``range(start, stop)``, in order."""
        for place in range(max(bisect_right(self._starts, start) - 1, 0), len(self._segments)):
            if self._starts[place] >= stop:
                return
            yield self._at(place)


def list_of(columns: tuple[Packed, ...]) -> list[Any]:
    """Return the values of ``columns`` as one list; pickles of gathered arrays name this function."""
    decode: Decode = decoder_of_parts()
    found: list[Any] = []
    for packed in columns:
        found += unpack(packed, decode)
    return found


def _with_parts(count: int, starts: Sequence[int], parts: Sequence[Packed]) -> ArrayValues:
    """Return values of which parts begin at ``starts``; pickles of them name this function."""
    values = ArrayValues(count)
    for start, part in zip(starts, parts, strict=True):
        values.put([(start, start + count_of_any(part))], part)
    return values


class _Gathered:
    """Pickled, it becomes the list of the values of columns."""

    def __init__(self, columns: Sequence[Packed]) -> None:
        self._columns = columns

    def __reduce__(self) -> tuple[Any, ...]:
        return list_of, (tuple(map(_out_of_band, self._columns)),)


def _out_of_band(packed: Packed) -> Packed:
    """Return a column whose memory need not be copied into a pickle."""
    memory = (bytes, bytearray, memoryview)
    return tuple(pickle.PickleBuffer(part) if isinstance(part, memory) else part for part in packed)


def _position(indices: range, bound: int) -> int:
    """Return how many of the ascending ``indices`` lie below ``bound``."""
    return min(max(-((indices.start - bound) // indices.step), 0), len(indices))
