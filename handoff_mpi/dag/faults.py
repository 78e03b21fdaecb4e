"""What is wrong with functions of a DAG, each fault once, however many functions have it."""

from __future__ import annotations

import re
from collections.abc import Hashable

from handoff_mpi.formatting import show

#: Where an object lies tells no fault from another.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Faults:
    """Faults with the first function that has each, and how many others do."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Hashable, str, int]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, id: Hashable, fault: str, count: int = 1) -> None:
        """Note that the function ``id``, and as many others as make up ``count``, have ``fault``."""
        key = _ADDRESS.sub("", fault)
        first, text, before = self._found.get(key, (id, fault, 0))
        self._found[key] = first, text, before + count

    def lines(self) -> list[str]:
        """Return one line for each fault."""
        return [f"function {show(id)}: {text}{_and_others(count - 1)}" for id, text, count in self._found.values()]


def _and_others(count: int) -> str:
    return f" (and {count} other{'s' * (count > 1)})" if count else ""
