"""The part of the oracle that says how elements and functions must have ended, one by one and from their own sources.

At the end of a run that was not stopped, each element has a value, has failed, or has a reason to have neither: a value
that it takes does not exist, or nothing more of its array was to begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.messages import NO_ROOM
from handoff_mpi.scheduler import Scheduler, State
from handoff_mpi.scheduler.array_state import Array
from handoff_mpi.simulation.workload import Workload


class Outcomes:
    """Looks at the end of one launch.

    Args:
        load: of the run.
        scheduler: of the launch, which is over.
        values: of the elements of arrays, by array.
        launch: its number.
    """

    def __init__(self, load: Workload, scheduler: Scheduler, values: Mapping[int, ArrayValues], launch: int) -> None:
        self._launch = launch
        self._load = load
        self._scheduler = scheduler
        self._values = values

    def check(self) -> None:
        """Look at all tasks.

        Raises:
            AssertionError: something has ended as it must not.
        """
        tasks = self._scheduler.tasks
        for task, spec in enumerate(self._load.specs):
            state = State(tasks.state[task])
            if spec.array is not None:
                self._check_array(task, self._scheduler.arrays.of[task], state)
            elif state == State.SKIPPED:
                lacks = [each for each in self._load.takes(task) if not self._has(each)]
                assert lacks, f"task {task} was skipped, and all that it takes exists"

    def _has(self, number: int) -> bool:
        """Whether the value of a task or a selection exists, or did at one time."""
        first = len(self._load.specs)
        if number < first:
            return self._scheduler.tasks.state[number] == State.DONE
        array, elements, skips_missing = self._load.selections[number - first]
        if skips_missing:
            return True
        indices = [elements] if isinstance(elements, int) else elements
        return all(index in self._values[array].have for index in indices)

    def _is_open_to_all(self, array: int) -> bool:
        """Whether the elements of an array had what they all take."""
        return all(map(self._has, self._load.takes(array)))

    # -- arrays ----------------------------------------------------------------------------------------

    def _check_array(self, number: int, array: Array, state: State) -> None:
        have, shape = self._values[number].have, self._load.shape(number)
        if state == State.DONE:
            return  # what it has was compared; where an earlier launch did all that takes it, that may be nothing
        if shape.window is not None and not self._may_leave(number, array):
            count = shape.window.count_in(self._launch)
            assert array.count == count, f"{array.count} elements of {number} came of {count}"
        failed = IntervalSet(interval for intervals, _ in array.failures for interval in intervals)
        if shape.root is None or shape.fold is not None:  # else its state follows that of the array whose elements come
            self._check_state(number, array, state)
        if self._may_leave(number, array):
            return
        for index in range(array.count):
            if index not in have and index not in failed:
                assert self._lacks(number, index), f"element {(number, index)} was skipped for nothing"

    def _may_leave(self, number: int, array: Array) -> bool:
        """Whether any element of an array may have been given up, though all that it takes exists."""
        failure = self._scheduler.tasks.failures.get(number)
        has_no_room = failure is not None and failure.kind == NO_ROOM
        return array.has_too_many_failures or has_no_room or not self._is_open_to_all(number)

    def _lacks(self, number: int, index: int) -> bool:
        """Whether a value does not exist that an element takes."""
        shape = self._load.shape(number)
        taken = shape.elements_taken(number, index, self._launch)
        lacks_element = any(each not in self._values[source].have for source, each in taken)
        return lacks_element or not all(map(self._has, shape.numbers_taken(index)))

    def _check_state(self, number: int, array: Array, state: State) -> None:
        window = self._load.shape(number).window
        has_own = bool(array.failures) or (
            window is not None and window.fails and array.count == window.count_in(self._launch)
        )
        if state == State.SKIPPED and self._is_open_to_all(number):
            assert not has_own, f"array {number} was skipped, and elements of it failed"
            is_cut = array.is_cut and self._load.shape(number).root is not None
            assert is_cut or any(self._skipped(number, array)), f"array {number} was skipped for nothing"
        elif state == State.FAILED and not has_own and not self._may_leave(number, array):
            assert self._load.shape(number).fold is not None, f"array {number} failed for nothing"
            fold = self._load.shape(number).fold_in(self._launch)
            assert fold.source is not None, f"array {number} failed for nothing"
            left = [each for each in fold.indices if each in self._values[fold.source].have]
            assert not left, f"array {number} failed as there was nothing to fold, and {left} was there"

    def _skipped(self, number: int, array: Array) -> Iterator[bool]:
        return (index not in self._values[number].have for index in range(array.count))
