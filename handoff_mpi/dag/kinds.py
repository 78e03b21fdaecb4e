"""The kinds of a DAG's functions: those of one kind agree in all but their ids, codes and arguments.

A DAG has few kinds, however many functions, and what depends on the kind alone is worked out once. Settings agree if
they are the same objects, or equal ones of the same plain types; functions that agree may still be of two kinds.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_

from handoff_mpi.dag.function import Function

_settings_of = attrgetter(
    *("max_retries", "timeout", "node", "priority", "version", "type", "argument_inclusion"),
    *("cwd", "env", "retry_on", "retry_delay", "writable"),
)
#: Types of values of which equal ones mean the same.
_PLAIN = frozenset({type(None), bool, int, float, str})
#: The settings of at most this many kinds are compared; a function beyond has a new kind each time its settings change.
_MAX_KNOWN = 10_000


class Kinds:
    """The kinds of some functions.

    Args:
        functions: in the order in which they are asked for; their settings must not change meanwhile.

    Attributes:
        of: the number of each function's kind, by its position.
        first: the first function of each kind.
        codes, args, extra_args, kwargs: the columns of what differs within a kind.
    """

    __slots__ = ("_known", "args", "codes", "extra_args", "first", "kwargs", "of")

    def __init__(self, functions: Iterable[Function]) -> None:
        functions = list(functions)
        self.codes = [function.code for function in functions]
        self.args = [function.args for function in functions]
        self.extra_args = [function.extra_args for function in functions]
        self.kwargs = [function.kwargs for function in functions]
        self.of: list[int] = []
        self.first: list[Function] = []
        self._known: dict[object, int] = {}
        kind, settings, cost = -1, (), None
        for function in functions:
            # Neighbours mostly agree, and what differs is mostly another object.
            if not self.of or function.cost is not cost or not all(map(is_, _settings_of(function), settings)):
                settings, cost = _settings_of(function), function.cost
                kind = self._find(function, settings)
            self.of.append(kind)
        self._known.clear()

    def forget_columns(self) -> None:
        """Forget what differs within the kinds, when nobody asks for it any more: it takes much memory."""
        self.codes, self.args, self.extra_args, self.kwargs, self.of = [], [], [], [], []

    def _find(self, function: Function, settings: tuple[object, ...]) -> int:
        key = _key(settings, function.cost)
        kind = None if key is None else self._known.get(key)
        if kind is None:
            kind = len(self.first)
            self.first.append(function)
            if key is not None and len(self._known) < _MAX_KNOWN:
                self._known[key] = kind
        return kind


def _key(settings: tuple[object, ...], cost: object) -> tuple[object, ...] | None:
    """Return what tells settings apart, None if they are not plain: equality is then the user's own code."""
    if cost is not None:
        if type(cost) is not dict:
            return None
        settings = (*settings, *cost, *cost.values())
    types = tuple(map(type, settings))
    return (settings, types) if _PLAIN.issuperset(types) else None


def are_called_alike(function: Function, before: Function) -> bool:
    """Whether two functions of one kind have the very same code and constants, and take no values."""
    if function.code is not before.code or function.args or before.args or function.kwargs or before.kwargs:
        return False
    extra, known = function.extra_args, before.extra_args
    return len(extra) == len(known) and all(map(is_, extra, known))
