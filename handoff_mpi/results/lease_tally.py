"""Counts attempts at elements of arrays, as the journal of a run tells of them, and of which lease each was.

A rank times a lease as a whole. How many elements it had tried in that time follows from the lease, which it takes in
order: all up to the last one that has a value, and those behind it that are reported as failed.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.messages import RANK_LOSS, VALUE_LOSS

#: An array and a rank.
_Place: TypeAlias = "tuple[int, int]"

#: Leases of an array at a rank that are looked through: a rank holds no more than some.
_MAX_SEARCHED = 16
#: As the column holds it.
_MAX_COUNT = 2**31 - 1


@dataclass(slots=True)
class Attempts:
    """How many attempts at elements of an array ended well, how many failed, and how many of these were tried again."""

    done: int = 0
    failed: int = 0
    retries: int = 0


class ElementFailure(NamedTuple):
    """Elements of an array that failed alike: for good, or in an attempt after which they were tried again."""

    task: int
    launch: int
    rank: int
    failure: int
    elements: list[tuple[int, int]]
    is_final: bool = True


@dataclass(slots=True)
class _Lease:
    elements: Sequence[Interval]
    done: int = 0


@dataclass(slots=True)
class _Launch:
    """One launch, as far as its journal has told of it."""

    places: dict[int, _Place] = field(default_factory=dict)
    at: dict[_Place, dict[int, _Lease]] = field(default_factory=lambda: defaultdict(dict))
    #: (row, elements behind the last one that has a value) of leases that have ended.
    tails: dict[_Place, deque[tuple[int, IntervalSet]]] = field(default_factory=lambda: defaultdict(_tails))
    untimed: dict[_Place, int] = field(default_factory=lambda: defaultdict(int))
    retried: dict[tuple[int, int], IntervalSet] = field(default_factory=lambda: defaultdict(IntervalSet))
    failed: dict[int, IntervalSet] = field(default_factory=lambda: defaultdict(IntervalSet))
    again: list[tuple[int, int, int, IntervalSet]] = field(default_factory=list)


def _tails() -> deque[tuple[int, IntervalSet]]:
    return deque(maxlen=_MAX_SEARCHED)


class LeaseTally:
    """Takes in records of arrays; arrays are rows of the table of all launches.

    Args:
        elements: of each call how many elements it tried; those of leases are set here.

    Attributes:
        attempts: (launch, array) to the attempts at its elements.
        failures: of elements, those that failed for good, and attempts that others had before they had a value.
        taken_back: (launch, rank) to how many elements other ranks were to compute as this one was lost.
    """

    def __init__(self, elements: array[int]) -> None:
        self._elements = elements
        self._number = -1
        self._launch = _Launch()
        self.attempts: dict[tuple[int, int], Attempts] = {}
        self.failures: list[ElementFailure] = []
        self.taken_back: Counter[tuple[int, int]] = Counter()

    def begin(self) -> None:
        """A launch begins."""
        self._number += 1
        self._launch = _Launch()

    def drop(self) -> None:
        """The launch has not begun."""
        self._number -= 1

    def _attempts(self, task: int) -> Attempts:
        return self.attempts.setdefault((self._number, task), Attempts())

    def failed_elements(self, task: int) -> int:
        """Return how many elements of an array have failed for good in this launch."""
        return len(self._launch.failed.get(task, ()))

    def leased(self, number: int, task: int, rank: int, elements: Sequence[Interval]) -> None:
        """A rank was sent a lease; the one that had the number has ended, or waits."""
        self._forget(number)
        lease = _Lease(elements)
        self._launch.places[number] = task, rank
        self._launch.at[task, rank][number] = lease

    def _forget(self, number: int) -> None:
        place = self._launch.places.pop(number, None)
        if place is not None:
            self._launch.at[place].pop(number, None)

    def ended(self, task: int, rank: int, elements: Sequence[Interval], row: int) -> None:
        """Elements have values.

        Args:
            row: of the call that stands for their lease, which has ended; -1 if more of it may come.
        """
        launch, place = self._launch, (task, rank)
        count = _count(elements)
        self._attempts(task).done += count
        number = self._find(place, elements[0][0])
        if number < 0:
            launch.untimed[place] += count
            if row >= 0:
                self._set(row, launch.untimed.pop(place))
            return
        lease = launch.at[place][number]
        lease.done += count
        if row < 0:
            return
        reach = elements[-1][1]
        if lease.elements[-1][1] == reach:  # as most do
            tried = _count(lease.elements)
        else:
            tried = sum(max(0, min(stop, reach) - start) for start, stop in lease.elements)
            tail = IntervalSet((max(start, reach), stop) for start, stop in lease.elements if stop > reach)
            launch.tails[place].append((row, tail))
        self._set(row, max(tried, lease.done))
        self._forget(number)

    def _set(self, row: int, count: int) -> None:
        self._elements[row] = min(count, _MAX_COUNT)

    def _find(self, place: _Place, element: int) -> int:
        """Return the number of the newest lease that holds an element; -1 if none does."""
        leases = self._launch.at.get(place)
        for number, lease in islice(reversed(leases.items()), _MAX_SEARCHED) if leases else ():
            for start, stop in lease.elements:
                if start <= element < stop:
                    return number
        return -1

    def retried(
        self, task: int, rank: int, elements: Sequence[Interval], attempt: int, kind: str, failure: int
    ) -> None:
        """Elements failed in an attempt, and are tried again."""
        if kind in (RANK_LOSS, VALUE_LOSS):
            if kind == RANK_LOSS:
                self.taken_back[self._number, rank] += _count(elements)
            return  # which of them the rank had tried is not known
        self._attempts(task).failed += _count(elements)
        self._attempts(task).retries += _count(elements)
        self._launch.retried[task, attempt].update(elements)
        self._launch.again.append((task, rank, failure, IntervalSet(elements)))
        self._count_behind((task, rank), elements)

    def failed(self, task: int, rank: int, elements: Sequence[Interval], last: int, failure: int) -> None:
        """Elements have failed for good.

        Args:
            last: number of the last attempt.
        """
        known = self._launch.retried.get((task, last))
        told = 0 if known is None else sum(_count(known.within(start, stop)) for start, stop in elements)
        attempts = self._attempts(task)
        attempts.failed += _count(elements) - told
        attempts.retries -= told  # their array has failed before they were tried again
        self._launch.failed[task].update(elements)
        self.failures.append(ElementFailure(task, self._number, rank, failure, [*elements]))
        self._count_behind((task, rank), elements)

    def _count_behind(self, place: _Place, elements: Sequence[Interval]) -> None:
        """Count failures behind the last value of a lease."""
        for row, tail in self._launch.tails.get(place, ()):
            for interval in elements:
                self._set(row, self._elements[row] + _count(tail.within(*interval)))
                tail.discard(*interval)

    def end(self) -> None:
        """The launch has ended: what has not failed for good was tried again."""
        for task, rank, failure, elements in self._launch.again:
            failed = self._launch.failed.get(task, IntervalSet())
            for interval in elements.intervals():
                for part in failed.within(*interval):
                    elements.discard(*part)
            if elements:
                intervals = elements.intervals()
                self.failures.append(ElementFailure(task, self._number, rank, failure, intervals, is_final=False))


def _count(elements: Sequence[Interval]) -> int:
    if len(elements) == 1:
        start, stop = elements[0]
        return stop - start
    return sum(stop - start for start, stop in elements)
