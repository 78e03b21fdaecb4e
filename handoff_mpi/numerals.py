"""Parses numbers from command lines and variables, and converts numbers of other libraries to Python's own.

Python's ``int`` and ``float`` accept more than people mean: ``1_0``, digits of any script, ``nan``.
"""

from __future__ import annotations

import numbers
import operator
import re
from typing import Any

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_REAL = re.compile(r"[+-]?(?:[0-9]{1,300}\.?[0-9]{0,300}|\.[0-9]{1,300})(?:[eE][+-]?[0-9]{1,4})?")


def parse_whole(text: str) -> int:
    """Return the whole number that ``text`` writes in decimal ASCII digits.

    Raises:
        ValueError: it writes none, or one of more than 30 digits.
    """
    if _WHOLE.fullmatch(text.strip()) is None:
        raise ValueError("not a whole number")
    return int(text)


def parse_real(text: str) -> float:
    """Return the number that ``text`` writes in decimal ASCII digits.

    Raises:
        ValueError: it writes none, or one that a float cannot hold.
    """
    if _REAL.fullmatch(text.strip()) is None or (number := float(text)) == float("inf") or number == -float("inf"):
        raise ValueError("not a number")
    return number


def plain(value: Any) -> Any:
    """Return a number, a truth value or a text as one of Python's own class, anything else as it is.

    This concerns numbers of numpy, and classes derived from Python's own, whose comparisons may raise.
    """
    kind = type(value)
    if kind is bool:
        return value
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if value is None:
        return value
    try:
        if issubclass(kind, numbers.Real):
            return operator.index(value) if issubclass(kind, numbers.Integral) else float(value)
        return bool(value) if _is_numpy_bool(kind) else value
    except Exception:  # of a class of the user's
        return value


def _is_numpy_bool(kind: type) -> bool:
    return kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_")
