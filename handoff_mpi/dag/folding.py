"""Folds: values of elements combined by an associative function, block by block, in a tree that their number fixes.

A fold is an array in the plan: each element folds one block, from left to right. Its value is that of the last element.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.element_input import ElementInput
from handoff_mpi.arrays.linked_inputs import BlocksInput, FoldedInput, LinkedInput
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.binding import find_binding_problem
from handoff_mpi.dag.arrays import (
    ARRAY_OPTIONS,
    BROADCAST,
    OWN_OPTIONS,
    REFUSED,
    ArrayFunction,
    Fixed,
    check_iterable,
    check_options,
    find_followed,
    name_of,
    read_elements,
    unwrapped,
    with_declared,
)
from handoff_mpi.dag.call_template import ELEMENT, Placeholder
from handoff_mpi.dag.handle import HANDLES
from handoff_mpi.dag.handle_elements import HandleInput
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import id_text, show
from handoff_mpi.numerals import plain

#: So many values are folded by one element, unless the user says otherwise.
DEFAULT_FAN_IN = 64
_OPTIONS = ARRAY_OPTIONS - {"max_failures", "window"} | {"fan_in"}
#: Why some options are refused.
_REFUSED = {
    **REFUSED,
    "max_failures": "a fold has no value if any of its elements has failed; leave out max_failures=",
    "window": "it folds values that are known; leave out window=, and fold what map(..., window=...) returns",
    "initial": "it has no initial value; put one among the values",
    "argument_inclusion": "each call gets two values; leave out argument_inclusion=",
}
_ITERABLE = "pass an array, or an iterable of values"


class Fold:
    """Combines the values of a block by a function of two.

    Args:
        code: the function, which is associative.
    """

    def __init__(self, code: Callable[..., Any]) -> None:
        self.code = code
        self.__name__ = self.__qualname__ = name_of(code)

    def __call__(self, values: list[Any], /, **fixed: Any) -> Any:
        code = functools.partial(self.code, **fixed) if fixed else self.code
        others = iter(values)
        value = next(others)
        for other in others:  # a quarter faster than functools.reduce, which calls a function of Python by way of C
            value = code(value, other)
        return value


def declare_fold(
    code: Any, values: Any, fan_in: int, options: Mapping[str, Any], unique_id: Callable[[str], str]
) -> list[ArrayFunction]:
    """Return the functions that ``DAG.reduce`` adds; the last one folds.

    Where handles are among the values, an array before it has the values for which they stand: it is those of that
    array that are folded. Where nobody knows how many values come, an array before it folds blocks of them as they do.

    Raises:
        DAGError: as of ``DAG.reduce``.
    """
    function, options = with_declared(code, options)
    where = _checked(function, fan_in, options)
    if type(values) is Fixed:
        raise DAGError(f"values is {show(values)}, which is one value; pass an array, or an iterable", where)
    if type(values) in BROADCAST:
        remedy = "pass an array, or an iterable; a function of its own folds a list that another one returns"
        raise DAGError(f"{show(values)} stands for a value that is not known before the run; {remedy}", where)
    name = name_of(function)
    id = unique_id(name) if options.get("id") is None else options["id"]
    followed = find_followed([values], None, where)
    window, root = (None, None) if followed is None else (followed.window, followed.root)
    elements = read_elements(values, "values", where, _ITERABLE)
    if not len(elements):
        raise DAGError("there is nothing to fold; give at least one value", where)
    declared = {option: value for option, value in options.items() if option not in OWN_OPTIONS}
    before: list[ArrayFunction] = []
    if type(elements) is HandleInput:
        values_id = unique_id(f"{id_text(id)}-values")
        itself = [Placeholder(ELEMENT, 0)]
        before = [ArrayFunction((elements,), None, id=values_id, code=_itself, extra_args=itself)]
        elements = LinkedInput(values_id, len(elements), range(len(elements)), elements.name)

    def folding(input: ElementInput, id: Hashable) -> ArrayFunction:
        return ArrayFunction(
            (input,),
            options.get("chunk"),
            window=window,
            root=root,
            id=id,
            code=Fold(function),
            extra_args=[Placeholder(ELEMENT, 0)],
            kwargs=unwrapped(options.get("fixed"), where),
            **declared,
        )

    if type(elements) is LinkedInput and window is not None:
        blocks_id = unique_id(f"{id_text(id)}-blocks")
        before = [folding(BlocksInput(elements, plain(fan_in), elements.name), blocks_id)]
        elements = LinkedInput(blocks_id, UNKNOWN_COUNT, range(UNKNOWN_COUNT), elements.name)
    return [*before, folding(FoldedInput(elements, plain(fan_in), id, elements.name), id)]


def _itself(value: Any) -> Any:
    return value


def _checked(function: Any, fan_in: Any, options: Mapping[str, Any]) -> str:
    """Return how the call is named in messages, if nothing is wrong with it."""
    if not callable(function) or type(function) in HANDLES:
        what = f"reduce takes the function first, and the values behind it; {show(function)} cannot be called"
        raise DAGError(what)
    where = f"reduce({name_of(function)})"
    check_options(options, where, _OPTIONS, _REFUSED)
    if type(plain(fan_in)) is not int or fan_in < 2:
        raise DAGError(f"fan_in must be a whole number from 2, not {show(fan_in)}", where)
    if inspect.iscoroutinefunction(function):
        raise DAGError("it is an async function; fold with a plain function of two values", where)
    problem = find_binding_problem(function, 2, unwrapped(options.get("fixed"), where))
    if problem:
        raise DAGError(f"it is called with two values: {problem}", where)
    return where


def fold_here(code: Any, values: Any, fan_in: int, options: Mapping[str, Any]) -> Any:
    """Return what ``DAG.reduce`` would give, by plain calls in the same order.

    Raises:
        DAGError: an option is unknown, or there are no values.
    """
    where = _checked(code, fan_in, options)
    fold, fixed = functools.partial(Fold(code), **unwrapped(options.get("fixed"), where)), plain(fan_in)
    check_iterable(values, "values", where, _ITERABLE)
    level: Sequence[Any] = [*values]
    if not level:
        raise DAGError("there is nothing to fold; give at least one value", where)
    while len(level) > 1:
        level = [fold(list(level[first : first + fixed])) for first in range(0, len(level), fixed)]
    return level[0]
