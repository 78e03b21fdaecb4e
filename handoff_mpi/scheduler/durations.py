"""Estimates how long calls take: others of the same code are taken to last alike."""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi.allocation import Claim
from handoff_mpi.dag import TaskSpec
from handoff_mpi.scheduler.slots import SlotTable

#: The weight of a new call in the moving mean of its code.
_WEIGHT = 0.2
#: A call whose code has not run yet is expected to take this long.
_UNKNOWN_S = 1.0
_NEVER = float("inf")


class Durations:
    """The durations of calls, by code.

    Args:
        specs: the table of tasks.
        slots: which task runs where, and since when.
        stop_at: the time at which the run will be stopped, in seconds.

    Attributes:
        mean_s: code to the seconds that a call takes, a moving mean.
        now: the time of this turn, in seconds; the machine sets it.
    """

    def __init__(self, specs: Sequence[TaskSpec], slots: SlotTable, stop_at: float) -> None:
        self.mean_s: dict[int, float] = {}
        self.now = 0.0
        self._specs = specs
        self._slots = slots
        self._stop_at = stop_at

    def learn(self, task: int, duration: float) -> None:
        """Note how long a call of ``task`` took."""
        code = self._specs[task].code
        mean = self.mean_s.get(code)
        self.mean_s[code] = duration if mean is None else mean + _WEIGHT * (duration - mean)

    def known_s(self, task: int) -> float | None:
        """Return how long calls of the code of ``task`` take; None if none has ended yet."""
        return self.mean_s.get(self._specs[task].code)

    def expected_s(self, task: int) -> float:
        """Return how long ``task`` is expected to take: as others of its code did, else one second."""
        return self.mean_s.get(self._specs[task].code, _UNKNOWN_S)

    def can_finish(self, task: int) -> bool:
        """Whether ``task`` would end before the run will be stopped, if it lasts as others did."""
        if self._stop_at == _NEVER:
            return True
        mean = self.mean_s.get(self._specs[task].code)
        return mean is None or self.now + mean <= self._stop_at

    def remaining_s(self, claim: Claim) -> float:
        """Return how long a claim is still expected to be held: as others of its code, or as long again as so far."""
        slot = self._slots.of_rank[claim.rank][claim.slot]
        if not slot.tasks:
            return 0.0
        mean, elapsed = self.mean_s.get(self._specs[slot.tasks[0]].code, 0.0), self.now - slot.since
        return mean - elapsed if mean > elapsed else elapsed
