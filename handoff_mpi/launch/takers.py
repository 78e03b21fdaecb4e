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
        self._behind = _pairs_behind(plan)

    def are_outdated(self, task: int, epoch: int) -> bool:
        """Whether a launch made ``task`` of pairs that lack elements which had no values then, and may have now.

        The task takes them, or depends on one that does: this one may have run again since, and the task may have not.
        """
        return self._are_outdated(self._behind.get(task, ()), epoch)

    def _are_outdated(self, sources: Iterable[int], epoch: int) -> bool:
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
        for task in self._behind:
            found = done(task)
            if found is not None and self.are_outdated(task, found.epoch):
                outdated.tasks.add(task)
            for launch, taken in self._elements.get(task, ()):
                if self._are_outdated(takes_of(self._plan, task), launch):
                    outdated.tasks.add(task)
                elif self.are_outdated(task, launch):
                    outdated.elements.setdefault(task, IntervalSet()).update(taken)
        for task, array in self._plan.arrays.items():
            if array.handles and task in self._elements:
                self._find_elements(task, outdated)
        return outdated

    def _find_elements(self, array: int, outdated: Rerun) -> None:
        """Find the elements of an array that are such pairs themselves."""
        for index, handles in self._plan.arrays[array].handles.items():
            epochs = [launch for launch, taken in self._elements[array] if index in IntervalSet(taken)]
            if any(self._are_outdated((source for _, source in handles), epoch) for epoch in epochs):
                outdated.elements.setdefault(array, IntervalSet()).add(index, index + 1)


def _pairs_behind(plan: Plan) -> dict[int, frozenset[int]]:
    """Return the pairs that tasks are made of, at first or second hand: task to the numbers of the selections.

    Those that single elements of an array are, are behind what depends on it, and not behind all of its elements.
    """
    selections, nothing = plan.selections, frozenset[int]()
    if not any(each.skips_missing for each in selections.all):
        return {}
    behind: dict[int, frozenset[int]] = {}
    after: dict[int, frozenset[int]] = {}  # behind what takes its value, or elements of it
    for task, spec in enumerate(plan.specs):
        own = {each for each in takes_of(plan, task) if _skips_missing(plan, each)}
        found = nothing.union(own, *[after[each] for each in spec.needs if each in after])
        array = plan.arrays.get(task)
        handles = () if array is None else [source for each in array.handles.values() for _, source in each]
        more = found.union(each for each in handles if _skips_missing(plan, each))
        if found:
            behind[task] = found
        if more:
            after[task] = more
    return behind


def _skips_missing(plan: Plan, source: int) -> bool:
    selection = plan.selections.get(source)
    return selection is not None and selection.skips_missing
