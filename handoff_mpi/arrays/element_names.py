"""Names of elements as users write them: ``sweep[3,100:200]``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from handoff_mpi.arrays.intervals import Interval

_NAME = re.compile(r"(.+)\[([-\d:,\s]+)\]", re.DOTALL)
_PART = re.compile(r"\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*")


def split_name(name: str) -> tuple[str, str] | None:
    """Return the id of the array and the indices that ``name`` is made of; None if it names no elements."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match[1], match[2])


def intervals_named(indices: str, count: int) -> Iterator[Interval]:
    """Yield the intervals of indices such as ``3``, ``-1`` or ``100:200``, as Python counts.

    Args:
        count: how many elements the array has.

    Raises:
        ValueError: a part is no index; the message is a clause.
    """
    for part in indices.split(","):
        match = _PART.fullmatch(part)
        if match is None or not (match[1] or match[2]):
            raise ValueError(f"{part.strip()!r} is neither an index nor a slice such as 3:7")
        if match[2]:
            start, stop, _ = slice(_number(match[1]), _number(match[3])).indices(count)
            yield start, max(start, stop)
            continue
        index = int(match[1])
        if not -count <= index < count:
            raise ValueError(f"the array has {count:,} elements")
        yield index % count, index % count + 1


def indices_text(intervals: Iterable[Interval], most: int) -> str:
    """Return indices in words such as ``"3:7, 12"``; at most so many intervals are named, the first ones."""
    bounds = list(iter(intervals))
    named = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in bounds[:most]]
    return ", ".join(named) + (", ..." if len(bounds) > most else "")


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
