"""Checks the options of arrays: each holds for all elements, so none may be a callable or a sequence."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from handoff_mpi.arrays.linked_inputs import BlocksInput, FoldedInput, LinkedInput, tree_of
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.dag.arrays import ArrayFunction
from handoff_mpi.dag.function import Collocated, Function
from handoff_mpi.formatting import show
from handoff_mpi.numerals import plain

#: Options of which a callable or a sequence would be one for each element, with their defaults.
_ONE_FOR_ALL: dict[str, Any] = {
    **dict.fromkeys(("cost", "max_retries", "timeout", "node", "retry_delay", "cwd", "env")),
    **dict.fromkeys(("chunk", "max_failures", "window")),
    "priority": 0,
    "version": "",
    "writable": False,
}
#: These are one value, although they have a length.
_SINGLE = (str, bytes, Mapping)


def find_wrong_array(array: ArrayFunction) -> Iterable[str]:
    """Yield what is wrong with the options of ``array`` because it is one."""
    for name in _ONE_FOR_ALL:
        value = getattr(array, name)
        if _is_one_for_each(value):
            what = f"{name} is one for all elements of an array, not {show(value)}"
            yield f"{what}; make an array for each {name}, of the elements that have it"
    if isinstance(array.node, Collocated):
        yield "an array runs on many ranks, so it cannot be collocated; name a host, or leave node out"
    chunk, most = plain(array.chunk), plain(array.max_failures)
    if not (_is_one_for_each(chunk) or chunk is None or (type(chunk) is int and chunk > 0)):
        yield f"chunk must be a whole number from 1, or None, not {show(chunk)}"
    is_count, is_share = type(most) is int and most >= 0, type(most) is float and 0 <= most <= 1
    if not (_is_one_for_each(most) or most is None or is_count or is_share):
        yield f"max_failures must be a whole number, a share from 0.0 to 1.0, or None, not {show(most)}"


def find_ambiguous_ids(functions: Iterable[Function]) -> Iterable[str]:
    """Yield which ids of functions also stand for an element of an array, as ``("sweep", 3)`` does among the errors."""
    functions = list(functions)
    counts = {each.id: len(each) for each in functions if type(each) is ArrayFunction}
    if not counts:
        return
    for function in functions:
        id = function.id
        if type(id) is tuple and len(id) == 2 and type(id[1]) is int and 0 <= id[1] < counts.get(id[0], 0):
            what = f"the id {show(id)} of a function also stands for element {id[1]:,} of the array {show(id[0])}"
            yield f"{what}; give one of them another id"


def find_wrong_links(functions: Iterable[Function], by_id: Mapping[Hashable, Function]) -> Iterator[str]:
    """Yield which arrays map over something that is no array, or one of another length."""
    for array in functions:
        for each in array.elements if type(array) is ArrayFunction else ():
            linked = each.input if isinstance(each, FoldedInput | BlocksInput) else each
            if isinstance(linked, LinkedInput) and linked.id in by_id:
                problem = _problem_of_link(linked, by_id[linked.id])
                if problem:
                    yield f"function {show(array.id)}: {linked.name} stands for {problem}"


def _problem_of_link(linked: LinkedInput, source: Function) -> str:
    remedy = "take the handle that the map of this DAG has returned"
    if type(source) is not ArrayFunction or tree_of(source.elements) is not None:
        return f"elements of {show(source.id)}, which is no array; {remedy}"
    if (linked.array_count == UNKNOWN_COUNT) != (source.window is not None):
        has = "a number that is known" if source.window is None else "as many as come while it runs"
        return f"elements of {show(source.id)}, which has {has} and not so when its handle was made; {remedy}"
    if source.window is None and len(source) != linked.array_count:
        has = f"and {show(source.id)} has {len(source):,}"
        return f"elements of an array of {linked.array_count:,} elements, {has}; {remedy}"
    return ""


def find_lists_of_windowed(
    inputs: Mapping[Hashable, Iterable[Hashable]], by_id: Mapping[Hashable, Function]
) -> Iterable[str]:
    """Yield which functions take the list of the values of a windowed array.

    Args:
        inputs: id of a function to the ids of those whose values it takes whole.
    """
    arrays = [each for each in by_id.values() if type(each) is ArrayFunction and each.window is not None]
    windowed = {each.id for each in arrays if tree_of(each.elements) is None}
    for id, taken in inputs.items() if windowed else ():
        for each in windowed.intersection(taken):
            what = f"function {show(id)} takes the list of the values of {show(each)}, an array with a window"
            remedy = f"map over it, fold it with reduce, or read results[{show(each)}] after the run"
            yield f"{what}, whose number nobody knows; {remedy}"


def with_single_options(array: ArrayFunction) -> ArrayFunction:
    """Return ``array`` without the options that :func:`find_wrong_array` refuses, so that others can be checked."""
    checked = copy.copy(array)
    for name, default in _ONE_FOR_ALL.items():
        if _is_one_for_each(getattr(array, name)):
            setattr(checked, name, default)
    if isinstance(array.node, Collocated):
        checked.node = None
    return checked


def _is_one_for_each(value: Any) -> bool:
    kind = type(value)
    return callable(value) or (hasattr(kind, "__len__") and not issubclass(kind, _SINGLE))
