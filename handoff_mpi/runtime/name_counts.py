"""Counts the functions of one name, for the progress of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.runtime.element_counts import Ended
from handoff_mpi.scheduler.array_state import Array

#: Up to so many arrays of one name, the map over a closure say, are counted one by one.
MAX_OWN_ROWS = 20


@dataclass(slots=True)
class OfName:
    """Counts and times of the functions of one name; ``calls`` and ``busy_s`` count attempts of this launch."""

    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    calls: int = 0
    busy_s: float = 0.0

    @property
    def open(self) -> int:
        return self.total - self.done - self.failed - self.skipped

    @property
    def mean_s(self) -> float | None:
        return self.busy_s / self.calls if self.calls else None

    def row(self, running: int, may_grow: bool, mean_s: float | None) -> dict[str, Any]:
        """Return the fields of ``status.json``.

        Args:
            running: how many of its calls run.
            may_grow: whether more elements may come.
            mean_s: of similar calls, where none of its own have ended.
        """
        return {
            "total": self.total,
            "running": running,
            "done": self.done,
            "failed": self.failed,
            "skipped": self.skipped,
            "mean_s": mean_s if self.mean_s is None else self.mean_s,
            "busy_s": self.busy_s,
            **({"may_grow": True} if may_grow else {}),
        }

    def less(self, part: OfName) -> None:
        """Take what counts for itself away."""
        self.total -= part.total
        self.done -= part.done
        self.failed -= part.failed
        self.skipped -= part.skipped
        self.calls -= part.calls
        self.busy_s -= part.busy_s

    def add(self, ended: Ended) -> None:
        """Count elements of an array."""
        self.total += ended.found
        self.done += ended.done
        self.failed += ended.failed
        self.skipped += ended.skipped
        self.calls += ended.calls
        self.busy_s += ended.busy_s


@dataclass(slots=True)
class OfArray(OfName):
    """Counts and times of an array; ``tasks`` are its number and, of a fold, that of its blocks."""

    tasks: list[int] = field(default_factory=list)


def counts_of_arrays(
    arrays: Mapping[int, Array], ended: Mapping[int, Ended], name_of: Callable[[int], int], fold_of: Mapping[int, int]
) -> dict[int, dict[int, OfArray]]:
    """Return, for each name that several arrays have, the counts of each; users know arrays by their ids.

    Args:
        arrays: by number.
        ended: what has ended of each.
        name_of: returns the number of an array's name.
        fold_of: the folds of arrays that compute blocks of them, by these.
    """
    found: dict[int, dict[int, OfArray]] = {}
    for task, array in list(arrays.items()):  # another thread may add some
        own = found.setdefault(name_of(task), {}).setdefault(fold_of.get(task, task), OfArray())
        own.tasks.append(task)
        own.total += array.spec.count
        own.add(ended.get(task, Ended()))
    return {name: of_arrays for name, of_arrays in found.items() if 1 < len(of_arrays) <= MAX_OWN_ROWS}
