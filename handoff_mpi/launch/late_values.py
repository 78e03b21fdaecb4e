"""Values that a launch takes over late: they depend on all elements of windowed arrays, by way of folds of these.

Whether such a value is what it was, is known once all of these folds are. It is taken over in the same turn, before
anything that depends on them can begin: what depends on a fold that has changed runs again, and so does all behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.dag import Plan
from handoff_mpi.launch.resume import Resumed
from handoff_mpi.launch.takers import Sources, with_consumers
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.window_consumers import Undecided
from handoff_mpi.scheduler import Restored, ValueLocation
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.serialization import Payload


class LateValues:
    """Takes over values of earlier launches as folds of windowed arrays are known.

    Args:
        plan: the run's tables.
        resumed: what the launch takes over; gets the keys of files, and the values of elements.
        journal_writer: writes the journal.
        put: called with a task and its small value.
    """

    def __init__(
        self, plan: Plan, resumed: Resumed, journal_writer: JournalWriter, put: Callable[[int, Payload], object]
    ) -> None:
        self._plan = plan
        self._resumed = resumed
        self._journal_writer = journal_writer
        self._put = put
        self._behind = {} if resumed.later is None else _folds_behind(plan, resumed.unknown)
        self._taken: set[int] = set()

    def take_over(self, arrays: Arrays, same: Mapping[int, Collection[int]]) -> Restored:
        """Take over what depends on folds that are what they were; return the event of it.

        Args:
            arrays: of the scheduler, which tells what has begun: that takes elements of the arrays between which do not
                depend on the fold.
            same: of each fold that is known to be that, in which launches it was.
        """
        later = self._resumed.later
        if later is None:
            return Restored({})
        known = self._take_known(later, same)
        growing = {number for number, each in self._plan.arrays.items() if each.window is not None}  # as elements come
        tasks = {
            task: later.rest[task] for task in known - growing if task in later.rest and arrays.has_not_begun(task)
        }
        self._taken.update(tasks)
        self._leave_nowhere(tasks)
        for task in tasks:
            if task in later.payloads:
                self._put(task, later.payloads[task])
            if task in later.keys:
                self._resumed.keys[task] = later.keys[task]
        elements: dict[int, Sequence[Interval]] = {}
        for number in later.elements.keys() & known:
            values, mine = later.array_values[number], self._resumed.array_values[number]
            elements[number] = [part for each in arrays.of[number].not_begun() for part in mine.take(values, *each)]
            taken = IntervalSet(elements[number])
            for launch, intervals in later.elements[number]:
                these = [part for interval in intervals for part in taken.within(*interval)]
                if these:
                    self._journal_writer.elements_restored(number, launch, these)
        self._journal_writer.restored(tasks)
        return Restored(elements, tasks)

    def _take_known(self, later: Resumed, same: Mapping[int, Collection[int]]) -> set[int]:
        """Take out and return the tasks that depend on no other folds, and were computed while these were the same."""
        known: set[int] = set()
        others: set[int] = set()
        for task, folds in self._behind.items():
            if folds <= same.keys():
                is_same = all(later.launches_of([task]) <= {*same[fold]} for fold in folds)
                (known if is_same else others).add(task)
        again = with_consumers(self._plan, others, Sources(self._plan)) if others else set()
        for task in known | again:
            self._behind.pop(task, None)
        return known - again

    def _leave_nowhere(self, tasks: dict[int, ValueLocation]) -> None:
        """Leave out tasks whose values are nowhere, and needed: by what runs again, or may do so."""
        nowhere = {task for task, there in tasks.items() if there == ValueLocation.NOWHERE}
        for task in sorted(self._resumed.unknown, reverse=True) if nowhere else ():  # consumers first
            if task not in self._taken:
                for each in nowhere.intersection(self._plan.specs[task].needs):
                    self._taken.discard(each)
                    tasks.pop(each, None)


def undecided_arrays(plan: Plan, resumed: Resumed) -> dict[int, Undecided]:
    """Return the windowed arrays, and those that take elements of such, that depend on folds of others."""
    if resumed.later is None:
        return {}
    folds, earlier = _folds_behind(plan, resumed.unknown), resumed.later.earlier_elements
    return {number: Undecided(folds[number], launches) for number, launches in earlier.items() if launches}


def _folds_behind(plan: Plan, tasks: Collection[int]) -> dict[int, frozenset[int]]:
    """Return on which folds of windowed arrays each of ``tasks`` depends."""
    folds = plan.folds_of_windowed
    found: dict[int, frozenset[int]] = {}
    shared: dict[frozenset[int], frozenset[int]] = {}
    sources = Sources(plan)
    for task in sorted(tasks):
        its = sources(task)
        behind = folds.intersection(its).union(*(found.get(each, ()) for each in its))
        found[task] = shared.setdefault(frozenset(behind), frozenset(behind))
    return found
