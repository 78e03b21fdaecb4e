"""The elements of arrays that earlier launches computed, as the journal of a run tells them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handoff_mpi.arrays.columns import Packed
from handoff_mpi.arrays.digests import DIGEST_NBYTES, NO_DIGEST
from handoff_mpi.arrays.element_input import ElementInput, blocks_of_range, range_of
from handoff_mpi.arrays.filed_columns import FiledColumn
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.arrays.values import ArrayValues

#: Returns a column of the journal of a launch, whose memory may lie in a file; None if the file does not hold it.
FindColumn: TypeAlias = "Callable[[int, Packed], Packed | FiledColumn | None]"


def as_it_is(epoch: int, packed: Packed) -> Packed:
    """Return a column of the journal; none of them lies in a file."""
    return packed


@dataclass(slots=True)
class ArrayLaunch:
    """An array in one launch.

    Attributes:
        epoch: the number of the launch.
        count: how many elements it had.
        digests: of each of its inputs; what these are made of, :mod:`handoff_mpi.arrays.inputs` says.
        parts: its values: (elements, rank, column of their values in this order, or the plain form of one in a file).
        restored: the elements that it took over: (number of an earlier launch, intervals).
        failed: its elements that failed for good: (intervals, rank, attempts, kind, message, traceback, number of
            the last attempt).
        block: of a windowed array, how many elements each of its digests is of.
        covered: of a windowed array, how many elements have digests; the last one may be of a part of a block.
        pulled_digests: of a windowed array.
        is_open: whether it is a windowed array of which more elements might have come.
        replaced: its elements whose values count no more, as a later launch was to make them again.
        shared: the tasks whose values all of its elements took, where some took others, too; None where it is not
            known, as an earlier version wrote the journal.
        suspects: of each lease that ran when the launch was cut short, the elements whose end was not known.
    """

    epoch: int
    count: int
    digests: Sequence[Any]
    parts: list[tuple[Sequence[Interval], int, Packed]] = field(default_factory=list)
    restored: list[tuple[int, Sequence[Interval]]] = field(default_factory=list)
    failed: list[tuple[Sequence[Interval], int, int, str, str, str, int]] = field(default_factory=list)
    suspects: list[IntervalSet] = field(default_factory=list)
    replaced: IntervalSet = field(default_factory=IntervalSet)
    shared: set[int] | None = None
    block: int = 0
    covered: int = 0
    pulled_digests: bytearray = field(default_factory=bytearray)
    is_open: bool = False

    def pulled(self, block: int, first: int, covered: int, digests: bytes, is_last: bool) -> None:
        """Take in digests of elements of a windowed array, from that of block number ``first`` on."""
        self.block, self.covered, self.is_open = block, covered, not is_last
        self.count = max(self.count, covered)
        self.pulled_digests[first * DIGEST_NBYTES :] = digests

    def suspect(self, elements: Sequence[Interval]) -> None:
        """The launch was cut short while a lease of these elements was at a rank, or after it had come back."""
        left = IntervalSet(elements)
        for intervals in [*(part[0] for part in self.parts), *(failed[0] for failed in self.failed)]:
            for interval in intervals:
                left.discard(*interval)
        if left:
            self.suspects.append(left)

    @property
    def have(self) -> IntervalSet:
        """The elements that had values at its end."""
        found = IntervalSet()
        for intervals in [*(part[0] for part in self.parts), *(taken for _, taken in self.restored)]:
            found.update(intervals)
        return found

    @property
    def has_any(self) -> bool:
        """Whether any element had a value at its end."""
        return bool(self.parts or self.restored)

    def takes_like(self, inputs: Sequence[ElementInput]) -> bool:
        """Whether elements of an array with a window, or of one that takes such, took then what they would take now.

        A fold may have other blocks, say; the elements that are taken may have changed, which is not known here.
        """
        return [*self.digests] == [each.digests() for each in inputs]

    def unlike(self, digests: Sequence[Any]) -> IntervalSet:
        """Return the elements that may have taken values of functions as the array, of ``digests``, does not now.

        Elements of other arrays are compared with what these were.
        """
        found = IntervalSet()
        for own, other in zip(self.digests, digests, strict=False):
            inner = own
            while inner[0] in ("fold", "fold-blocks"):
                inner = inner[-1]
            if inner[0] != "blocks" or own == other:  # no other elements are values of functions
                continue
            is_alike = own[0] == other[0] == "blocks" and own[3:] == other[3:]
            is_range = own[0] == "blocks" and other[0] == "range" and len(own) == 4
            length = own[3] if is_alike or is_range else 0
            blocks = blocks_of_range(range_of(other)[: self.count], length) if is_range else other[2]
            for number, start in enumerate(range(0, self.count, length or max(1, self.count))):
                place = slice(number * DIGEST_NBYTES, (number + 1) * DIGEST_NBYTES)
                if not length or own[2][place] != blocks[place] or own[2][place] == NO_DIGEST:
                    found.add(start, min(start + (length or self.count), self.count))
        return found

    @property
    def is_fold(self) -> bool:
        """Whether its value is that of its last element."""
        return bool(self.digests) and self.digests[0][0] == "fold"

    @property
    def folds_windowed(self) -> bool:
        """Whether it folds elements of a windowed array, or of one that takes such."""
        return self.is_fold and self.digests[0][1] == UNKNOWN_COUNT


class EarlierElements:
    """The elements of a windowed array in an earlier launch, or of one that takes elements of such.

    Args:
        launch: as the journal tells it.
        find: finds columns.

    Attributes:
        epoch, block, covered: as of the launch.
        total: how many elements it had; None if more might have come.
        values: of the elements that it computed.
    """

    def __init__(self, launch: ArrayLaunch, find: FindColumn) -> None:
        self.epoch = launch.epoch
        self.block = launch.block
        self.covered = launch.covered
        self.total = None if launch.is_open else launch.count
        self.values = ArrayValues(launch.count)
        self._digests = bytes(launch.pulled_digests)
        everything = IntervalSet([(0, launch.count)])
        for elements, _, column in launch.parts:
            _fill(self.values, elements, find(launch.epoch, column), everything)

    def digest(self, start: int) -> bytes:
        """Return the digest of the block that begins at ``start``; empty where it has none that can be compared."""
        place = start // self.block * DIGEST_NBYTES
        found = self._digests[place : place + DIGEST_NBYTES]
        return b"" if found == NO_DIGEST else found


def take_over(
    launches: Sequence[ArrayLaunch],
    values: ArrayValues,
    is_same: Callable[[ArrayLaunch], IntervalSet],
    find: FindColumn = as_it_is,
) -> list[tuple[int, Sequence[Interval]]]:
    """Fill ``values`` with those of earlier launches, the newest first; return of which launch which elements are.

    Args:
        launches: in order; each tells the elements that it computed itself.
        is_same: returns the elements whose arguments were the same in a launch.
        find: finds columns.
    """
    taken: list[tuple[int, Sequence[Interval]]] = []
    for launch in reversed(launches):
        same = is_same(launch)
        found = IntervalSet()
        for elements, _, column in launch.parts:
            if any(same.within(*interval) for interval in elements):
                found.update(_fill(values, elements, find(launch.epoch, column), same))
        if found:
            taken.append((launch.epoch, tuple(found)))
    return taken


def suspects_of(
    launches: Sequence[ArrayLaunch], have: IntervalSet, is_same: Callable[[ArrayLaunch], IntervalSet]
) -> list[list[Interval]]:
    """Return groups of elements one of which may have cut a launch short; no element is in two of them.

    Args:
        launches, is_same: as of :func:`take_over`.
        have: the elements that have values.
    """
    groups: list[list[Interval]] = []
    known = have.copy()
    for launch in reversed(launches):
        same = is_same(launch) if launch.suspects else IntervalSet()
        for each in launch.suspects:
            group = IntervalSet(part for interval in each for part in same.within(*interval))
            for interval in known:
                group.discard(*interval)
            known.update(group)
            if group:
                groups.append(group.intervals())
    return groups


def values_of_last(launches: Sequence[ArrayLaunch], find: FindColumn = as_it_is) -> ArrayValues:
    """Return the values that the array had at the end of the last launch: its own, and those that it took over.

    Args:
        launches: as of :func:`take_over`.
        find: finds columns.
    """
    last = launches[-1]
    values = ArrayValues(last.count)
    everything = IntervalSet([(0, last.count)])
    for elements, _, column in last.parts:
        _fill(values, elements, find(last.epoch, column), everything)
    taken: dict[int, IntervalSet] = {}  # a launch takes over many blocks of a windowed array, one by one
    for epoch, intervals in last.restored:
        taken.setdefault(epoch, IntervalSet()).update(intervals)
    for launch in launches:
        for elements, _, column in launch.parts if launch.epoch in taken else ():
            _fill(values, elements, find(launch.epoch, column), taken[launch.epoch])
    return values


def _fill(
    values: ArrayValues, elements: Sequence[Interval], column: Packed | FiledColumn | None, wanted: IntervalSet
) -> list[Interval]:
    return [] if column is None else values.fill(elements, column, wanted)
