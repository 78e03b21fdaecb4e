"""Counts arrays by their elements, for the progress of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from handoff_mpi.runtime.element_records import ElementRecords
from handoff_mpi.scheduler import State
from handoff_mpi.scheduler.array_state import Array


class Ended(NamedTuple):
    """How many elements of an array have ended, those that earlier launches did too, and were found while it runs.

    ``calls`` and ``busy_s`` are those of this launch: how many calls of elements ended, and how many seconds they took.
    """

    done: int = 0
    failed: int = 0
    skipped: int = 0
    calls: int = 0
    busy_s: float = 0.0
    found: int = 0

    def since(self, known: Ended) -> Ended:
        """Return what has ended since ``known``."""
        counts = self.done - known.done, self.failed - known.failed, self.skipped - known.skipped
        return Ended(*counts, self.calls - known.calls, self.busy_s - known.busy_s, self.found - known.found)


class ElementCounts:
    """The counts of elements.

    Args:
        arrays: by number; a run adds to them.
        records: of their elements.

    Attributes:
        known: array to what has ended of it, as of the last look.
    """

    def __init__(self, arrays: Mapping[int, Array], records: ElementRecords) -> None:
        self._arrays = arrays
        self._records = records
        self.known: dict[int, Ended] = {}

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
            skipped = _skipped(array, states[number])
            leased = len(array.leases)  # each of them runs one element
            left = array.count - array.done - array.failed - leased - skipped
            counts[state] -= 1
            counts["done"] += array.done
            counts["failed"] += array.failed
            counts["dispatched"] += leased
            counts["skipped"] += skipped
            counts[state if state in ("ready", "waiting") else "skipped"] += max(0, left)

    def functions(self, count: int) -> dict[str, int]:
        """Return how many functions there are as a field, where elements of windowed arrays have come since.

        Args:
            count: how many there were at the start of the run, each windowed array one.
        """
        windowed = [
            array.count for array in list(self._arrays.values()) if array.spec.window is not None and array.count
        ]
        return {"functions": count + sum(windowed) - len(windowed)} if windowed else {}

    def are_known(self) -> bool:
        """Whether no more elements of a windowed array may come."""
        return not any(array.is_open for array in self._arrays.values())

    def growing(self) -> list[int]:
        """Return the windowed arrays that have more elements than have come, as far as is known."""
        return [task for task, array in list(self._arrays.items()) if array.is_open or array.is_cut]

    def folds_of_blocks(self) -> dict[int, int]:
        """Return the folds of the arrays that compute blocks of them, by these: users know of the folds alone."""
        arrays = list(self._arrays.items())
        folds = ((task, array.spec.links) for task, array in arrays if array.spec.fan_in is not None)
        return {link.source: task for task, links in folds for link in links}

    def new(self, states: bytearray) -> list[tuple[int, Ended]]:
        """Return what has ended of each array since this was last asked.

        Args:
            states: of the tasks.
        """
        new = []
        for task, array in list(self._arrays.items()):
            busy_s = sum(list(self._records.busy_s.get(task, {}).values()))
            found = array.count - array.spec.count
            calls = self._records.calls.get(task, 0)
            skipped = _skipped(array, states[task]) if task < len(states) else 0
            ended = Ended(array.done, array.failed, skipped, calls, busy_s, found)
            known = self.known.get(task, Ended())
            self.known[task] = ended
            new.append((task, ended.since(known)))
        return new


def _skipped(array: Array, state: int) -> int:
    """Return how many elements of an array will not be computed, as far as is known: all others, once it has ended."""
    if state in (State.DONE, State.FAILED, State.SKIPPED):
        return max(0, array.count - array.done - array.failed - len(array.leases))
    return array.skipped
