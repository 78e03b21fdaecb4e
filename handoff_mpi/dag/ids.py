"""Whether an object can be an id: it is looked up in dictionaries, shown to people, and sent to other processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from handoff_mpi.dag.function import DECLARES, REFERENCES
from handoff_mpi.formatting import one_line, type_name

#: Python hashes, compares and shows tuples by recursion, and has an end to that.
MAX_DEPTH = 50
#: Nothing can be wrong with ids of these types, and with short tuples of such.
_PLAIN = frozenset({str, int, bytes, bool})
_PLAIN_PARTS = _PLAIN | {float, type(None)}
_NESTED = (tuple, frozenset)


def is_plain_id(id: Any) -> bool:
    """Whether nothing can be wrong with ``id``, by its type."""
    kind = type(id)
    return kind in _PLAIN or (kind is tuple and _PLAIN_PARTS.issuperset(map(type, id)))


def are_plain_ids(ids: Iterable[object]) -> bool:
    """Whether nothing can be wrong with any of ``ids``, by their types."""
    ids = list(ids)
    return _PLAIN.issuperset(map(type, ids)) or all(map(is_plain_id, ids))


def find_id_problem(id: object) -> str:
    """Return why ``id`` cannot be an id, as a sentence without a subject; empty if it can."""
    if is_plain_id(id):
        return ""
    if id is None:
        return "cannot be an id: it stands for no id at all"
    if is_too_deep(id):
        return f"cannot be an id: it is nested more than {MAX_DEPTH} deep; use a string"
    if type(id) in REFERENCES or type(id) in DECLARES:
        return f"cannot be an id: it is a {type_name(id)}; use its id"
    return _problem_of_hash(id) or _problem_of_equality(id) or _problem_of_repr(id)


def is_too_deep(id: Any) -> bool:
    """Whether tuples and frozen sets in ``id`` are nested too deep, or too often, to be hashed and shown."""
    level, seen = [id], 0
    for _ in range(MAX_DEPTH):
        level = [part for each in level if issubclass(type(each), _NESTED) for part in each]
        seen += len(level)
        if not level:
            return False
        if seen > 100_000:
            return True
    return True


def _problem_of_hash(id: Any) -> str:
    try:
        hashes = {hash(id) for _ in range(4)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"cannot be an id: it cannot be hashed ({_described(error)}); use a string"
    return "cannot be an id: its hash changes; use a string" if len(hashes) > 1 else ""


def _problem_of_equality(id: object) -> str:
    try:
        is_itself = bool(id == id)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"cannot be an id: it cannot be compared ({_described(error)}); use a string"
    return "" if is_itself else "cannot be an id: it does not equal itself; use a string"


def _problem_of_repr(id: object) -> str:
    try:
        repr(id)
        str(id)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"cannot be an id: it cannot be shown ({_described(error)}); use a string"
    return ""


def _described(error: BaseException) -> str:
    try:
        return one_line(f"{type(error).__name__}: {error}", 200)
    except BaseException:
        return type_name(error)
