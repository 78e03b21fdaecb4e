"""Selections: some elements of an array, whose values functions take.

A plan numbers its selections behind its tasks: a source of a call is a task or a selection, and a consumer waits for
either in the same way. Functions that take the same elements share a selection.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from handoff_mpi.dag.arrays import ArrayFunction
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.function import SKIP, Argument, Function
from handoff_mpi.dag.handle import OF_ARRAYS, ArrayElement, ArrayHandle, ArraySlice, elements_text
from handoff_mpi.dag.handle_elements import references_of
from handoff_mpi.dag.references import ReferenceFinder
from handoff_mpi.formatting import show

#: The types of references that may stand for a selection.
MAY_SELECT: frozenset[type] = OF_ARRAYS | {Argument}


class Selection(NamedTuple):
    """Elements of an array.

    Attributes:
        array: its task number.
        elements: the index of one element, whose value is taken; or a range of indices, the list of whose values is.
        skips_missing: whether pairs of index and value are taken instead, of those elements that have values.
    """

    array: int
    elements: int | range
    skips_missing: bool = False

    @property
    def indices(self) -> range:
        """Its elements, the lowest first."""
        elements = self.elements
        if isinstance(elements, int):
            return range(elements, elements + 1)
        return elements if elements.step > 0 else elements[::-1]

    @property
    def text(self) -> str:
        """How a user writes its elements."""
        return elements_text(self.elements)


class SelectionTable:
    """The selections of one plan, by number.

    Args:
        arrays: the arrays of the plan, by task number.

    Attributes:
        all: the selections, in the order of their numbers.
        first: the number of the first one.
    """

    def __init__(self, arrays: Mapping[int, FrozenArray]) -> None:
        self.all: list[Selection] = []
        self.first = 0
        self._arrays = arrays
        self._numbers: dict[Selection, int] = {}

    def __bool__(self) -> bool:
        return bool(self.all)

    def begin(self, tasks: int) -> None:
        """Number selections behind so many tasks."""
        assert not self.all or self.first == tasks, "no tasks are added behind selections"
        self.first = tasks

    def number_of(self, reference: object, array: int) -> int:
        """Return the number of what ``reference`` stands for: some elements, or the array itself if it is all of them.

        Args:
            array: the number of its array.
        """
        if array not in self._arrays:
            return array  # a handle of an array with that id, by which another function goes in this DAG
        elements, skips, count = elements_of(reference), skips_missing(reference), self._arrays[array].count
        if elements is None:
            elements = range(count)
        if elements == range(count) and not skips:
            return array
        selection = Selection(array, elements, skips)
        number = self._numbers.get(selection)
        if number is None:
            number = self._numbers[selection] = self.first + len(self.all)
            self.all.append(selection)
        return number

    def get(self, number: int) -> Selection | None:
        """Return the selection with that number, None if it is that of a task."""
        return self.all[number - self.first] if self.all and number >= self.first else None

    def task_of(self, number: int) -> int:
        """Return the array of a selection, or else the number itself."""
        selection = self.get(number)
        return number if selection is None else selection.array


def elements_of(reference: Any) -> int | range | None:
    """Return the elements that ``reference`` names, None if it stands for the whole value of a function."""
    if type(reference) is Argument:
        return elements_of(reference.handle)
    if type(reference) is ArrayElement:
        return reference.index
    return reference.elements if type(reference) is ArraySlice else None


def skips_missing(reference: Any) -> bool:
    """Whether ``reference`` stands for pairs of index and value."""
    return type(reference) is Argument and reference.missing == SKIP


def is_of_elements(reference: Any) -> bool:
    """Whether ``reference`` may stand for a selection."""
    kind = type(reference)
    if kind is Argument:
        return reference.missing is not None or is_of_elements(reference.handle)
    return kind is ArrayElement or kind is ArraySlice


def find_wrong_selections(
    functions: Iterable[Function], by_id: Mapping[Hashable, Function], finder: ReferenceFinder
) -> Iterator[str]:
    """Yield which functions take elements that are not there.

    Args:
        functions: whose fields are right.
    """
    for function in functions:
        references = [*function.args, *finder.find([*function.extra_args, *function.kwargs.values()])]
        if type(function) is ArrayFunction:
            references += (reference for _, _, reference in references_of(function.elements))
        for reference in references:
            problem = _problem_of(reference, by_id) if type(reference) in MAY_SELECT else ""
            if problem:
                yield f"function {show(function.id)}: {problem}"


def _problem_of(reference: Any, by_id: Mapping[Hashable, Function]) -> str:
    handle: Any = reference.handle if type(reference) is Argument else reference
    array = by_id.get(reference.id)
    if type(reference) is Argument and reference.missing is not None:
        if reference.missing != SKIP:
            return f"Argument({show(reference.id)}): missing is {show(SKIP)} or None, not {show(reference.missing)}"
        if type(handle) is ArrayElement:
            return f"missing={show(SKIP)} is for lists of elements, not for {handle!r}; pass a slice of the array"
        if array is not None and type(array) is not ArrayFunction:
            return f"missing={show(SKIP)} is for arrays, and {show(reference.id)} is none; leave it out"
    if array is None or elements_of(reference) is None or type(handle) is ArrayHandle:
        return ""  # whether the function is there is looked at elsewhere
    if type(array) is not ArrayFunction:
        return f"it takes {handle!r}, and {show(array.id)} is no array; take its whole value, and index that"
    if handle.array_count != len(array):
        has = f"and {show(array.id)} has {len(array):,}; take the handle that the map of this DAG has returned"
        return f"it takes {handle!r} of an array of {handle.array_count:,} elements, {has}"
    return ""
