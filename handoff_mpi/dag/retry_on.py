"""The exceptions after which a function is tried again: as users give them, and as they travel.

Rank 0 never sees an exception of a function, only a report of it. The report carries the exception's *lineage*: the
names of its class and of all its bases, which is what an ``except`` clause compares. So the scheduler compares names,
no exception class has to travel, and a class of ``dag.py`` is as good as any other.
"""

from __future__ import annotations

import functools

from handoff_mpi.formatting import show
from handoff_mpi.serialization import EncodingError

#: The longest ``retry_delay`` that users may give: a day.
MAX_RETRY_DELAY_S = 86_400.0
#: Names of exception classes, as :func:`class_name` writes them.
Names = tuple[str, ...]


def class_name(kind: type) -> str:
    """Return the name that stands for an exception class: ``ValueError``, ``socket.gaierror``."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


@functools.lru_cache(maxsize=256)
def _names_of_bases(kind: type) -> Names:
    return tuple([class_name(each) for each in kind.__mro__ if each is not object])


def lineage_of(error: BaseException) -> Names:
    """Return the names of the class of ``error`` and of its bases.

    A payload that cannot be decoded is as good as what its decoding raised: its names follow.
    """
    try:
        kinds: list[object] = [type(error)]
        if issubclass(type(error), EncodingError) and error.__cause__ is not None:
            kinds.append(type(error.__cause__))
        return tuple([name for kind in kinds for name in _names_of_bases(kind)])
    except Exception:  # a metaclass answers what it likes
        return ()


def find_wrong_retry_on(retry_on: object) -> str:
    """Return what is wrong with ``retry_on``; empty if it is None, an exception class, or several of them."""
    kinds = retry_on if isinstance(retry_on, (tuple, list, set, frozenset)) else (retry_on,)
    if retry_on is None or all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds):
        return ""
    return f"retry_on must be an exception class, or a tuple of exception classes, not {show(retry_on)}"


def names_of(retry_on: object) -> Names | None:
    """Return the names of the exception classes ``retry_on``; None for None, which leaves it to others."""
    if retry_on is None:
        return None
    kinds = retry_on if isinstance(retry_on, (tuple, list, set, frozenset)) else (retry_on,)
    return tuple([class_name(each) for each in kinds])
