"""Collects faults of functions of a DAG, each fault once, with the count of its functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable

from handoff_mpi.formatting import show

#: So many faults are named.
MAX_NAMED = 100
#: Where an object lies tells no fault from another.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Faults:
    """Faults with the first function that has each, and how many others do.

    Args:
        subject: what the ids name.
    """

    def __init__(self, subject: str = "function") -> None:
        self._subject = subject
        self._found: dict[Hashable, list[str | int]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, id: Hashable, fault: str, count: int = 1, place: str = "") -> None:
        """Note that the function ``id``, and as many others as make up ``count``, have ``fault``.

        Args:
            place: the part of the function that has it, as "argument 1".
        """
        text = f"{fault}, inside {place} of {show(id)}" if place else fault
        self.add_once((without_addresses(fault), place), id, lambda: text, count)

    def add_once(self, key: Hashable, id: Hashable, describe: Callable[[], str], count: int = 1) -> None:
        """As :meth:`add`; faults with one key are the same, and ``describe`` is asked for the first one's words."""
        known = self._found.get(key)
        if known is None:
            self._found[key] = [f"{self._subject} {show(id)}: {describe()}", count]
        else:
            known[1] += count  # type: ignore[operator]

    def lines(self) -> list[str]:
        """Return one line for each fault."""
        lines = [f"{text}{_and_others(int(count) - 1)}" for text, count in self._found.values()]
        more = len(lines) - MAX_NAMED
        return [*lines[:MAX_NAMED], f"and {more} more like these"] if more > 0 else lines


def without_addresses(text: str) -> str:
    """Return ``text`` without where the objects in it lie."""
    return _ADDRESS.sub("", text)


def _and_others(count: int) -> str:
    return f" (and {count:,} other{'s' * (count > 1)})" if count else ""
