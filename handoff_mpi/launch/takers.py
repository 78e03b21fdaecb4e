"""Which functions take what of others: for ``--rerun``, and for what more there is since an earlier launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.dag import Plan
from handoff_mpi.dag.selections import Selection
from handoff_mpi.results.array_history import ArrayLaunch
from handoff_mpi.results.history import Done


def with_consumers(plan: Plan, tasks: set[int]) -> set[int]:
    """Return ``tasks`` and all that depend on them."""
    if tasks:
        children: dict[int, list[int]] = {}
        for task, spec in enumerate(plan.specs):
            for each in spec.needs:
                children.setdefault(each, []).append(task)
        stack = list(tasks)
        while stack:
            new = [child for child in children.get(stack.pop(), ()) if child not in tasks]
            tasks.update(new)
            stack += new
    return tasks


def behind_windowed(plan: Plan) -> set[int]:
    """Return the tasks that depend on all elements of a windowed array: on a fold of these."""
    folds = plan.folds_of_windowed
    return with_consumers(plan, {*folds}) - folds


def takes_any(plan: Plan, task: int, array: int, elements: IntervalSet) -> bool:
    """Whether ``task`` takes ``array`` whole, or any of these elements of it."""
    spec = plan.specs[task]
    sources = spec.inputs if spec.takes is None else spec.takes
    return any(is_of_any(plan, each, elements) for each in sources if plan.selections.task_of(each) == array)


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


def find_outdated(
    plan: Plan,
    done: Callable[[int], Done | None],
    launches: Mapping[int, Sequence[ArrayLaunch]],
    elements: Mapping[int, Sequence[tuple[int, Sequence[Interval]]]],
) -> set[int]:
    """Return the tasks that took the elements that had values, while now others have, or may have; and their consumers.

    Args:
        done: how an earlier launch did a task, None if none did.
        launches: the earlier launches of each array.
        elements: the elements whose values were taken over from these: array to (launch, intervals).
    """

    def has_new(selection: Selection, epoch: int) -> bool:
        had = next((each.have for each in launches.get(selection.array, ()) if each.epoch == epoch), IntervalSet())
        if had.missing(selection.indices.stop).last_of(selection.indices) is not None:
            return True
        later = [taken for launch, taken in elements.get(selection.array, ()) if launch > epoch]
        return any(IntervalSet(taken).last_of(selection.indices) is not None for taken in later)

    outdated: set[int] = set()
    for task, spec in enumerate(plan.specs):
        found = None if spec.takes is None else done(task)
        if found is not None and spec.takes is not None:
            selections = [selection for each in spec.takes if (selection := plan.selections.get(each)) is not None]
            if any(each.skips_missing and has_new(each, found.epoch) for each in selections):
                outdated.add(task)
    return with_consumers(plan, outdated)
