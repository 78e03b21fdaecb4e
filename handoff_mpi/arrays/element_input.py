"""The interface of what a user maps a function over, and how its elements are compared with those of earlier launches.

Elements are the same in two launches of a run where their digests are, one by one where they are few, in blocks of up
to ``BLOCK`` where they are many: see :meth:`ElementInput.same_prefix`. Digests are those of types and values, also of
elements that contain lists, tuples, dicts, arrays of numpy and objects of the standard library. A block with an object
of any other class has none, unless ``digest_object`` gives one: what the code of that class is would have to count.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from handoff_mpi.arrays.columns import Packed, pack
from handoff_mpi.arrays.digests import DIGEST_NBYTES, NO_DIGEST, DigestObject, digest_of, hashed
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import Link

if TYPE_CHECKING:
    from handoff_mpi.arrays.values import SentColumns

#: What a lease carries of one input: the columns that the elements of one interval lie in, in order.
Piece: TypeAlias = "tuple[Packed, ...]"
#: What the journal keeps of an input: its kind, how many elements it has, and what :meth:`same_prefix` compares.
Digests: TypeAlias = "tuple[Any, ...]"

#: Elements are encoded and compared in blocks of at most so many, which begin at multiples of their length.
BLOCK = 1024
#: An input has at most about so many digests, of 16 bytes, until its blocks are of ``BLOCK`` elements.
MAX_DIGESTS = 4096


class ElementInput(ABC):
    """One input of an array, with an element for each of its indices.

    Attributes:
        name: for messages.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self.name = name

    def __len__(self) -> int:
        return self._count

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """Return one element, as it is now."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory that the encoded elements take."""

    @abstractmethod
    def encode(self) -> None:
        """Take the elements as they are now; a second call does nothing.

        Raises:
            DAGError: naming each element that cannot be pickled, by index.
        """

    #: The ids of the arrays whose elements it takes.
    array_ids: Sequence[Hashable] = ()

    @abstractmethod
    def types(self) -> set[type]:
        """Return the exact types of the elements."""

    @abstractmethod
    def piece(self, start: int, stop: int) -> Piece:
        """Return what a rank needs for the elements of ``range(start, stop)``; they have been encoded."""

    def piece_of(self, start: int, stop: int, values: Callable[[Hashable], SentColumns]) -> Piece:
        """As :meth:`piece`, also where elements are values of arrays.

        Args:
            values: returns those of an array, by its id; the elements that are asked for have some.
        """
        return self.piece(start, stop)

    def links(self, number_of: Mapping[Hashable, int]) -> list[Link]:
        """Return which elements of arrays its elements take.

        Args:
            number_of: the numbers of arrays, by id.
        """
        return []

    def close(self, taken: int) -> None:  # noqa: B027 - few inputs have to know
        """The arrays whose elements it takes have ``taken`` elements each, which was not known before the run."""

    def digests(self, digest_object: DigestObject | None = None) -> Digests:
        """Return what says in a later launch which elements are the same, of plain built-ins.

        Args:
            digest_object: for blocks with objects of classes that are neither the standard library's nor numpy's.
        """
        length = length_of_blocks(self._count)
        starts = range(0, self._count, length)
        blocks = (self._digest(start, min(start + length, self._count), digest_object) for start in starts)
        return "blocks", self._count, b"".join(blocks), length

    def value_digests(self, digest_object: DigestObject | None = None) -> Digests:
        """Return the digests that count for what takes all values: a list of the integers of a range has that of it."""
        digests = self.digests(digest_object)
        values = self._ends_as_range() if digests[0] == "blocks" else None
        if values is None:
            return digests
        return value_digests_of(values) if blocks_of_range(values, digests[3]) == digests[2] else digests

    def _ends_as_range(self) -> range | None:
        """Return the integers that the elements are if they are those of a range; None where they are certainly not."""
        if not self._count:
            return range(0)
        first, second, last = self[0], self[min(1, self._count - 1)], self[self._count - 1]
        if not type(first) is type(second) is type(last) is int:
            return None
        step = second - first if self._count > 1 else 1
        return range(first, last + step, step) if step and last == first + step * (self._count - 1) else None

    def digest_of(self, indices: range, digest_object: DigestObject | None = None) -> bytes:
        """Return the digest of some elements in their order, zeros if one has none; they have been encoded."""
        if not indices:
            return hashed([])
        if indices.step == 1:
            return self._digest(indices.start, indices.stop, digest_object)
        pieces = [self.piece(index, index + 1) for index in indices]
        return digest_of(itertools.chain.from_iterable(pieces), digest_object)

    def same_prefix(self, earlier: Digests, digest_object: DigestObject | None = None) -> IntervalSet:
        """Return the indices whose elements are certainly those of an earlier launch.

        Args:
            earlier: what :meth:`digests` returned in that launch.
            digest_object: as it was given there.
        """
        if earlier[0] == "range":
            return self._same_as_range(range_of(earlier), digest_object)
        same = IntervalSet()
        if earlier[0] != "blocks" or len(earlier) != 4:  # a journal of before had blocks of another length
            return same
        _, count, blocks, length = earlier
        for number, start in enumerate(range(0, min(count, self._count), length)):
            stop = min(start + length, count)
            before = blocks[number * DIGEST_NBYTES : (number + 1) * DIGEST_NBYTES]
            if stop <= self._count and before != NO_DIGEST and before == self._digest(start, stop, digest_object):
                same.add(start, stop)
        return same

    def _digest(self, start: int, stop: int, digest_object: DigestObject | None) -> bytes:
        """Return the digest of the elements of a block, or of its first ones."""
        return digest_of(self.piece(start, stop), digest_object)

    def _same_as_range(self, earlier: range, digest_object: DigestObject | None) -> IntervalSet:
        """Return the indices whose elements are the integers that an earlier launch had there."""
        same, length = IntervalSet(), length_of_blocks(self._count)
        count = min(len(earlier), self._count)
        for first in range(0, count, length):
            for start, stop in self._before_the_run(first, min(first + length, count)):
                if self._digest(start, stop, digest_object) == digest_of_integers(earlier[start:stop]):
                    same.add(start, stop)
        return same

    def _before_the_run(self, start: int, stop: int) -> Iterator[Interval]:
        """Yield the parts of a block whose elements exist before the run."""
        yield start, stop


def length_of_blocks(count: int) -> int:
    """Return how many of ``count`` elements share a digest: a power of two."""
    return min(BLOCK, 1 << (max(count - 1, 0) // MAX_DIGESTS).bit_length())


def value_digests_of(values: range) -> Digests:
    """Return what :meth:`ElementInput.value_digests` does of these integers; fewer than two need no step."""
    count = len(values)
    return "range", count, values.start if count else 0, values.step if count > 1 else 1


def range_of(digests: Digests) -> range:
    """Return the range that had these digests."""
    _, count, start, step = digests
    return range(start, start + count * step, step)


def blocks_of_range(values: range, length: int) -> bytes:
    """Return the digests of blocks of the integers of a range."""
    return b"".join(digest_of_integers(values[start : start + length]) for start in range(0, len(values), length))


def digest_of_integers(values: range) -> bytes:
    """Return the digest of the integers of a range, which a list of them has too."""
    return digest_of((pack([*values]),), None)
