"""Calls that cannot work, found before anything starts: arguments that the code does not take, generator functions."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial

from handoff_mpi.binding import find_binding_problem, find_called
from handoff_mpi.dag.faults import Faults
from handoff_mpi.dag.function import AS_LIST, INLINE, Argument, Function
from handoff_mpi.dag.handle import HANDLES
from handoff_mpi.dag.kinds import Kinds
from handoff_mpi.dag.references import ATOMS, ReferenceFinder
from handoff_mpi.signatures import CODEC, find_problem_of_call

#: Constants of these classes hold no :class:`Argument`.
_WITHOUT_CODECS = ATOMS | HANDLES


def find_call_problems(
    functions: Iterable[Function], kinds: Kinds | None = None, place_of: Callable[[int], str] | None = None
) -> list[str]:
    """Return one line for each different problem, an empty list if none is certain.

    Functions of one kind that call the same code in the same way are looked at once.

    Args:
        kinds: of the functions.
        place_of: returns the line that added a function, by number; empty if that is not known.
    """
    functions = list(functions)
    kinds = kinds or Kinds(functions)
    named = [tuple(each) for each in kinds.kwargs] if any(kinds.kwargs) else itertools.repeat(())
    columns = kinds.of, map(id, kinds.codes), map(len, kinds.args), map(len, kinds.extra_args), named
    keys: list[tuple[object, ...]] = [*zip(*columns, strict=False)]
    faults = Faults()
    first: dict[tuple[object, ...], int] = {}
    number = 0
    for key, alike in itertools.groupby(keys):  # neighbours mostly call alike
        first.setdefault(key, number)
        number += len([*alike])
    for key, number in first.items():
        for problem in _find_problems_call(functions[number]):
            place = "" if place_of is None else place_of(number)
            where = f" (it was added in {place})" if place else ""
            faults.add_once(problem, functions[number].id, partial(str, f"{problem}{where}"), keys.count(key))
    for consumer, argument in _codecs(functions, kinds):
        for problem in _find_problems_codec(argument):
            faults.add(consumer, problem)
    return faults.lines()


def _codecs(functions: list[Function], kinds: Kinds) -> Iterator[tuple[Hashable, Argument]]:
    """Yield every :class:`Argument`, with the id of its consumer; most DAGs have none, which is seen at once."""
    constants = [*kinds.extra_args, *[each.values() for each in kinds.kwargs if each]]
    may_be_nested = not _WITHOUT_CODECS.issuperset(map(type, itertools.chain.from_iterable(constants)))
    in_args = Argument in map(type, itertools.chain.from_iterable(kinds.args))
    if not (may_be_nested or in_args):
        return
    finder = ReferenceFinder()
    for each in functions:
        nested = finder.find([*each.extra_args, *each.kwargs.values()]) if may_be_nested else ()
        yield from ((each.id, reference) for reference in (*each.args, *nested) if type(reference) is Argument)


def _count(function: Function) -> int:
    count = 1 if function.argument_inclusion == AS_LIST else len(function.args)
    return count + len(function.extra_args)


def find_argument_problem(function: Function) -> str:
    """Return why the code of ``function`` does not take its arguments, as Python words it; empty if it may."""
    return find_binding_problem(function.code, _count(function), function.kwargs)


def _find_problems_call(function: Function) -> Iterator[str]:
    problem = find_argument_problem(function)
    if problem:
        yield problem
    if function.type != INLINE:  # whose value is used where it is made
        yield from _why_not_sendable(function)


def _why_not_sendable(function: Function) -> Iterator[str]:
    called = find_called(function.code)
    if called is None or called.function is None or not called.is_result:
        return
    flags, name = called.function.__code__.co_flags, f"{called.function.__qualname__}()"
    if flags & inspect.CO_ASYNC_GENERATOR:
        remedy = "return [item async for item in ...] from an async function that calls it"
        yield f"{name} is an async generator function, and a generator cannot be sent; {remedy}"
    elif flags & inspect.CO_GENERATOR and not flags & inspect.CO_ITERABLE_COROUTINE:
        yield f"{name} is a generator function, and a generator cannot be sent; return list(...) of its items"


def _find_problems_codec(argument: Argument) -> Iterator[str]:
    for side, parameters in CODEC.items():
        code = getattr(argument, side)
        problem = "" if code is None else find_problem_of_call(code, side, parameters)
        if problem:
            hint = "; it is a class: give an object of it" if isinstance(code, type) else ""
            yield f"an Argument's {problem}{hint}"
