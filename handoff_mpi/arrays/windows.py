"""The elements of a windowed array that rank 0 has: they were pulled from its iterables, and have not ended.

Elements are numbered as they come. Rank 0 encodes them in columns, and forgets a column when all of its elements have
ended. Digests of the elements tell a later launch which of them are the same. As of any array, they are made by block;
here a block is at most as long as the window, as the elements of a block may have to wait for its digest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from handoff_mpi.arrays.columns import NUMBERS, ColumnError, Packed, count_of, cut, nbytes_of, pack
from handoff_mpi.arrays.digests import NO_DIGEST, DigestObject, digest_of, hashed
from handoff_mpi.arrays.element_input import BLOCK, Digests, ElementInput, Piece
from handoff_mpi.arrays.inputs import next_length
from handoff_mpi.arrays.intervals import Interval, IntervalSet

#: Columns of the inputs of an array, one each, of the same elements.
_Row = tuple[Packed, ...]
#: At most so many elements make a row, where all columns are of numbers: cutting these costs next to nothing.
_MAX_ROW = 1 << 15


def block_length(window: int) -> int:
    """Return how many elements of an array with this window make a block: a power of two."""
    return 1 << min(window, BLOCK).bit_length() - 1


class ElementWindow:
    """The elements of one array that have not ended.

    Args:
        inputs: how many iterables they come from.
        size: at most so many elements are pulled and have not ended.

    Attributes:
        inputs, size: as given.
        block: the length of a block.
        count: how many elements were pulled so far.
    """

    def __init__(self, inputs: int, size: int) -> None:
        self.inputs = inputs
        self.size = size
        self.block = block_length(size)
        self.count = 0
        self._open = IntervalSet()
        self._starts: list[int] = []
        self._rows: list[_Row] = []
        self._left: list[int] = []
        self._row_length = 1  # until it is known how large elements are
        self._newest: list[tuple[int, _Row]] = []

    def add(self, elements: list[Any]) -> None:
        """Take in elements that follow those that are there.

        Args:
            elements: the elements, or tuples with an element of each input where there are several.

        Raises:
            ColumnError: some cannot be pickled; nothing was taken in.
        """
        rows = [*self._packed(elements)]
        block = self.count // self.block * self.block
        self._newest = [(start, row) for start, row in self._newest if start + count_of(row[0]) > block]
        self._open.add(self.count, self.count + len(elements))
        for row in rows:
            self._newest.append((self.count, row))
            self._starts.append(self.count)
            self._rows.append(row)
            self._left.append(count_of(row[0]))
            self.count += count_of(row[0])

    def _packed(self, elements: list[Any]) -> Iterator[_Row]:
        """Yield rows of the elements; a row is shorter where a column would be large, as some kinds travel whole."""
        place = 0
        while place < len(elements):
            part = elements[place : place + self._row_length]
            try:
                row = tuple(map(pack, [part] if self.inputs == 1 else map(list, zip(*part, strict=True))))
            except ColumnError as error:
                raise ColumnError({place + position: each for position, each in error.errors.items()}) from None
            self._row_length = min(_MAX_ROW if each[0] == NUMBERS else next_length(each) for each in row)
            if len(part) <= 2 * self._row_length:  # else once more, in smaller parts
                yield row
                place += len(part)

    def ended(self, intervals: Iterable[Interval]) -> None:
        """Forget elements that have ended, as soon as all of their column have."""
        for interval in intervals:
            for start, stop in self._open.within(*interval):
                self._open.discard(start, stop)
                self._forget(start, stop)

    def _forget(self, start: int, stop: int) -> None:
        first = place = bisect_right(self._starts, start) - 1
        while place < len(self._starts) and self._starts[place] < stop:
            low = self._starts[place]
            high = low + count_of(self._rows[place][0])
            self._left[place] -= min(stop, high) - max(start, low)
            place += 1
        kept = [each for each in range(first, place) if self._left[each]]
        self._starts[first:place] = [self._starts[each] for each in kept]
        self._rows[first:place] = [self._rows[each] for each in kept]
        self._left[first:place] = [self._left[each] for each in kept]

    def piece(self, number: int, start: int, stop: int) -> Piece:
        """Return what a rank needs of an input for elements that have not ended."""
        return tuple(self._cut(self._starts, self._rows, number, start, stop))

    @staticmethod
    def _cut(starts: Sequence[int], rows: Sequence[_Row], number: int, start: int, stop: int) -> Iterator[Packed]:
        place = bisect_right(starts, start) - 1
        while start < stop:
            packed, low = rows[place][number], starts[place]
            high = min(stop, low + count_of(packed))
            assert start < high, "an element that has ended is not sent again"
            yield cut(packed, start - low, high - low)
            start, place = high, place + 1

    def digest(self, stop: int, digest_object: DigestObject | None) -> bytes:
        """Return the digest of the elements of a block up to ``stop``; zeros if an element has none.

        Args:
            stop: lies in a block that was not complete before the last :meth:`add`, or of which no element has ended.
        """
        first = (stop - 1) // self.block * self.block
        starts, rows = self._starts, self._rows
        if self._newest[0][0] <= first:  # which has the elements that have ended, too
            starts, rows = [start for start, _ in self._newest], [row for _, row in self._newest]
        digests = [
            digest_of(self._cut(starts, rows, number, first, stop), digest_object) for number in range(self.inputs)
        ]
        return NO_DIGEST if NO_DIGEST in digests else hashed(digests)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the elements take."""
        return sum(nbytes_of(packed) for row in self._rows for packed in row)


class WindowedInput(ElementInput):
    """One input of a windowed array, with the elements that have not ended.

    Args:
        window: the elements.
        number: which of its inputs it is.
        name: for messages.
    """

    def __init__(self, window: ElementWindow, number: int, name: str) -> None:
        super().__init__(0, name)
        self._window = window
        self._number = number

    def __getitem__(self, index: int) -> Any:
        raise IndexError("the elements of a windowed array are known while it runs")

    @property
    def nbytes(self) -> int:
        return self._window.nbytes

    def encode(self) -> None:
        pass  # elements are encoded as they come

    def types(self) -> set[type]:
        return set()

    def piece(self, start: int, stop: int) -> Piece:
        return self._window.piece(self._number, start, stop)

    def digests(self, digest_object: DigestObject | None = None) -> Digests:
        return "window", 0, b""

    def same_prefix(self, earlier: Digests, digest_object: DigestObject | None = None) -> IntervalSet:
        return IntervalSet()  # it is not known before they are pulled
