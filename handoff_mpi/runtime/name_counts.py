"""Counts the functions of one name, for the progress of a run."""

from __future__ import annotations

from dataclasses import dataclass

from handoff_mpi.runtime.element_counts import Ended


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

    def add(self, ended: Ended) -> None:
        """Count elements of an array."""
        self.total += ended.found
        self.done += ended.done
        self.failed += ended.failed
        self.skipped += ended.skipped
        self.calls += ended.calls
        self.busy_s += ended.busy_s
