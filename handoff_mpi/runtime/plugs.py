"""Finds faults of a strategy, a tracker or a store that a user has given, as far as they show before the run."""

from __future__ import annotations

import inspect
import re
from types import FunctionType
from typing import Any

from handoff_mpi.callbacks import shown
from handoff_mpi.formatting import show
from handoff_mpi.signatures import (
    MAYBE_OF_STRATEGY,
    STORE,
    STRATEGY,
    TRACKER,
    can_be_called,
    find_problem,
    find_problem_of_call,
)
from handoff_mpi.suggestions import did_you_mean

#: The strategies of this package: name to class in :mod:`handoff_mpi.allocation`, which rank 0 alone imports.
STRATEGIES = {
    "first_available": "FirstAvailable",
    "load_balanced": "LoadBalanced",
    "cost_optimized": "CostOptimized",
}

#: The group of entry points in which other distributions bring theirs.
GROUP = "handoff_mpi.strategies"
#: What names an object of any module.
_MODULE_AND_NAME = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


def strategies_installed() -> dict[str, object]:
    """Return name to entry point of the strategies that other distributions bring."""
    from importlib import metadata  # slow to import, and hardly ever needed

    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def find_entry_point(name: str) -> Any:
    """Return what loads the strategy that ``name`` stands for: one that is installed, or "module:name"; or None."""
    from importlib import metadata

    if _MODULE_AND_NAME.fullmatch(name):
        return metadata.EntryPoint(name, name, GROUP)
    return strategies_installed().get(name)


def problem_of_strategy(given: object) -> str:
    """Return what is wrong with ``allocation_strategy``; an empty string if nothing is."""
    if isinstance(given, str):
        if given in STRATEGIES or _MODULE_AND_NAME.fullmatch(given) or given in (installed := strategies_installed()):
            return ""
        names = sorted({*STRATEGIES, *installed})
        what = f"there is no allocation strategy {show(given)}{did_you_mean(given, names, shown=str)}"
        return f"{what}; there are {', '.join(names)}"
    if isinstance(given, type):
        return _problem_of_strategy_class(given)
    problem = find_problem(given, STRATEGY, MAYBE_OF_STRATEGY)
    if problem.startswith("which has no"):
        return _no_strategy(given)
    return problem and f"allocation_strategy is {shown(given)}, {problem}"


def _problem_of_strategy_class(given: type) -> str:
    if not callable(getattr(given, "allocate", None)):
        return _no_strategy(given)
    if not can_be_called(given, 0):
        name = given.__name__
        return f"allocation_strategy is the class {name}, which needs arguments: give an object, {name}(...)"
    for name, parameters in {**STRATEGY, **MAYBE_OF_STRATEGY}.items():
        method = inspect.getattr_static(given, name, None)
        if isinstance(method, FunctionType):  # it is not bound to an object yet
            problem = find_problem_of_call(method, name, parameters, 1)
            if problem:
                return f"allocation_strategy is the class {given.__name__}, whose {problem}"
    return ""


def _no_strategy(given: object) -> str:
    what = "allocation_strategy must be a name or an object with the method allocate(ready, view)"
    return f"{what}, not {shown(given)}"


def problem_of_tracker(given: object) -> str:
    """Return what is wrong with ``resource_tracker``; an empty string if nothing is."""
    if given is None:
        return ""
    if isinstance(given, type):
        return f"resource_tracker is the class {given.__name__}; give an object of it, {given.__name__}(...)"
    problem = find_problem(given, TRACKER)
    return problem and f"resource_tracker is {shown(given)}, {problem}"


def problem_of_store(given: object) -> str:
    """Return what is wrong with ``result_store``; an empty string if nothing is."""
    if given is None:
        return ""
    if not callable(given):
        hint = "; it is a store itself: write lambda rank: store" if not find_problem(given, STORE) else ""
        return f"result_store must be a function of a rank that returns a store, not {shown(given)}{hint}"
    problem = find_problem_of_call(given, "store", "rank").removeprefix("store ")
    return f"result_store is {shown(given)}, which {problem}" if problem else ""
