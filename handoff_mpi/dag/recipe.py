"""How the arguments of a call are put together on the rank that runs it.

A recipe is what rank 0 makes of a function once: ``(codes, mode, constants, large)``. ``codes`` are numbers in
the code table, the function's own first; ``constants`` is the payload of ``(extra, kwargs)`` or None; ``large``
are the numbers of the large constants it takes, which a rank is sent once. In mode
VALUES the inputs' values come first and ``extra`` behind them, in mode LIST as one list. In mode TEMPLATE
``(extra, kwargs)`` are the whole argument list, with placeholders inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from handoff_mpi.encoding import Payload, decode

VALUES = 0
LIST = 1
TEMPLATE = 2

Recipe: TypeAlias = "tuple[tuple[int, ...], int, Payload | None, tuple[int, ...]]"


@dataclass(frozen=True, slots=True)
class Input:
    """Placeholder for the value of the task's input number ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class Constant:
    """Placeholder for a large constant that was sent to the rank once."""

    number: int


@dataclass(frozen=True, slots=True)
class Inline:
    """Placeholder for the value of an inline function, evaluated at most once for its consumer.

    Attributes:
        key: tells the inline functions of one consumer apart.
        code: its number in the code table.
        args: its arguments, with placeholders.
        kwargs: its keyword arguments, with placeholders.
    """

    key: int
    code: int
    args: list[Any]
    kwargs: dict[str, Any]


def build_call(
    recipe: Recipe,
    values: Sequence[Any],
    load_code: Callable[[int], Callable[..., Any]],
    load_constant: Callable[[int], Any],
) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    """Return ``(code, args, kwargs)`` of the call that ``recipe`` describes; evaluates inline functions.

    Args:
        recipe: the task's recipe.
        values: its inputs' values, in the order of its inputs.
        load_code: gives the callable with a number.
        load_constant: gives the large constant with a number.
    """
    codes, mode, constants, _ = recipe
    code = load_code(codes[0])
    extra, kwargs = ((), {}) if constants is None else decode(constants)
    if mode == VALUES:
        return code, (*values, *extra), kwargs
    if mode == LIST:
        return code, ([*values], *extra), kwargs
    fill = _Filler(values, load_code, load_constant)
    return code, fill(list(extra)), fill(kwargs)


class _Filler:
    """Replaces placeholders in nested lists, tuples and dicts."""

    def __init__(self, values: Sequence[Any], load_code: Any, load_constant: Any) -> None:
        self._values = values
        self._load_code = load_code
        self._load_constant = load_constant
        self._done: dict[int, Any] = {}

    def __call__(self, item: Any) -> Any:
        kind = type(item)
        if kind is Input:
            return self._values[item.index]
        if kind is Constant:
            return self._load_constant(item.number)
        if kind is Inline:
            return self._evaluate(item)
        if kind is list:
            return [self(part) for part in item]
        if kind is tuple:
            return tuple([self(part) for part in item])
        if kind is dict:
            return {key: self(part) for key, part in item.items()}
        return item

    def _evaluate(self, inline: Inline) -> Any:
        if inline.key not in self._done:
            code = self._load_code(inline.code)
            self._done[inline.key] = code(*self(inline.args), **self(inline.kwargs))
        return self._done[inline.key]
