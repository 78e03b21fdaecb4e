"""A lease that a simulated rank computes: which of its elements have begun and ended, by the time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from handoff_mpi.simulation.workload import Inputs
from handoff_mpi.worker.events import QueuedCall

#: An element that hangs never ends by itself.
NEVER_S = 1e9


@dataclass(slots=True, eq=False)
class RunningLease:
    """A lease that runs.

    Attributes:
        work: the call.
        inputs: the values that all elements share.
        arguments: those of each element, beside its index.
        is_own: whether the rank itself computes it, and no child.
        indices, ends, fates: of each element that may begin, when it ends and how: "ok", "raised" or "killed".
        end: no element from this position on begins.
        reported: the position up to which its elements were reported.
        serial: how often its end was planned; other plans are void.
        has_ended: whether it has.
    """

    work: QueuedCall
    inputs: Inputs
    is_own: bool
    arguments: list[tuple[Any, ...]]
    indices: list[int]
    ends: list[float]
    fates: list[str]
    end: int
    reported: int = 0
    serial: int = 0
    has_ended: bool = False

    @property
    def array(self) -> int:
        """The number of its array."""
        number = self.work.id
        assert isinstance(number, int)
        return number

    def ended(self, now: float) -> int:
        """Return how many of its elements have ended."""
        return min(self.end, bisect_right(self.ends, now))

    def has_made(self, index: int) -> bool:
        """Whether it has ended, and ``index`` is among its elements that ended well."""
        return self.has_ended and (index, "ok") in zip(self.indices, self.fates, strict=False)

    def begun(self, now: float) -> list[int]:
        """Return the elements that have begun."""
        return self.indices[: min(self.end, self.ended(now) + 1)]
