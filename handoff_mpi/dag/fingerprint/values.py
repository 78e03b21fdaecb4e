"""Small questions about objects, which ask no code of users that pickle would not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

NBYTES = 16
#: Copies the state of a hash that has seen nothing, which takes half as long as making one.
new_state = blake2b(digest_size=NBYTES).copy
_MAX_LEAF_LENGTH = 1024
MAX_TUPLE_LENGTH = 16
_NUMBERS = frozenset({type(None), bool, int, float, complex, type(...)})
_SIZED = frozenset({str, bytes})
SCALARS = _NUMBERS | _SIZED
#: Stored by a class body or a module, or set by functools.update_wrapper, and without effect on values.
METADATA = frozenset(
    {"__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__", "__type_params__"}
)
_WRAPPER_METADATA = METADATA | {"__annotations__", "__annotate__"}


def is_leaf(thing: Any) -> bool:
    """Whether ``thing`` is a small immutable built-in, or a short tuple of such: marshal has one form of it."""
    kind = type(thing)
    if kind in _NUMBERS:
        return True
    if kind is tuple:
        if len(thing) > MAX_TUPLE_LENGTH or not SCALARS.issuperset(map(type, thing)):
            return False
        return _NUMBERS.issuperset(map(type, thing)) or all(map(is_leaf, thing))
    return kind in _SIZED and len(thing) <= _MAX_LEAF_LENGTH


def are_leaves(things: Sequence[Any]) -> Sequence[bool]:
    """Return what :func:`is_leaf` does of each of ``things``; where all are numbers, it looks at their types alone."""
    kinds = set(map(type, things))
    is_sure = _NUMBERS.issuperset(kinds)
    if kinds == {tuple}:
        is_short = not any(things) or max(map(len, things)) <= MAX_TUPLE_LENGTH
        is_sure = is_short and _NUMBERS.issuperset(map(type, chain.from_iterable(things)))
    return [True] * len(things) if is_sure else [*map(is_leaf, things)]


def cleaned(state: Any) -> object:
    """Return an object's state without what functools.update_wrapper put there."""
    if type(state) is tuple and len(state) == 2:
        return tuple(map(cleaned, state))
    if type(state) is dict and not _WRAPPER_METADATA.isdisjoint(key for key in state if type(key) is str):
        return {key: value for key, value in state.items() if type(key) is not str or key not in _WRAPPER_METADATA}
    return state


def vars_of(module: object) -> dict[str, Any]:
    """Return a module's contents without running what lazy modules do when looked at."""
    try:
        contents = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return contents if type(contents) is dict else {}


def hashed(content: Any) -> bytes:
    """Return the digest of ``content``, a bytes-like object: NBYTES bytes of BLAKE2b."""
    state = new_state()
    state.update(content)
    return state.digest()


def all_hashed(contents: Iterable[bytes]) -> list[bytes]:
    """Return what :func:`hashed` returns of each of ``contents``."""
    digests = []
    for content in contents:
        state = new_state()
        state.update(content)
        digests.append(state.digest())
    return digests


def kind_of(thing: object) -> str:
    """Name the type of ``thing``, also if its metaclass raises."""
    return f"a {type.__dict__['__name__'].__get__(type(thing))!r}"


def shown_value(thing: object) -> str:
    try:
        text = repr(thing)
    except Exception:
        return kind_of(thing)
    return text if len(text) <= 80 else text[:77] + "..."


def describe_error(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
