"""Records of the elements of arrays: a lease goes by the name of its elements, and counts for its array."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain, islice
from typing import NamedTuple

from handoff_mpi.arrays.element_names import elements_name
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag import Plan
from handoff_mpi.formatting import one_line
from handoff_mpi.messages import ErrorReport, LeaseReport
from handoff_mpi.results.array_result import ElementKey
from handoff_mpi.results.failure_groups import MAX_NAMED
from handoff_mpi.scheduler.arrays import Arrays

#: Of the elements of a lease, so many intervals are named.
_MAX_NAMED = 3


class ElementsKey(NamedTuple):
    """The id of elements of an array that are spoken of together: they failed alike, or one function takes them.

    Attributes:
        array: the array's id.
        elements: their indices, in words such as ``"3:7, 12"``.
    """

    array: Hashable
    elements: str

    def __repr__(self) -> str:
        return one_line(elements_name(self.array, self.elements))


class ElementRecords:
    """The records of arrays and their leases, for the recorder.

    Args:
        plan: the run's tables.
        arrays: of the scheduler; None where there are none.

    Attributes:
        busy_s: array to rank to seconds in calls of its elements there.
        calls: array to how many calls of its elements have ended.
    """

    def __init__(self, plan: Plan, arrays: Arrays | None) -> None:
        self._plan = plan
        self._arrays = arrays
        self._leases = {} if arrays is None else arrays.leases
        self.busy_s: dict[int, dict[int, float]] = {}
        self.calls: dict[int, int] = {}
        self._errors: dict[tuple[int, str, str], ErrorReport] = {}

    def is_lease(self, number: int) -> bool:
        """Whether a number of the scheduler's log stands for elements of an array."""
        return number in self._leases

    def task_of(self, number: int) -> int:
        """Return the task of the DAG that a number of the scheduler's log stands for."""
        return number if self._arrays is None else self._arrays.task_of(number)

    def count(self, number: int) -> int:
        """Return how many elements a number of the scheduler's log stands for; 1 for a task of the DAG."""
        lease = self._leases.get(number)
        return 1 if lease is None else max(1, len(lease.intervals))

    def failed(self, number: int) -> tuple[Sequence[Hashable], int]:
        """Return the ids of the first elements that a number stands for, and how many there are."""
        return self.first_ids(number), self.count(number)

    def has_any(self, number: int) -> bool:
        """Whether a number of the scheduler's log stands for anything: a lease may have no element left."""
        lease = self._leases.get(number)
        return lease is None or bool(lease.intervals)

    def call(self, number: int, attempt: int) -> tuple[int, int]:
        """Return the task and the attempt of a call that runs: another lease alone is no other attempt."""
        lease = self._leases.get(number)
        return (number, attempt) if lease is None else (lease.array, lease.incidents + 1)

    def attempt_of(self, number: int, attempt: int) -> int:
        """Return the attempt that has just failed or was lost, of a task, or of the elements of a lease."""
        lease = self._leases.get(number)
        return attempt if lease is None else lease.incidents

    def id_of(self, number: int) -> Hashable:
        """Return the id of a task, or of elements, of a lease or a selection: ``sweep[17]``, ``sweep[3:7]``."""
        lease = self._leases.get(number)
        if lease is None:
            selection = self._plan.selections.get(number)
            if selection is None:
                return self._plan.ids[number]
            return ElementsKey(self._plan.ids[selection.array], selection.text.strip("[]"))
        array, intervals = self._plan.ids[lease.array], lease.intervals
        tree = self._plan.arrays[lease.array].tree
        if tree is not None:
            folded = [tree.folded(index) for start, stop in intervals for index in range(start, min(start + 9, stop))]
            return ElementsKey(array, slices(IntervalSet(folded)))
        if len(intervals) == 1:
            return ElementKey(array, intervals.intervals()[0][0])
        return ElementsKey(array, slices(intervals))

    def first_ids(self, number: int) -> list[Hashable]:
        """Return the ids of the first elements that a number stands for, each by itself; of a task its own id."""
        lease = self._leases.get(number)
        if lease is None:
            return [self.id_of(number)]
        array, tree = self._plan.ids[lease.array], self._plan.arrays[lease.array].tree
        first = islice((index for start, stop in lease.intervals for index in range(start, stop)), MAX_NAMED)
        if tree is None:
            return [ElementKey(array, index) for index in first]
        return [ElementsKey(array, slices(IntervalSet([tree.folded(index)]))) for index in first]

    def tells_failures_of(self, number: int) -> bool:
        """Whether a number stands for an array of which elements failed, which are reported one by one."""
        array = None if self._arrays is None else self._arrays.of.get(number)
        return array is not None and bool(array.failures) and array.input_error is None

    def ended(self, array: int, rank: int, report: LeaseReport) -> None:
        """Note how long elements took, and the errors of some until it is known what becomes of them."""
        of_rank = self.busy_s.setdefault(array, {})
        of_rank[rank] = of_rank.get(rank, 0.0) + report.busy_s
        ended = chain(report.ended, *(intervals for intervals, _ in report.failures))
        self.calls[array] = self.calls.get(array, 0) + sum(stop - start for start, stop in ended)
        for _, error in report.failures:
            error = ErrorReport(*error)
            self._errors.setdefault((array, error.kind, error.message), error)

    def on_other_ranks(self, ranks: Sequence[int]) -> dict[int, list[tuple[int, float]]]:
        """Return (rank, seconds) of the elements of each array on ranks other than the one that ``ranks`` names."""
        return {
            array: [(rank, seconds) for rank, seconds in of_rank.items() if rank != ranks[array]]
            for array, of_rank in self.busy_s.items()
        }

    def error_of(self, number: int, kind: str, message: str) -> ErrorReport | None:
        """Return what a rank reported of the elements of a lease that failed in this turn."""
        return self._errors.get((self.task_of(number), kind, message)) if number in self._leases else None

    def end_turn(self) -> None:
        """Forget the errors of the turn: it is known what becomes of them."""
        self._errors.clear()


def slices(intervals: IntervalSet) -> str:
    """Return indices in words such as ``"3:7, 12"``, the lowest ones where they are many."""
    bounds = intervals.intervals()
    named = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in bounds[:_MAX_NAMED]]
    return ", ".join(named) + (", ..." if len(bounds) > _MAX_NAMED else "")
