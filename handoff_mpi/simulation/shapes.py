"""The shapes of simulated arrays: what each element takes, told one by one.

A shape makes the inputs that a real plan would have, and tells apart from them, without any of their arithmetic, which
values an element takes. The first column of an array holds the indices of its elements; an array that folds, or whose
elements come while it runs, has one column of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.arrays.element_input import ElementInput
from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.arrays.linked_inputs import BlocksInput, FoldedInput, LinkedInput
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.arrays.windows import ElementWindow, WindowedInput
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.handle import Handle
from handoff_mpi.dag.handle_elements import HandleInput

#: An iterable takes at most so long for an element.
MAX_PULL_S = 0.05
#: Other iterables give elements that are larger by this.
_OTHER = 1_000_000


@dataclass(slots=True)
class Linked:
    """A column of elements of another array.

    Attributes:
        source: the number of that array.
        indices: which elements of it.
    """

    source: int
    indices: range


@dataclass(slots=True)
class Handles:
    """A column of which some elements are values of tasks, or of selections.

    Attributes:
        count: how many elements it has.
        of: the numbers of the tasks and selections, by index.
    """

    count: int
    of: dict[int, int]


@dataclass(slots=True)
class Fold:
    """Values that are folded, block by block.

    Attributes:
        source: the number of the array whose elements they are; None if they are numbers.
        indices: which elements of it, or the numbers.
        fan_in: how many values a block has.
    """

    source: int | None
    indices: range
    fan_in: int
    _blocks: list[list[int]] = field(default_factory=list)

    @property
    def blocks(self) -> list[list[int]]:
        """The blocks, in the order of their indices; on the levels above the first they hold such indices."""
        blocks, level = self._blocks, [] if self._blocks else [*self.indices]
        while len(level) > 1 or (level and not blocks):
            first = len(blocks)
            blocks += [level[place : place + self.fan_in] for place in range(0, len(level), self.fan_in)]
            level = [*range(first, len(blocks))]
        return blocks

    @property
    def firsts(self) -> int:
        """How many blocks the first level has."""
        return -(-len(self.indices) // self.fan_in)


@dataclass(slots=True)
class Window:
    """Elements that come while the array runs.

    Attributes:
        size: at most so many have come and have not ended.
        count: how many come.
        fails: whether the iterable raises behind them.
        changes_at: the index from which on the iterable gives other elements in later launches; None if none.
        later_count: how many come in these, if not as many.
        alternates: whether only the second, fourth ... launches are such, as the others are like the first again.
    """

    size: int
    count: int
    fails: bool = False
    changes_at: int | None = None
    later_count: int | None = None
    alternates: bool = False

    def is_later(self, launch: int) -> bool:
        """Whether the iterable may give other elements in a launch than in the first."""
        return launch % 2 == 0 if self.alternates else launch > 1

    @property
    def is_changing(self) -> bool:
        """Whether other elements come in some launches than in others."""
        return self.changes_at is not None or self.later_count is not None

    def count_in(self, launch: int) -> int:
        """Return how many elements come in a launch."""
        return self.later_count if self.later_count is not None and self.is_later(launch) else self.count

    def element(self, index: int, launch: int) -> int:
        """Return what the iterable gives in a launch."""
        is_other = self.is_later(launch) and self.changes_at is not None and index >= self.changes_at
        return index + _OTHER if is_other else index

    def same_until(self, launch: int, other: int) -> int:
        """Return the index up to which the elements of two launches are the same, as far as both have them."""
        is_same = self.changes_at is None or self.is_later(launch) == self.is_later(other)
        return UNKNOWN_COUNT if is_same or self.changes_at is None else self.changes_at


@dataclass(slots=True)
class Shape:
    """Tells what the elements of one array take.

    Attributes:
        count: how many elements it has; 0 of one whose elements come while it runs.
        columns: those behind the indices.
        fold: the values that it folds, if it does.
        window: its elements, if they come while it runs.
        root: if it takes the elements of such an array, or of others that do so: those that come.
        block: if its elements take blocks of elements that come, as its only column: how many each.
    """

    count: int
    columns: list[Linked | Handles] = field(default_factory=list)
    fold: Fold | None = None
    window: Window | None = None
    root: Window | None = None
    block: int | None = None
    _folds: dict[int, Fold] = field(default_factory=dict)

    @property
    def comes(self) -> Window | None:
        """The elements that come while it runs, or that those come of which it takes the elements."""
        return self.window or self.root

    def count_in(self, launch: int) -> int:
        """Return how many elements it has in a launch in which all come."""
        if self.comes is None:
            return self.count
        count = self.comes.count_in(launch)
        if self.block is not None:
            return -(-count // self.block)
        return count if self.fold is None else len(self.fold_in(launch).blocks)

    def fold_in(self, launch: int) -> Fold:
        """Return the values that it folds in a launch."""
        assert self.fold is not None
        if self.root is None:
            return self.fold
        fan_in = self.fold.fan_in
        count = -(-self.root.count_in(launch) // fan_in)
        return self._folds.setdefault(count, Fold(self.fold.source, range(count), fan_in))

    @property
    def has_indices(self) -> bool:
        """Whether its first column holds the indices of its elements; others may take these elements then."""
        return self.fold is None and self.comes is None

    def freeze(self, array: int, chunk: int | None, max_failures: int | None) -> FrozenArray:
        """Return what a plan has of it."""
        inputs, pulled = self._inputs(array), None
        if self.window is not None:
            pulled = ElementWindow(1, self.window.size)
            inputs = [WindowedInput(pulled, 0, "argument 1")]
        links = tuple(link for each in inputs for link in each.links(_ITSELF))
        for each in inputs:
            each.encode()
        handles: dict[int, list[tuple[int, int]]] = {}
        for position, column in enumerate(self.columns, 1):
            for index, number in column.of.items() if isinstance(column, Handles) else ():
                handles.setdefault(index, []).append((position, number))
        size = None if self.comes is None else self.comes.size
        return FrozenArray(tuple(inputs), self.count, chunk, max_failures, links, handles, size, pulled)

    def _inputs(self, array: int) -> list[ElementInput]:
        if self.fold is not None:
            indices = self.fold.indices
            values = freeze_elements(indices, "argument 2") if self.fold.source is None else _link(self.fold)
            return [FoldedInput(values, self.fold.fan_in, array, "argument 2")]
        if self.block is not None:
            assert isinstance(self.columns[0], Linked)
            return [BlocksInput(_link(self.columns[0]), self.block, "argument 1")]
        inputs = [] if self.root is not None else [freeze_elements(range(self.count), "argument 1")]
        for each in self.columns:
            inputs.append(_link(each) if isinstance(each, Linked) else _handles(each))
        return inputs

    def elements_taken(self, array: int, index: int, launch: int) -> list[tuple[int, int]]:
        """Return the elements of arrays whose values an element takes in a launch: (array, index)."""
        links = [each for each in self.columns if isinstance(each, Linked)]
        if self.block is not None:
            return [(each.source, taken) for each in links for taken in self._block(index, launch)]
        if self.fold is None:
            return [(each.source, each.indices[index]) for each in links]
        fold = self.fold_in(launch)
        source = fold.source if index < fold.firsts else array
        return [] if source is None else [(source, each) for each in fold.blocks[index]]

    def _block(self, index: int, launch: int) -> range:
        assert self.root is not None
        assert self.block is not None
        return range(index * self.block, min((index + 1) * self.block, self.root.count_in(launch)))

    def numbers_taken(self, index: int) -> list[int]:
        """Return the tasks and selections whose values an element takes."""
        return [each.of[index] for each in self.columns if isinstance(each, Handles) and index in each.of]

    def arguments(self, own: Sequence[Any], index: int, value: Callable[[int], Any], launch: int) -> tuple[Any, ...]:
        """Return what an element is called with in a launch, beside its index.

        Args:
            own: the values of the elements of the array before it.
            value: returns that of a task or a selection, and the values of the elements of an array.
        """
        if self.window is not None:
            return (self.window.element(index, launch),)
        if self.block is not None:
            return (tuple([value(source)[each] for source, each in self.elements_taken(-1, index, launch)]),)
        if self.fold is None:
            return tuple([_argument(each, index, value) for each in self.columns])
        fold = self.fold_in(launch)
        block = fold.blocks[index]
        if index >= fold.firsts:
            return (tuple([own[each] for each in block]),)
        source = fold.source
        return (tuple(block if source is None else [value(source)[each] for each in block]),)


def _argument(column: Linked | Handles, index: int, value: Callable[[int], Any]) -> Any:
    if isinstance(column, Linked):
        return value(column.source)[column.indices[index]]
    return value(column.of[index]) if index in column.of else _plain(index)


def _plain(index: int) -> int:
    """Return the element of a column of handles where none is."""
    return -1 - index


class _Itself:
    """The numbers of tasks by their ids, which are these numbers."""

    def __getitem__(self, id: Any) -> Any:
        return id


_ITSELF: Any = _Itself()


def _link(column: Linked | Fold) -> LinkedInput:
    assert column.source is not None
    return LinkedInput(column.source, 0, column.indices, "argument")


def _handles(column: Handles) -> HandleInput:
    values = [Handle(index) if index in column.of else _plain(index) for index in range(column.count)]
    found = HandleInput(values, "argument")
    found.marks = dict.fromkeys(column.of, b"the same")
    return found
