"""Inputs of arrays whose elements are values of other arrays: one by one, or blocks of them that are folded.

Where the number of these is known while the run continues, two arrays fold them: the blocks of the first level are
computed as they come, and the others once all have.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.columns import BLOCKS, Packed
from handoff_mpi.arrays.digests import DigestObject
from handoff_mpi.arrays.element_input import Digests, ElementInput, Piece
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import UNKNOWN_COUNT, Link
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.arrays.values import SentColumns

_ValuesOf = Callable[[Hashable], SentColumns]


class _TakenInput(ElementInput):
    """Values of other arrays alone, none of which exists before the run."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("values of an array do not exist before the run")

    @property
    def nbytes(self) -> int:
        return 0

    def encode(self) -> None:
        pass  # there is nothing that could change

    def types(self) -> set[type]:
        return set()

    def piece(self, start: int, stop: int) -> Piece:
        raise AssertionError("values of an array do not exist before the run")


class LinkedInput(_TakenInput):
    """Values of elements of another array.

    Args:
        id: of that array.
        array_count: how many elements it has.
        indices: of the elements.
        name: for messages.
    """

    def __init__(self, id: Hashable, array_count: int, indices: range, name: str) -> None:
        super().__init__(len(indices), name)
        self.id = id
        self.array_count = array_count
        self.array_ids = (id,)
        self._indices = indices

    def piece_of(self, start: int, stop: int, values: _ValuesOf) -> Piece:
        return tuple(values(self.id).columns(self._indices[start:stop]))

    def links(self, number_of: Mapping[Hashable, int]) -> list[Link]:
        return [Link(number_of[self.id], self._indices)]

    def taken(self, elements: range) -> range:
        """Return the indices in the other array that some elements take."""
        first, step = self._indices.start, self._indices.step
        return range(first + elements.start * step, first + elements.stop * step, elements.step * step)

    def digests(self, digest_object: DigestObject | None = None) -> Digests:
        return "link", self._count, self._indices.start, self._indices.step

    def same_prefix(self, earlier: Digests, digest_object: DigestObject | None = None) -> IntervalSet:
        """Return the indices that take the same elements; what became of these is not known here."""
        if earlier[0] != "link" or earlier[2:] != (self._indices.start, self._indices.step):
            return IntervalSet()
        return IntervalSet([(0, min(earlier[1], self._count))])


class BlocksInput(_TakenInput):
    """Blocks of values of an array, the number of which is known while it runs.

    Args:
        values: the values.
        fan_in: how many values a block has; the last one has what is left.
        name: for messages.

    Attributes:
        input: the values.
    """

    def __init__(self, values: LinkedInput, fan_in: int, name: str) -> None:
        super().__init__(0, name)
        self.array_ids = values.array_ids
        self.input = values
        self._fan_in = fan_in
        self._taken = len(values)

    def types(self) -> set[type]:
        return {list}

    def piece_of(self, start: int, stop: int, values: _ValuesOf) -> Piece:
        first, last = start * self._fan_in, min(stop * self._fan_in, self._taken)
        columns = self.input.piece_of(first, last, values)
        return (BLOCKS, stop - start, tuple(_runs(last - first, self._fan_in))), *columns

    def close(self, taken: int) -> None:
        self._taken = taken

    def links(self, number_of: Mapping[Hashable, int]) -> list[Link]:
        return [Link(each.source, each.indices, self._fan_in) for each in self.input.links(number_of)]

    def digests(self, digest_object: DigestObject | None = None) -> Digests:
        return "fold-blocks", self._fan_in, self.input.digests(digest_object)

    def same_prefix(self, earlier: Digests, digest_object: DigestObject | None = None) -> IntervalSet:
        return IntervalSet()  # which are the same, is known while they come


class FoldedInput(ElementInput):
    """Blocks of values, level by level: those of ``values``, then results of blocks of the level before.

    If nobody knows yet how many values there are, the levels are those of as many as nobody has.

    Args:
        values: the values of the first level.
        fan_in: how many values a block has.
        id: of the array that folds them.
        name: for messages.

    Attributes:
        tree: its levels.
        input: the values of the first one.
    """

    def __init__(self, values: ElementInput, fan_in: int, id: Hashable, name: str) -> None:
        self.tree = Tree(len(values), fan_in)
        super().__init__(len(self.tree), name)
        self.array_ids = values.array_ids
        self.input = values
        self._is_growing = len(values) == UNKNOWN_COUNT
        self._id = id

    def __getitem__(self, index: int) -> Any:
        low, high = self.tree.taken(index)
        assert index < self.tree.firsts[1], "results of blocks do not exist before the run"
        return [self.input[place] for place in range(low, high)]

    @property
    def nbytes(self) -> int:
        return self.input.nbytes

    def encode(self) -> None:
        self.input.encode()

    def types(self) -> set[type]:
        return {list}

    def piece(self, start: int, stop: int) -> Piece:
        return self._piece(start, stop, self.input.piece, None)

    def piece_of(self, start: int, stop: int, values: _ValuesOf) -> Piece:
        def first_level(low: int, high: int) -> Piece:
            return self.input.piece_of(low, high, values)

        return self._piece(start, stop, first_level, values)

    def _piece(
        self, start: int, stop: int, first_level: Callable[[int, int], Piece], values: _ValuesOf | None
    ) -> Piece:
        runs: list[tuple[int, int]] = []
        columns: list[Packed] = []
        for low, high in self.tree.parts(start, stop):
            first, last = self.tree.taken(low)[0], self.tree.taken(high - 1)[1]
            if high <= self.tree.firsts[1]:
                columns += first_level(first, last)
            else:
                assert values is not None, "results of blocks do not exist before the run"
                columns += values(self._id).columns(range(first, last))
            runs += _runs(last - first, self.tree.fan_in)
        return (BLOCKS, stop - start, tuple(runs)), *columns

    def links(self, number_of: Mapping[Hashable, int]) -> list[Link]:
        taken = [Link(each.source, each.indices, self.tree.fan_in) for each in self.input.links(number_of)]
        return taken if self._is_growing else [*taken, *self.tree.links()]

    def close(self, taken: int) -> None:
        self.tree = Tree(taken, self.tree.fan_in)

    def digests(self, digest_object: DigestObject | None = None) -> Digests:
        return "fold", len(self.input), self.tree.fan_in, self.input.digests(digest_object)

    def value_digests(self, digest_object: DigestObject | None = None) -> Digests:
        return "fold", len(self.input), self.tree.fan_in, self.input.value_digests(digest_object)

    def same_prefix(self, earlier: Digests, digest_object: DigestObject | None = None) -> IntervalSet:
        """Return the blocks of the same values; of what another block became, nothing is known here."""
        if earlier[0] != "fold" or earlier[2] != self.tree.fan_in:
            return IntervalSet()
        _, count, fan_in, digests = earlier
        same = self.input.same_prefix(digests, digest_object)
        if count != len(self.input):  # blocks lie elsewhere above the first level, and the last one has other values
            common = min(count, len(self.input)) // fan_in
            return IntervalSet(Link(0, range(len(self.input)), fan_in).supplied(same, 0, common))
        found = IntervalSet(Link(0, range(count), fan_in).supplied(same, 0, self.tree.firsts[1]))
        found.add(self.tree.firsts[1], len(self.tree))
        return found


def _runs(count: int, length: int) -> Iterator[Interval]:
    """Yield (blocks, values in each) of ``count`` values in blocks of ``length``."""
    if count >= length:
        yield count // length, length
    if count % length:
        yield 1, count % length


def tree_of(elements: Sequence[ElementInput]) -> Tree | None:
    """Return the levels of an array that folds; None for one that does not."""
    return elements[0].tree if elements and isinstance(elements[0], FoldedInput) else None
