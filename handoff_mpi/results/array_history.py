"""The elements of arrays that earlier launches computed, as the journal of a run tells them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handoff_mpi.arrays.columns import Packed
from handoff_mpi.arrays.filed_columns import FiledColumn
from handoff_mpi.arrays.intervals import Interval, IntervalSet
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
        failed: its elements that failed for good: (intervals, rank, attempts, kind, message, traceback).
        suspects: of each lease that ran when the launch was cut short, the elements whose end was not known.
    """

    epoch: int
    count: int
    digests: Sequence[Any]
    parts: list[tuple[Sequence[Interval], int, Packed]] = field(default_factory=list)
    restored: list[tuple[int, Sequence[Interval]]] = field(default_factory=list)
    failed: list[tuple[Sequence[Interval], int, int, str, str, str]] = field(default_factory=list)
    suspects: list[IntervalSet] = field(default_factory=list)

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
    def is_fold(self) -> bool:
        """Whether its value is that of its last element."""
        return bool(self.digests) and self.digests[0][0] == "fold"


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
    by_epoch = {launch.epoch: launch for launch in launches}
    for epoch, intervals in last.restored:
        for elements, _, column in by_epoch[epoch].parts if epoch in by_epoch else ():
            _fill(values, elements, find(epoch, column), IntervalSet(intervals))
    return values


def _fill(
    values: ArrayValues, elements: Sequence[Interval], column: Packed | FiledColumn | None, wanted: IntervalSet
) -> list[Interval]:
    return [] if column is None else values.fill(elements, column, wanted)
