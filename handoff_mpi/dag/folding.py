"""Folds: values of elements combined by an associative function, block by block, in a tree that their number fixes.

A fold is an array in the plan: each element folds one block, from left to right. Its value is that of the last element.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.linked_inputs import FoldedInput, LinkedInput
from handoff_mpi.binding import find_binding_problem
from handoff_mpi.dag.arrays import (
    BROADCAST,
    OWN_OPTIONS,
    ArrayFunction,
    check_options,
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


class Fold:
    """Combines the values of a block by a function of two.

    Args:
        code: the function, which is associative.
    """

    def __init__(self, code: Callable[..., Any]) -> None:
        self.code = code
        self.__name__ = self.__qualname__ = name_of(code)

    def __call__(self, values: list[Any], /, **fixed: Any) -> Any:
        return functools.reduce(functools.partial(self.code, **fixed) if fixed else self.code, values)


def declare_fold(
    code: Any, values: Any, fan_in: int, options: Mapping[str, Any], unique_id: Callable[[str], str]
) -> list[ArrayFunction]:
    """Return the functions that ``DAG.reduce`` adds; the last one folds.

    Where handles are among the values, an array before it has the values for which they stand: it is those of that
    array that are folded.

    Raises:
        DAGError: as of ``DAG.reduce``.
    """
    function, options = with_declared(code, options)
    where = _checked(function, fan_in, options)
    if type(values) in BROADCAST:
        remedy = "pass an array, or an iterable; a function of its own folds a list that another one returns"
        raise DAGError(f"{show(values)} stands for a value that is not known before the run; {remedy}", where)
    name = name_of(function)
    id = unique_id(name) if options.get("id") is None else options["id"]
    elements = read_elements(values, 2, where)
    if not len(elements):
        raise DAGError("there is nothing to fold; give at least one value", where)
    declared = {option: value for option, value in options.items() if option not in OWN_OPTIONS}
    before: list[ArrayFunction] = []
    if type(elements) is HandleInput:
        values_id = unique_id(f"{id_text(id)}-values")
        itself = [Placeholder(ELEMENT, 0)]
        before = [ArrayFunction((elements,), None, id=values_id, code=_itself, extra_args=itself)]
        elements = LinkedInput(values_id, len(elements), range(len(elements)), elements.name)
    fold = ArrayFunction(
        (FoldedInput(elements, plain(fan_in), id, "argument 2"),),
        options.get("chunk"),
        id=id,
        code=Fold(function),
        extra_args=[Placeholder(ELEMENT, 0)],
        kwargs=unwrapped(options.get("fixed")),
        **declared,
    )
    return [*before, fold]


def _itself(value: Any) -> Any:
    return value


def _checked(function: Any, fan_in: Any, options: Mapping[str, Any]) -> str:
    """Return how the call is named in messages, if nothing is wrong with it."""
    if not callable(function) or type(function) in HANDLES:
        what = f"reduce takes the function first, and the values behind it; {show(function)} cannot be called"
        raise DAGError(what)
    where = f"reduce({name_of(function)})"
    if "max_failures" in options:
        raise DAGError("a fold has no value if any of its elements has failed; leave out max_failures=", where)
    if "window" in options:
        raise DAGError("the blocks of a fold depend on the number of values; leave out window=", where)
    check_options(options, where)
    if type(plain(fan_in)) is not int or fan_in < 2:
        raise DAGError(f"fan_in must be a whole number from 2, not {show(fan_in)}", where)
    if inspect.iscoroutinefunction(function):
        raise DAGError("it is an async function; fold with a plain function of two values", where)
    fixed = unwrapped(options.get("fixed"))
    problem = find_binding_problem(function, 2, fixed if isinstance(fixed, Mapping) else ())
    if problem:
        raise DAGError(f"it is called with two values: {problem}", where)
    return where


def fold_here(code: Any, values: Any, fan_in: int, options: Mapping[str, Any]) -> Any:
    """Return what ``DAG.reduce`` would give, by plain calls in the same order.

    Raises:
        DAGError: an option is unknown, or there are no values.
    """
    where = _checked(code, fan_in, options)
    fold, fixed = functools.partial(Fold(code), **unwrapped(options.get("fixed"))), plain(fan_in)
    level: Sequence[Any] = [*values]
    if not level:
        raise DAGError("there is nothing to fold; give at least one value", where)
    while len(level) > 1:
        level = [fold(list(level[first : first + fixed])) for first in range(0, len(level), fixed)]
    return level[0]
