"""Names of elements as users write them: ``sweep[3,100:200]``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from handoff_mpi.arrays.intervals import Interval
from handoff_mpi.formatting import id_text

#: The id of the array may stand in quotes, as messages of earlier versions have it.
_NAME = re.compile(r"(?:'([^'\\]+)'|(.+))\[([-\d:,\s]+)\]", re.DOTALL)
#: How Python shows the id of an element: that of its array, and the index.
_PAIR = re.compile(r"\((?:'([^'\\]*)'|(.+)), (\d+)\)", re.DOTALL)
#: Of an array whose length is not known, more elements than any has: -1 is none of them.
_ANY_COUNT = 1 << 62
_PART = re.compile(r"\s*(-?\d+)?\s*(?:(:)\s*(-?\d+)?)?\s*")


def element_name(array: object, index: int) -> str:
    """Return the name of an element of the array with that id."""
    return elements_name(array, str(index))


def elements_name(array: object, indices: str) -> str:
    """Return the name of some elements, given their indices as users write them: ``"3, 100:200"``."""
    return f"{id_text(array)}[{indices}]"


def split_name(name: str) -> tuple[str, str] | None:
    """Return the id of the array and the indices that ``name`` is made of; None if it names no elements.

    An element may be named by its id too, as Python shows that: ``('sweep', 3)``.
    """
    match = _NAME.fullmatch(name)
    if match is not None:
        return match[1] or match[2], match[3]
    pair = _PAIR.fullmatch(name)
    return None if pair is None else (pair[2] if pair[1] is None else pair[1], pair[3])


def is_among(name: str, wanted: str) -> bool:
    """Whether the element that is called ``name`` is one of the array, or of the elements, called ``wanted``."""
    element, elements = split_name(name), split_name(wanted)
    if element is None or not element[1].isdecimal():
        return False
    array, index = element[0], int(element[1])
    if wanted == array:
        return True
    if elements is None or elements[0] != array:
        return False
    try:
        return any(start <= index < stop for start, stop in intervals_named(elements[1], _ANY_COUNT))
    except ValueError:
        return False


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
