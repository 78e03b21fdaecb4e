"""What is wrong with the strategy, the tracker or the store that a user has given, as far as it can be told at once."""

from __future__ import annotations

from typing import Any

from handoff_mpi.callbacks import shown
from handoff_mpi.signatures import STORE, STRATEGY, TRACKER, can_be_called, find_problem

#: The strategies of this package: name to class in :mod:`handoff_mpi.allocation`, which rank 0 alone imports.
STRATEGIES = {
    "first_available": "FirstAvailable",
    "load_balanced": "LoadBalanced",
    "cost_optimized": "CostOptimized",
}


def strategies_installed() -> dict[str, Any]:
    """Return name to entry point of the strategies that other distributions bring."""
    from importlib import metadata  # slow to import, and hardly ever needed

    return {point.name: point for point in metadata.entry_points(group="handoff_mpi.strategies")}


def problem_of_strategy(given: Any) -> str:
    """Return what is wrong with ``allocation_strategy``; an empty string if nothing is."""
    if isinstance(given, str):
        if given in STRATEGIES or given in (installed := strategies_installed()):
            return ""
        return f"there is no allocation strategy {given!r}; there are {', '.join(sorted({*STRATEGIES, *installed}))}"
    if isinstance(given, type):
        return "" if callable(getattr(given, "allocate", None)) else _no_strategy(given)
    problem = find_problem(given, STRATEGY)
    if problem.startswith("which has no"):
        return _no_strategy(given)
    prepare = getattr(given, "prepare", None)
    if not problem and prepare is not None and not (callable(prepare) and can_be_called(prepare, 1)):
        problem = "whose prepare cannot be called as prepare(view)"
    return problem and f"allocation_strategy is {shown(given)}, {problem}"


def _no_strategy(given: Any) -> str:
    what = "allocation_strategy must be a name or an object with the method allocate(ready, view)"
    return f"{what}, not {shown(given)}"


def problem_of_tracker(given: Any) -> str:
    """Return what is wrong with ``resource_tracker``; an empty string if nothing is."""
    if given is None:
        return ""
    if isinstance(given, type):
        return f"resource_tracker is the class {given.__name__}; give an object of it"
    problem = find_problem(given, TRACKER)
    return problem and f"resource_tracker is {shown(given)}, {problem}"


def problem_of_store(given: Any) -> str:
    """Return what is wrong with ``result_store``; an empty string if nothing is."""
    if given is None:
        return ""
    if not callable(given):
        hint = "; it is a store itself: write lambda rank: store" if not find_problem(given, STORE) else ""
        return f"result_store must be a function of a rank that returns a store, not {shown(given)}{hint}"
    return "" if can_be_called(given, 1) else f"result_store is {shown(given)}, which cannot be called as store(rank)"
