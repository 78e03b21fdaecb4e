"""Which functions take what of others: for ``--rerun``, and for what more there is since an earlier launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import OWN
from handoff_mpi.dag import Plan
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.selections import Selection
from handoff_mpi.launch.rerun import Rerun
from handoff_mpi.results.array_history import ArrayLaunch
from handoff_mpi.results.launches import Done


def with_consumers(plan: Plan, tasks: set[int], sources: Callable[[int], Iterable[int]] | None = None) -> set[int]:
    """Return ``tasks`` and all that depend on them.

    Args:
        sources: returns on which others a task depends; by default those that it needs.
    """
    if tasks:
        children: dict[int, list[int]] = {}
        for task, spec in enumerate(plan.specs):
            for each in spec.needs if sources is None else sources(task):
                children.setdefault(each, []).append(task)
        stack = list(tasks)
        while stack:
            new = [child for child in children.get(stack.pop(), ()) if child not in tasks]
            tasks.update(new)
            stack += new
    return tasks


def behind_windowed(plan: Plan) -> set[int]:
    """Return the tasks that depend on all elements of a windowed array: on a fold of these.

    Such a fold is not among them, unless it depends on another one. Nor is what takes nothing of that: it may begin
    before the fold is known, which makes no difference to it.
    """
    folds = plan.folds_of_windowed
    if not folds:
        return set()
    sources = Sources(plan)
    return with_consumers(plan, {task for task in range(len(plan)) if not folds.isdisjoint(sources(task))}, sources)


class Sources:
    """Tells on which tasks another depends; those of which it takes nothing, no element of an array, are left out.

    Args:
        plan: the tables of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._empty = {task for task, each in plan.arrays.items() if _has_no_elements(each)}
        self._are_all_whole = not (self._empty or plan.selections.all)

    def __call__(self, task: int) -> Iterable[int]:
        spec = self._plan.specs[task]
        array = self._plan.arrays.get(task)
        if self._are_all_whole:
            return spec.needs
        found = self._taken(takes_of(self._plan, task))
        if array is not None and task not in self._empty:
            found.update(link.source for link in array.links if link.source != OWN)
            found |= self._taken(source for handles in array.handles.values() for _, source in handles)
        return found - self._empty

    def _taken(self, sources: Iterable[int]) -> set[int]:
        selections = self._plan.selections
        of = ((each, selections.get(each)) for each in sources)
        return {selections.task_of(each) for each, selection in of if selection is None or len(selection.indices)}


def _has_no_elements(array: FrozenArray) -> bool:
    return not array.count and array.window is None and array.tree is None


def takes_any(plan: Plan, task: int, array: int, elements: IntervalSet) -> bool:
    """Whether ``task`` takes ``array`` whole, or any of these elements of it."""
    sources = takes_of(plan, task)
    return any(is_of_any(plan, each, elements) for each in sources if plan.selections.task_of(each) == array)


def takes_of(plan: Plan, task: int) -> tuple[int, ...]:
    """Return the tasks and selections whose values ``task`` takes, or all elements of an array do."""
    spec = plan.specs[task]
    return spec.inputs if spec.takes is None else spec.takes


def is_of_any(plan: Plan, source: int, elements: IntervalSet) -> bool:
    """Whether a source, an array or a selection of one, is of any of these elements."""
    selection = plan.selections.get(source)
    return selection is None or elements.last_of(selection.indices) is not None


def single_elements(plan: Plan) -> dict[int, list[tuple[int, int, int]]]:
    """Return the elements of arrays that are values of tasks: task to (array, index, number of the source)."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for number, array in plan.arrays.items():
        for index, handles in array.handles.items():
            for _, source in handles:
                found.setdefault(plan.selections.task_of(source), []).append((number, index, source))
    return found


class Pairs:
    """The pairs that tasks and elements took of arrays, of which other elements have values now, or may have.

    Args:
        plan: the tables of the run.
        launches: the earlier launches of each array.
        elements: the elements whose values were taken over from these: array to (launch, intervals).
    """

    def __init__(
        self,
        plan: Plan,
        launches: Mapping[int, Sequence[ArrayLaunch]],
        elements: Mapping[int, Sequence[tuple[int, Sequence[Interval]]]],
    ) -> None:
        self._plan = plan
        self._launches = launches
        self._elements = elements

    def are_outdated(self, sources: Iterable[int], epoch: int) -> bool:
        """Whether pairs are among ``sources`` that lack elements which had no values in a launch, and may have now."""
        selections = map(self._plan.selections.get, sources)
        return any(each.skips_missing and self._has_new(each, epoch) for each in selections if each is not None)

    def _has_new(self, selection: Selection, epoch: int) -> bool:
        launches = self._launches.get(selection.array, ())
        had = next((each.have for each in launches if each.epoch == epoch), IntervalSet())
        if had.missing(selection.indices.stop).last_of(selection.indices) is not None:
            return True
        later = [taken for launch, taken in self._elements.get(selection.array, ()) if launch > epoch]
        return any(IntervalSet(taken).last_of(selection.indices) is not None for taken in later)

    def find_outdated(self, done: Callable[[int], Done | None]) -> Rerun:
        """Return the tasks, and the elements of arrays, that were made of such elements.

        Args:
            done: how an earlier launch did a task, None if none did.
        """
        outdated = Rerun()
        for task, spec in enumerate(self._plan.specs):
            found = done(task)
            epochs = [launch for launch, _ in self._elements.get(task, ())]
            if spec.takes is not None and any(
                self.are_outdated(spec.takes, epoch) for epoch in ([] if found is None else [found.epoch]) + epochs
            ):
                outdated.tasks.add(task)
            elif task in self._plan.arrays and self._plan.arrays[task].handles and epochs:
                self._find_elements(task, outdated)
        return outdated

    def _find_elements(self, array: int, outdated: Rerun) -> None:
        """Find the elements of an array that are such pairs themselves."""
        for index, handles in self._plan.arrays[array].handles.items():
            epochs = [launch for launch, taken in self._elements[array] if index in IntervalSet(taken)]
            if any(self.are_outdated((source for _, source in handles), epoch) for epoch in epochs):
                outdated.elements.setdefault(array, IntervalSet()).add(index, index + 1)
