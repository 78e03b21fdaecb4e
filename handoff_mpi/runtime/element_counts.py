"""Counts arrays by their elements, for the progress of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from handoff_mpi.runtime.element_records import ElementRecords
from handoff_mpi.scheduler import State
from handoff_mpi.scheduler.array_state import Array


class Ended(NamedTuple):
    """How many elements of an array have ended, and how many seconds that took."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    busy_s: float = 0.0

    def since(self, known: Ended) -> Ended:
        """Return what has ended since ``known``."""
        counts = self.done - known.done, self.failed - known.failed, self.skipped - known.skipped
        return Ended(*counts, self.busy_s - known.busy_s)


class ElementCounts:
    """The counts of elements.

    Args:
        arrays: by number; a run adds to them.
        records: of their elements.
    """

    def __init__(self, arrays: Mapping[int, Array], records: ElementRecords) -> None:
        self._arrays = arrays
        self._records = records
        self._known: dict[int, Ended] = {}

    def __contains__(self, task: int) -> bool:
        return task in self._arrays

    def __bool__(self) -> bool:
        return bool(self._arrays)

    def add_to(self, counts: dict[str, int], states: bytearray) -> None:
        """Have ``counts`` of tasks, by state, count the elements of arrays, not the arrays.

        Args:
            states: of the tasks.
        """
        for number, array in self._arrays.items():
            state = State(states[number]).name.lower()
            leased = len(array.leases)  # each of them runs one element
            left = array.spec.count - array.done - array.failed - leased
            counts[state] -= 1
            counts["done"] += array.done
            counts["failed"] += array.failed
            counts["dispatched"] += leased
            counts[state if state in ("ready", "waiting") else "skipped"] += max(0, left)

    def count_of(self, task: int) -> int:
        """Return how many elements an array has; 1 for a function."""
        return self._arrays[task].spec.count if task in self._arrays else 1

    def new(self) -> list[tuple[int, Ended]]:
        """Return what has ended of each array since this was last asked."""
        found = []
        for task, array in list(self._arrays.items()):
            busy_s = sum(list(self._records.busy_s.get(task, {}).values()))
            ended, known = Ended(array.done, array.failed, array.skipped, busy_s), self._known.get(task, Ended())
            self._known[task] = ended
            found.append((task, ended.since(known)))
        return found
