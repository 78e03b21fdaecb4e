"""The arrays that take elements of one windowed array, directly or not: what earlier launches have computed of them.

An element is the same if those that it takes are the same, have a value, and have not been computed again since. That
is known of elements of the windowed array as they come; so it is followed from these, block by block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.dag import Plan
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.results.array_history import EarlierElements
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.scheduler import Restored
from handoff_mpi.scheduler.array_state import Array

_NONE, _ALL = IntervalSet(), [(0, UNKNOWN_COUNT)]


class Compared(NamedTuple):
    """Elements of a windowed array that came together, compared with those of earlier launches.

    Attributes:
        stop: how many have come altogether.
        taken: launch to the elements whose values it computed, and which are taken over.
        same: launch to those that are what they were in it.
    """

    stop: int
    taken: Mapping[int, Sequence[Interval]]
    same: Mapping[int, Interval]


class Undecided(NamedTuple):
    """The elements that earlier launches computed of an array behind folds of windowed arrays: they may be outdated.

    Attributes:
        folds: on which it depends.
        earlier: what the launches have computed.
    """

    folds: frozenset[int]
    earlier: Sequence[EarlierElements]

    def decide(self, decided: Decided) -> Sequence[EarlierElements] | None:
        """Return what launches have computed in which the folds were the same; None while some are not known."""
        if not self.folds <= decided.folds:
            return None
        return [each for each in self.earlier if all(each.epoch in decided.same.get(fold, ()) for fold in self.folds)]


class Decided(NamedTuple):
    """The folds of windowed arrays of which it is known whether they are the same as in earlier launches.

    Attributes:
        folds: their numbers, and those of folds that failed.
        same: of each that was taken over, the launches in which its value was the same.
    """

    folds: Set[int]
    same: Mapping[int, Collection[int]]


class WindowConsumers:
    """The consumers of one windowed array.

    Args:
        root: the number of that array.
        numbers: those of the consumers, each behind those whose elements it takes.
        plan: the run's tables.
        values: of arrays, by number.
        earlier: array to what earlier launches have computed.
        journal_writer: writes the journal.
        undecided: of consumers that depend on folds of other windowed arrays, what may be taken over.

    Attributes:
        same_launches: of each fold that was taken over, the launches in which its value was the same.
    """

    def __init__(
        self,
        root: int,
        numbers: Sequence[int],
        plan: Plan,
        values: Mapping[int, ArrayValues],
        earlier: Mapping[int, Sequence[EarlierElements]],
        journal_writer: JournalWriter,
        undecided: Mapping[int, Undecided],
    ) -> None:
        self.same_launches: dict[int, set[int]] = {}
        self._undecided = {number: undecided[number] for number in numbers if number in undecided}
        self._stop = 0  # of the elements of the windowed array that were compared
        self._counts: dict[int, int] = {}  # of all, once no more come
        self._root = root
        self._numbers = numbers
        self._arrays = plan.arrays
        self._folds = [number for number in numbers if _is_fold(plan.arrays[number])]
        self._paced = _that_pace(numbers, plan)
        self._values = values
        self._earlier = {number: earlier.get(number, ()) for number in numbers}
        self._totals = {each.epoch: each.total for each in earlier.get(root, ())}
        self._there: dict[tuple[int, int], IntervalSet] = {}  # array, launch: what is what it was then
        self._compared = dict.fromkeys(numbers, 0)
        self._journal_writer = journal_writer
        for number in numbers:
            journal_writer.elements_pulled(number, 0, 0, b"", is_last=False)

    def ended(self, arrays: Mapping[int, Array], root: Array) -> int:
        """Return how many elements have ended of the windowed array, and of each of those that must keep up."""
        paced = [arrays[number] for number in self._paced]
        return min(each.done + each.failed + each.skipped for each in (root, *paced) if each is root or each.is_open)

    def restore(self, compared: Compared, arrays: Mapping[int, Array]) -> list[Restored]:
        """Take over elements; return the events of that, those of the arrays furthest from the root first."""
        self._stop = compared.stop
        for epoch, (_, stop) in compared.same.items():
            there = self._there.setdefault((self._root, epoch), IntervalSet())
            for launch, intervals in compared.taken.items():
                if launch <= epoch:
                    there.update(IntervalSet(intervals).within(0, stop))
        events: list[Restored] = []
        for number in self._numbers:
            if arrays[number].is_open and not _is_fold(self._arrays[number]):
                events += self._restore(number, compared.stop, is_last=False)
        return events[::-1]

    def close(self, count: int, arrays: Mapping[int, Array]) -> list[Restored]:
        """No more elements come of the windowed array than ``count``; return as :meth:`restore` does."""
        events: list[Restored] = []
        counts = self._counts = {self._root: count}
        for number in self._numbers:
            frozen = self._arrays[number]
            link = frozen.links[0]
            taken = counts[link.source]
            frozen.close(taken)
            counts[number] = -(-taken // link.block)
            if _is_fold(frozen):
                counts[number] = len(Tree(taken, link.block)) if taken else 0
                events += self._restore_fold(number, link.source, counts) if arrays[number].is_open else ()
            elif arrays[number].is_open:
                events += self._restore(number, count, is_last=True)
            self._values[number].count = counts[number]
            self._journal_writer.elements_pulled(number, 0, counts[number], b"", is_last=True)
        return events[::-1]

    def closed_folds(self, arrays: Mapping[int, Array]) -> list[int]:
        """Return the folds that were taken over, or are not: the number of their values is known, or they failed.

        A task may begin although it is behind a fold that failed: the elements that it takes of the array between them
        are not.
        """
        closed = [number for number in self._folds if self._counts or not arrays[number].is_open]
        return [number for number in closed if number not in self._undecided]

    @property
    def are_undecided(self) -> bool:
        """Whether any waits until other folds are known."""
        return bool(self._undecided)

    def begin(self, earlier: Sequence[EarlierElements]) -> None:
        """Take in what earlier launches have computed of the windowed array, none of which has been compared."""
        self._totals = {each.epoch: each.total for each in earlier}

    def decide(self, decided: Decided, arrays: Mapping[int, Array]) -> list[Restored]:
        """Take over elements of consumers that depend on other folds, as these are known; return as :meth:`restore`."""
        events: list[Restored] = []
        for number in self._numbers:
            undecided = self._undecided.get(number)
            earlier = None if undecided is None else undecided.decide(decided)
            if earlier is None:
                continue
            del self._undecided[number]
            self._earlier[number], self._compared[number] = earlier, 0
            if not self._counts:
                if not _is_fold(self._arrays[number]):
                    events += self._restore(number, self._stop, False, arrays[number].not_begun())
            elif not _is_fold(self._arrays[number]):
                events += self._restore(number, self._counts[self._root], True, arrays[number].not_begun())
            elif not (arrays[number].leases or arrays[number].have):
                events += self._restore_fold(number, self._arrays[number].links[0].source, self._counts)
        return events[::-1]

    def _restore(
        self, number: int, count: int, is_last: bool, not_begun: Iterable[Interval] = _ALL
    ) -> Iterator[Restored]:
        """Take over elements of one array, as far as ``count`` elements of the windowed one have come."""
        block = self._arrays[number].links[0].block
        start, stop = self._compared[number], -(-count // block) if is_last else count // block
        self._compared[number] = stop
        epochs = [each.epoch for each in self._earlier[number] if each.epoch in self._totals]
        same = {epoch: self._same(number, epoch, (start, stop), count, is_last) for epoch in epochs}
        found = IntervalSet()
        for each in reversed(self._earlier[number]):
            its = same.get(each.epoch, _NONE)
            mine = [part for interval in not_begun for part in its.within(*interval)]
            taken = [part for interval in mine for part in self._values[number].take(each.values, *interval)]
            if taken:
                found.update(taken)
                self._journal_writer.elements_restored(number, each.epoch, taken)
                for epoch, elements in same.items():
                    if each.epoch <= epoch:
                        there = self._there.setdefault((number, epoch), IntervalSet())
                        there.update(part for interval in taken for part in elements.within(*interval))
        if found:
            yield Restored({number: found.intervals()})

    def _same(self, number: int, epoch: int, elements: Interval, count: int, is_last: bool) -> IntervalSet:
        """Return which elements take what they took in a launch, and as much of it."""
        links, total = self._arrays[number].links, self._totals[epoch]
        (start, stop), block = elements, links[0].block
        if not (is_last and total == count):  # the last one may have had fewer values, or has fewer now
            stop = min(stop, count // block, stop if total is None else total // block)
        same = IntervalSet([(start, stop)])
        for link in links:
            there = self._there.get((link.source, epoch), _NONE)
            positions = IntervalSet(there.within(start * block, stop * block))
            of_link = link.cut(count) if is_last else link
            same = IntervalSet(part for interval in same for part in of_link.supplied(positions, *interval))
        return same

    def _restore_fold(self, number: int, source: int, counts: Mapping[int, int]) -> Iterator[Restored]:
        """Take over the levels of a fold whole, if all that they fold is what it was."""
        everything, count = IntervalSet([(0, counts[source])]), counts[self._root]
        launches = [each.epoch for each in self._earlier[number] if self._totals.get(each.epoch) == count]
        same = {epoch for epoch in launches if self._there.get((source, epoch)) == everything}
        for each in reversed(self._earlier[number]):
            if each.epoch in same and len(each.values) == counts[number]:
                taken = self._values[number].take(each.values, 0, counts[number])
                self._journal_writer.elements_restored(number, each.epoch, taken)
                self.same_launches[number] = same
                yield Restored({number: taken})
                return


def _is_fold(frozen: FrozenArray) -> bool:
    return frozen.tree is not None


def _that_pace(numbers: Sequence[int], plan: Plan) -> list[int]:
    """Return the consumers that the windowed array must not leave behind.

    One that folds waits for more elements to come, as does one that takes a value that depends on all of them, or on
    all of those of another windowed array, which may wait for this one.
    """
    growing = {number for number, each in plan.arrays.items() if each.window is not None}
    waiting: set[int] = set()
    found: list[int] = []
    for number in numbers:
        links = plan.arrays[number].links
        if any(link.block > 1 or link.source in waiting for link in links) or _depends(plan, number, growing):
            waiting.add(number)
        else:
            found.append(number)
    return found


def _depends(plan: Plan, number: int, growing: Collection[int]) -> bool:
    """Whether a value that all elements of an array take depends on one of ``growing``."""
    stack = [*plan.specs[number].inputs]
    seen = set(stack)
    while stack:
        each = stack.pop()
        if each in growing:
            return True
        new = set(plan.specs[each].needs) - seen
        seen |= new
        stack += new
    return False


def _consumers_of(root: int, plan: Plan) -> list[int]:
    """Return the arrays that take elements of a windowed one, each behind those whose elements it takes."""
    found: dict[int, None] = {}
    growing = [number for number, each in plan.arrays.items() if each.window is not None and each.links]
    has_more = True
    while has_more:
        has_more = False
        for number in growing:
            sources = {link.source for link in plan.arrays[number].links}
            if number not in found and sources <= {root, *found}:
                found[number] = None
                has_more = True
    return [*found]


def window_consumers(
    root: int,
    plan: Plan,
    values: Mapping[int, ArrayValues],
    earlier: Mapping[int, Sequence[EarlierElements]],
    journal_writer: JournalWriter,
    undecided: Mapping[int, Undecided],
) -> WindowConsumers | None:
    """Return the consumers of a windowed array, None if it has none; the arguments are those of the class."""
    numbers = _consumers_of(root, plan)
    return WindowConsumers(root, numbers, plan, values, earlier, journal_writer, undecided) if numbers else None
