"""Checks that the user's store, tracker, strategy, codec and handler have their methods and accept their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from handoff_mpi.binding import find_binding_problem, find_called
from handoff_mpi.callbacks import CallbackFailed, call

#: The required methods of a store, a tracker and a strategy: name to parameters.
STORE = {"put": "key, payload", "get": "key", "delete": "key"}
TRACKER = {"register": "rank, capabilities", "request": "rank, cost", "release": "rank, cost"}
STRATEGY = {"allocate": "ready, view"}
#: Their optional methods.
MAYBE_OF_STORE = {"close": ""}
MAYBE_OF_STRATEGY = {"prepare": "view", "score": "cost, group"}
#: The two functions of a codec, and a telemetry handler: these are called directly.
CODEC = {"serialize": "value, source_rank, target_rank", "deserialize": "payload, source_rank, target_rank"}
HANDLER = "event, measurements, metadata, config"
#: Methods whose answer is iterated over, or is used where it is made.
_GENERATORS = frozenset({"allocate", "deserialize"})


def find_problem(plugged: object, methods: Mapping[str, str], optional: Mapping[str, str] | None = None) -> str:
    """Return the problem with the methods of ``plugged``, in words that follow its name; "" if there is none.

    Args:
        methods: name to the parameters it is called with, as they are shown.
        optional: the same for methods that it may lack.
    """
    found = {name: _attribute(plugged, name) for name in methods}
    missing = [f"{name}({methods[name]})" for name, method in found.items() if not callable(method)]
    if missing:
        return f"which has no method{'s' * (len(missing) > 1)} {', '.join(missing)}"
    given = {name: _attribute(plugged, name) for name in optional or {}}
    found.update((name, method) for name, method in given.items() if method is not None)
    for name, method in found.items():
        problem = find_problem_of_call(method, name, {**methods, **(optional or {})}[name])
        if problem:
            return f"whose {problem}"
    return ""


def find_problem_of_call(function: object, name: str, parameters: str, more: int = 0) -> str:
    """Return why ``function`` cannot be called with ``parameters``, in words that begin with its name; "" if it can.

    Args:
        name: what it is called in the message.
        parameters: as they are shown, separated by commas.
        more: how many arguments are given before those that are shown: 1 for a method that is not bound yet.
    """
    count = len(parameters.split(", ")) if parameters else 0
    trouble = find_binding_problem(function, count + more) if callable(function) else "it cannot be called at all"
    if trouble:
        return f"{name} cannot be called as {name}({parameters}): {trouble}"
    kind = _kind(function)
    if kind == "async" and name not in CODEC:  # a codec's coroutine is run like a function's
        return f"{name} is async, so that calling it would do nothing: write it with def alone"
    if kind == "generator" and name not in _GENERATORS:
        return f"{name} is a generator, so that calling it would do nothing: write it without yield"
    return ""


def can_be_called(function: object, count: int) -> bool:
    """Whether ``function`` takes ``count`` positional arguments; True where Python cannot tell."""
    return not find_binding_problem(function, count)


def _kind(function: object) -> str:
    """Return "async" or "generator" if calling ``function`` would run none of its body."""
    called = find_called(function)
    if called is None or not called.is_result:
        return ""
    if inspect.iscoroutinefunction(called.function) or inspect.isasyncgenfunction(called.function):
        return "async"
    return "generator" if inspect.isgeneratorfunction(called.function) else ""


def _attribute(plugged: object, name: str) -> object:
    try:
        return call(getattr, plugged, name, None)
    except CallbackFailed:
        return None
