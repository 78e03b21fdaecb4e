"""The functions, and the elements of arrays, that a user wants to run again in a resumed run."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field

from handoff_mpi.arrays.element_names import intervals_named, split_name
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import OWN
from handoff_mpi.dag import Plan
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.suggestions import did_you_mean


@dataclass(slots=True)
class Rerun:
    """The functions and elements that run again.

    Attributes:
        tasks: the numbers of functions, and of arrays that run again whole.
        elements: array number to the elements that do.
    """

    tasks: set[int] = field(default_factory=set)
    elements: dict[int, IntervalSet] = field(default_factory=dict)

    @property
    def named(self) -> set[int]:
        """The functions and arrays of which anything is named."""
        return self.tasks | self.elements.keys()


def read_rerun(names: Collection[Hashable], plan: Plan) -> Rerun:
    """Return what ``names`` stand for: ids, elements such as ``"sweep[3,100:200]"``, or ``(id of an array, index)``.

    Raises:
        UsageError: something that is named is not there.
    """
    rerun = Rerun()
    unknown = []
    for name in names:
        if name in plan.number_of:
            rerun.tasks.add(plan.number_of[name])
        elif not _add_elements(rerun, name, plan):
            unknown.append(name)
    if unknown:
        _refuse_misspelt_elements(unknown[0], plan)
        hint = did_you_mean(unknown[0], plan.number_of)
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise UsageError(f"rerun names {show(unknown[0])}{more}, which the DAG does not hold{hint}")
    rerun.tasks = with_blocks(rerun.tasks, plan)
    return rerun


def _refuse_misspelt_elements(name: Hashable, plan: Plan) -> None:
    """Refuse what begins as the name of an element of an array does, and is none.

    Raises:
        UsageError: it is that.
    """
    array, bracket, _ = str(name).partition("[") if isinstance(name, str) else ("", "", "")
    if bracket and _array_called(array, plan) is not None:
        known = f"{array}[3], {array}[100:200] or {array}[3,100:200]"
        raise UsageError(f"rerun names {show(name)}, which is not the name of elements; write {known}")


def with_blocks(tasks: Collection[int], plan: Plan) -> set[int]:
    """Return ``tasks``, and of those that fold values whose number is not known the arrays that fold blocks."""
    folds = plan.folds_of_windowed.intersection(tasks)
    return {*tasks, *(link.source for fold in folds for link in plan.arrays[fold].links if link.source != OWN)}


def _add_elements(rerun: Rerun, name: Hashable, plan: Plan) -> bool:
    """Add the elements that ``name`` stands for; return whether it names elements of an array that is there."""
    if isinstance(name, str) and (parts := split_name(name)) is not None:
        number, text = _array_called(parts[0], plan), parts[1]
    elif isinstance(name, tuple) and len(name) == 2 and isinstance(name[1], int):
        number, text = _array_called(name[0], plan), str(name[1])
    else:
        return False
    if number is None:
        return False
    if plan.arrays[number].window is not None:
        what = f"rerun names {show(name)}, and elements of a windowed array are known while it runs"
        raise UsageError(f"{what}; name the array: --rerun {show(plan.ids[number])}")
    count = plan.arrays[number].count
    elements = IntervalSet(_intervals(text, count, name))
    if not elements:
        raise UsageError(f"rerun names {show(name)}, which selects none of the {count:,} elements of the array")
    rerun.elements.setdefault(number, IntervalSet()).update(elements)
    return True


def _array_called(id: Hashable, plan: Plan) -> int | None:
    number = plan.number_of.get(id)
    return number if number in plan.arrays else None


def _intervals(text: str, count: int, name: Hashable) -> Iterator[Interval]:
    try:
        yield from intervals_named(text, count)
    except ValueError as error:
        raise UsageError(f"rerun names {show(name)}, but {error}") from None
