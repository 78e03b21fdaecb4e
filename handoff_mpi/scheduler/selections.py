"""Selections of arrays in the task table: functions that take some elements wait for these alone.

A selection is an entry of the task table that waits for its array, but ends as soon as its elements have. Nobody places
it, and its changes are not logged: people see the functions that take it, and the array.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.watchers import Watchers
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.selections import Selection
from handoff_mpi.scheduler.lifecycle import DONE, WAITING
from handoff_mpi.scheduler.tasks import TaskTable


class Selections:
    """The selections of a run.

    Args:
        tasks: the scheduler's table.

    Attributes:
        of: the selections by number.
    """

    def __init__(self, tasks: TaskTable) -> None:
        self.of: dict[int, Selection] = {}
        self._tasks = tasks
        self._watchers: dict[int, Watchers] = {}
        self._without_value: dict[int, IntervalSet] = {}

    def specs(self, selections: Sequence[Selection], specs: Sequence[TaskSpec], first: int) -> list[TaskSpec]:
        """Return what the task table must know of ``selections``.

        Args:
            specs: of new tasks, whose numbers begin with ``first``; the arrays are among them.
        """
        arrays = [specs[each.array - first] for each in selections]
        bare = {"array": None, "keep": False, "stays": False, "group": None, "takes": None}
        return [
            replace(spec, inputs=(each.array,), **bare)  # type: ignore[arg-type]
            for each, spec in zip(selections, arrays, strict=True)
        ]

    def submit(self, first: int, selections: Sequence[Selection], done: Mapping[int, IntervalSet]) -> None:
        """Take in selections whose numbers begin with ``first``, and which the task table holds by now.

        Args:
            done: array number to the elements that an earlier launch computed.
        """
        for number, selection in enumerate(selections, first):
            self.of[number] = selection
            array = selection.array
            if array not in self._watchers:
                spec = self._tasks.specs[array].array
                assert spec is not None, "elements are those of an array"
                self._watchers[array] = Watchers(done.get(array, IntervalSet()).missing(spec.count))
                self._without_value[array] = IntervalSet()
            if not self._watchers[array].add(number, selection.indices):
                self._supply(number)
            elif self._tasks.state[array] == DONE:  # an earlier launch did what takes it
                self._leave(number)

    def ended(self, array: int, intervals: Iterable[Interval]) -> None:
        """Elements of an array have values."""
        watchers = self._watchers.get(array)
        if watchers is not None:
            for number in watchers.end(intervals):
                self._end(number)

    def lost(self, array: int, intervals: Iterable[Interval]) -> None:
        """Elements of an array will not have values: they failed, or do not begin."""
        if array in self._watchers:
            intervals = [*intervals]
            self._without_value[array].update(intervals)
            self.ended(array, intervals)

    def _end(self, number: int) -> None:
        selection = self.of[number]
        missing = self._without_value[selection.array].last_of(selection.indices)
        if missing is None or selection.skips_missing:
            self._supply(number)
        else:
            self._skip(number)

    def settle(self, number: int) -> None:
        """End a selection whose array was skipped: what leaves out missing elements takes those that have values."""
        if self.of[number].skips_missing:
            self._supply(number)
        else:
            self._skip(number)

    def _skip(self, number: int) -> None:
        if self._tasks.state[number] == WAITING:
            self._tasks.drop(number)
            self._tasks.skip([*self._tasks.children[number]])

    def _supply(self, number: int) -> None:
        """Have the functions that take a selection begin, as its elements are there now."""
        self._tasks.at_rank0[number] = 1
        if self._tasks.state[number] == WAITING:
            self._leave(number)
            self._tasks.supply(number)

    def _leave(self, number: int) -> None:
        """Nobody waits for a selection any more: it counts as done."""
        self._tasks.state[number] = DONE
        self._tasks.open -= 1
        self._tasks.close_inputs(number)
