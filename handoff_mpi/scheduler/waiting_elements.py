"""Elements of arrays that are values of functions: each is a lease of its own, which waits for its function.

Such a lease is in the task table before it is placed. It becomes ready, is skipped, or waits again for a value that was
lost, as any task does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.scheduler.array_state import Array
from handoff_mpi.scheduler.lifecycle import DONE, READY, WAITING
from handoff_mpi.scheduler.tasks import TaskTable


class WaitingElements:
    """The elements of one run that wait for values of functions.

    Args:
        tasks: the scheduler's table.
        begin: notes a lease: called with the number of the array, that of the lease, and its elements.

    Attributes:
        held: by array, elements that wait for elements of other arrays too: the values of functions that these take
            stay meanwhile.
    """

    def __init__(self, tasks: TaskTable, begin: Callable[[int, int, Sequence[Interval]], object]) -> None:
        self._tasks = tasks
        self._begin = begin
        self._indices: dict[int, IntervalSet] = {}
        self.held: dict[int, set[int]] = {}

    def close(self) -> None:
        """Let go of what owns this, so that the end of a run leaves nothing to the garbage collector."""
        del self._begin

    def withhold(self, number: int, array: ArraySpec, todo: IntervalSet) -> list[int]:
        """Take the elements of an array that wait out of those that could be leased; return them."""
        state = self._tasks.state
        if not array.handles or (number < len(state) and state[number] == DONE):  # nobody needs it, see begin
            return []
        indices = self._indices.get(number)
        if indices is None:
            indices = self._indices[number] = IntervalSet((index, index + 1) for index in array.handles)
        parts = [part for interval in todo for part in indices.within(*interval)]
        for part in parts:
            todo.discard(*part)
        return [index for part in parts for index in range(*part)]

    def begin(self, number: int, array: Array, indices: Iterable[int]) -> None:
        """An array was taken in: make leases of elements that wait for functions alone.

        The values that the others take must stay until these have what else they wait for. Of an array that an earlier
        launch left, as nobody needs it, no element begins.
        """
        if self._tasks.state[number] == DONE:
            array.todo.update((index, index + 1) for index in indices)
            return
        self.lease(number, array, indices)
        handles = array.spec.handles
        self.held[number] = {index for index in handles if index in array.awaited}
        for index in self.held[number]:
            for each in handles[index]:
                self._tasks.consumers_left[each] += 1

    def lease(self, number: int, array: Array, indices: Iterable[int]) -> None:
        """Make a lease of each of these elements; it waits for what all elements take, too."""
        for index in indices:
            spec = array.lease_spec
            inputs = tuple(dict.fromkeys(spec.inputs + array.spec.handles[index]))
            lease = self._tasks.add_waiting_lease(replace(spec, inputs=inputs))
            self._begin(number, lease, [(index, index + 1)])
            self._let_go(number, array.spec.handles[index], index)
            self._tasks.ready_or_waiting(lease)

    def let_go(self, number: int, array: ArraySpec, intervals: Iterable[Interval]) -> None:
        """Elements of an array will not begin, which may have waited for other elements: they need no values."""
        if self.held.get(number):
            for index in [index for interval in intervals for index in range(*interval)]:
                self._let_go(number, array.handles.get(index, ()), index)

    def _let_go(self, number: int, taken: Sequence[int], index: int) -> None:
        if index in self.held.get(number, ()):
            self.held[number].discard(index)
            for each in taken:
                self._tasks.drop_consumer(each)

    def have_not_begun(self, array: ArraySpec, spec: TaskSpec, leases: Iterable[int]) -> list[int]:
        """Return which leases of an array have never been placed, as they wait or waited for a function."""
        if not array.handles:
            return []
        tasks = self._tasks
        own = [each for each in leases if tasks.specs[each] is not spec and not tasks.attempts[each]]
        return [each for each in own if tasks.state[each] in (WAITING, READY)]
