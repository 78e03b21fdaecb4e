"""Decides about ready tasks while nothing runs and they fit nowhere: without a decision the run would hang.

First cordons are set aside (:mod:`handoff_mpi.scheduler.overrides`), then tasks may run where they failed, and at last
they fail. A task that fits a suspect rank waits: the rank returns sooner or later, or is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from handoff_mpi.allocation import SUSPECT, Ledger, RequestClass
from handoff_mpi.allocation.missing import find_missing
from handoff_mpi.messages import NO_ROOM, ErrorReport
from handoff_mpi.resources.amounts import format_amounts
from handoff_mpi.scheduler.lifecycle import READY, Cause
from handoff_mpi.scheduler.overrides import Overrides
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.slots import SlotTable


class DeadEnds:
    """Ends waits that nothing else would end.

    Args:
        ledger, ready, slots: the scheduler's tables.
        state: the state of each task.
        overrides: places tasks on cordoned ranks.
        strategy: the name of the strategy, for messages.
        fail: called with a task, the cause, a rank and its error when it has failed for good.
    """

    def __init__(
        self,
        ledger: Ledger,
        ready: ReadyTasks,
        slots: SlotTable,
        state: bytearray,
        overrides: Overrides,
        strategy: str,
        fail: Callable[[int, Cause, int, ErrorReport], None],
    ) -> None:
        self._ledger = ledger
        self._ready = ready
        self._slots = slots
        self._state = state
        self._overrides = overrides
        self._strategy = strategy
        self._fail = fail

    def _is_stuck(self) -> bool:
        """Whether tasks are ready, fit nothing that is left, and wait for nothing: that would be a hang."""
        return not self._slots.in_flight and self._ready.is_queued()

    def override(self, now: float) -> None:
        """Use cordoned ranks if nothing runs otherwise, or nothing would end."""
        if self._ledger.cordoned and self._is_stuck():
            self._overrides.place(now)

    def give_up(self) -> bool:
        """Fail what fits nothing that is left, else let tasks run where they failed; return whether there was any.

        Suspects are offered nothing, but left.
        """
        if not self._is_stuck():
            return False
        queues = self._ready.all_queues()
        hopeless = [queue for queue in queues if not self._ledger.feasibility.could_fit(queue.cost)]
        if not hopeless and not self._awaits_suspects():
            if self._ready.relent():
                return True
            hopeless = queues
        for queue in hopeless:
            for task in list(queue.tasks):
                if self._state[task] == READY:
                    self._ready.remove(task)
                    self._fail(task, Cause.GIVEN_UP, -1, ErrorReport(NO_ROOM, self._why_no_room(queue.cost)))
        return bool(hopeless)

    def _awaits_suspects(self) -> bool:
        """Whether ranks are suspect that are not lost: sooner or later they are heard of, or lost."""
        rank_states, cordoned = self._ledger.rank_states, self._ledger.cordoned
        return any(SUSPECT in reasons and rank_states[rank].is_present for rank, reasons in cordoned.items())

    # -- in words ---------------------------------------------------------------------------------------

    def _why_no_room(self, cost: RequestClass) -> str:
        """Say why tasks of this class can be placed nowhere although nothing runs."""
        needs = format_amounts(cost.need)
        if self._ledger.feasibility.could_fit(cost):
            return f"the strategy {self._strategy} places it nowhere, although it would fit ({needs})"
        return f"{_where_no_room(cost)} ({needs}){self._what_is_missing(cost)}"

    def _what_is_missing(self, cost: RequestClass) -> str:
        missing = find_missing(self._ledger.feasibility, cost)
        return f": {', and '.join(missing)}" if missing else ""


def _where_no_room(cost: RequestClass) -> str:
    if cost.rank is not None:
        return f"it is bound to rank {cost.rank}, which is lost or cannot hold what it needs"
    if cost.host is not None:
        return f"it is bound to host {cost.host}, where no rank that is left can hold what it needs"
    return "no rank that is left can hold what it needs"
