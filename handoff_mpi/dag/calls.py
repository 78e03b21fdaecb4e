"""Calls that cannot work, found before anything starts: arguments that the code does not take, generator functions."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from handoff_mpi.binding import find_binding_problem, find_called
from handoff_mpi.dag.faults import Faults
from handoff_mpi.dag.function import AS_LIST, INLINE, Argument, Function
from handoff_mpi.dag.handle import Handle
from handoff_mpi.dag.references import ATOMS, ReferenceFinder
from handoff_mpi.signatures import CODEC, find_problem_of_call

#: Constants of these classes hold no :class:`Argument`.
_WITHOUT_CODECS = ATOMS | {Handle}


def find_call_problems(functions: Iterable[Function]) -> list[str]:
    """Return one line for each different problem, an empty list if none is certain.

    Functions that call the same code in the same way are looked at once.
    """
    calls: dict[tuple[Any, ...], list[Any]] = {}
    codecs: list[tuple[Hashable, Argument]] = []
    finder = ReferenceFinder()
    for function in functions:
        if Argument in map(type, function.args):
            codecs += [(function.id, each) for each in function.args if type(each) is Argument]
        if (function.extra_args or function.kwargs) and not _have_no_codecs(function):
            constants = [*function.extra_args, *function.kwargs.values()]
            codecs += [(function.id, each) for each in finder.find(constants) if type(each) is Argument]
        key = (id(function.code), _count(function), function.type, *function.kwargs)
        call = calls.get(key)
        if call is None:
            calls[key] = [function, 1]
        else:
            call[1] += 1
    faults = Faults()
    for function, count in calls.values():
        for problem in _problems_of_call(function):
            faults.add(function.id, problem, count)
    for consumer, argument in codecs:
        for problem in _problems_of_codec(argument):
            faults.add(consumer, problem)
    return faults.lines()


def _have_no_codecs(function: Function) -> bool:
    """Whether the constants of ``function`` are plain enough to hold no :class:`Argument`."""
    is_plain = _WITHOUT_CODECS.issuperset(map(type, function.extra_args))
    return is_plain and (not function.kwargs or _WITHOUT_CODECS.issuperset(map(type, function.kwargs.values())))


def _count(function: Function) -> int:
    count = 1 if function.argument_inclusion == AS_LIST else len(function.args)
    return count + len(function.extra_args)


def _problems_of_call(function: Function) -> Iterator[str]:
    problem = find_binding_problem(function.code, _count(function), function.kwargs)
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


def _problems_of_codec(argument: Argument) -> Iterator[str]:
    for side, parameters in CODEC.items():
        code = getattr(argument, side)
        problem = "" if code is None else find_problem_of_call(code, side, parameters)
        if problem:
            yield f"an Argument's {problem}"
