"""Places tasks on cordoned ranks while nothing runs and nothing else could.

A rank may be cordoned for several reasons at once, and each has its owner: the failure detector lifts "suspect", the
rank itself "memory", a probe "probation". While nothing runs, a task that fits a cordoned rank is placed there all the
same before it is given up: reasons that only say that another rank would be better are set aside, alone and then
together. A suspect rank is never used, since it may be dead: it speaks sooner or later, or is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from handoff_mpi.allocation import MEMORY, PROBATION, Ledger
from handoff_mpi.scheduler.memory_pressure import MemoryPressure
from handoff_mpi.scheduler.placement import Placer
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.transitions import LetGo, RankRecord

#: The reasons that may be set aside, in the order in which they are.
OVERRIDABLE = (frozenset({MEMORY}), frozenset({PROBATION}), frozenset({MEMORY, PROBATION}))


class Overrides:
    """Sets aside why ranks are cordoned.

    Args:
        ledger, slots: the scheduler's tables.
        placer: places what it is allowed to.
        shortage: whose turn it is, of the ranks that are short of memory.
        log: called with a rank and what happened to it, for the log.
    """

    def __init__(
        self,
        ledger: Ledger,
        slots: SlotTable,
        placer: Placer,
        shortage: MemoryPressure,
        log: Callable[[int, RankRecord], None],
    ) -> None:
        self._ledger = ledger
        self._slots = slots
        self._placer = placer
        self._memory_pressure = shortage
        self._log = log

    def place(self, now: float) -> None:
        """Place something on cordoned ranks; nothing runs."""
        for reasons in OVERRIDABLE:
            if MEMORY in reasons:
                self._place_one(reasons, now)
            else:
                self._place_all(reasons, now)
            if self._slots.in_flight:
                return

    def _place_one(self, reasons: frozenset[str], now: float) -> None:
        """Place one task on the first rank short of memory that fits any, beginning with the one whose turn it is."""
        for rank in self._memory_pressure.turns():
            if self._is_cordoned_for(rank, reasons):
                with self._ledger.lifted([rank], reasons):
                    self._placer.allocate(now, most=1)
            if self._slots.in_flight:
                self._log(rank, LetGo("all ranks that could continue are short of memory"))
                return

    def _place_all(self, reasons: frozenset[str], now: float) -> None:
        ranks = [rank for rank in self._ledger.cordoned if self._is_cordoned_for(rank, reasons)]
        if ranks:
            with self._ledger.lifted(ranks, reasons):
                self._placer.allocate(now)

    def _is_cordoned_for(self, rank: int, reasons: frozenset[str]) -> bool:
        """Whether a living rank is cordoned for these reasons and no other."""
        return self._ledger.rank_states[rank].is_present and self._ledger.cordoned[rank] == reasons
