"""Whether what the user plugs in has the methods it needs, and can be called as it will be."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from handoff_mpi.callbacks import CallbackFailed, call

#: Parameters of a method that is never called by this package.
ANY = "..."
#: What a store, a tracker and a strategy must have: method to the parameters it is called with.
STORE = {"put": "key, payload", "get": "key", "delete": "key"}
TRACKER = {"register": "rank, capabilities", "request": "rank, cost", "release": "rank, cost"}
STRATEGY = {"allocate": "ready, view"}


def find_problem(plugged: Any, methods: Mapping[str, str]) -> str:
    """Return what ``plugged`` has not that it needs, in words that follow its name; an empty string if nothing.

    Args:
        methods: name to the parameters it is called with, as they are shown.
    """
    found = {name: _attribute(plugged, name) for name in methods}
    missing = [f"{name}({methods[name]})" for name, method in found.items() if not callable(method)]
    if missing:
        return f"which has no method{'s' * (len(missing) > 1)} {', '.join(missing)}"
    for name, method in found.items():
        if methods[name] != ANY and not can_be_called(method, len(methods[name].split(", "))):
            return f"whose {name} cannot be called as {name}({methods[name]})"
    return ""


def can_be_called(function: Any, count: int) -> bool:
    """Whether ``function`` takes ``count`` positional arguments; True where Python cannot tell."""
    try:
        signature = call(inspect.signature, function)
    except CallbackFailed:
        return True  # some built-in functions tell nobody
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _attribute(plugged: Any, name: str) -> Any:
    try:
        return call(getattr, plugged, name, None)
    except CallbackFailed:
        return None
