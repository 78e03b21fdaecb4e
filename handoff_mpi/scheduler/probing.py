"""Places on ranks on probation a probe now and then, and functions that can run nowhere else."""

from __future__ import annotations

from handoff_mpi.allocation import PROBATION, Ledger
from handoff_mpi.scheduler.failures import Failures
from handoff_mpi.scheduler.placement import Placer
from handoff_mpi.scheduler.probation import Term
from handoff_mpi.scheduler.queues import ReadyQueue
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.slots import SlotTable

#: Seconds until a probe is tried again for which no task was found: a search looks at all queues.
HOST_PROBE_INTERVAL_S = 0.5


class HostProbe:
    """Lifts the cordon of ranks on probation for a moment, for some tasks alone.

    Args:
        ledger, ready, slots: the scheduler's tables.
        placer: places what it is allowed to.
        failures: knows the probations, and how many tries each task has left.
    """

    def __init__(self, ledger: Ledger, ready: ReadyTasks, slots: SlotTable, placer: Placer, failures: Failures) -> None:
        self._ledger = ledger
        self._feasibility = ledger.feasibility
        self._rank_states = ledger.rank_states
        self._ready = ready
        self._slots = slots
        self._placer = placer
        self._failures = failures
        self._probation = failures.probation

    def place(self, now: float) -> None:
        """Place what ranks on probation may be given; once all others have been served."""
        if not self._ready.is_queued():
            return
        bound = self._feasibility.bound(self._ledger.classes)
        ranks = self._probation.idle_ranks(self._probation.terms.values()) if bound else []
        if ranks and self._ready.holds_any(bound):
            with self._ledger.lifted(ranks, [PROBATION]):
                self._placer.allocate(now, only=self._is_bound)
        for term in self._probation.due(now):
            self._probe(term, now)

    def _is_bound(self, queue: ReadyQueue) -> bool:
        """Whether all ranks that could run the tasks of ``queue`` are on probation."""
        return queue.cost.number in self._feasibility.bound(self._ledger.classes)

    def _probe(self, term: Term, now: float) -> None:
        """Try one task on an idle rank of ``term``; what it fails there is tried elsewhere."""
        rank = next(iter(self._probation.idle_ranks([term])), None)
        if rank is None:
            return
        if not any(queue.tasks and self._may_probe(queue, rank) for queue in self._ready.every_queue()):
            term.next_probe = now + HOST_PROBE_INTERVAL_S
            return
        before = {task for slot in self._slots.of_rank[rank] for task in slot.tasks}
        with self._ledger.lifted([rank], [PROBATION]):
            self._placer.allocate(now, most=1, only=lambda queue: self._may_probe(queue, rank))
        for slot in self._slots.of_rank[rank]:
            for task in slot.tasks:
                if task not in before:
                    self._probation.sent(term, rank, task)
        if term.probe is None:
            term.next_probe = now + HOST_PROBE_INTERVAL_S

    def _may_probe(self, queue: ReadyQueue, rank: int) -> bool:
        """Whether the next task of ``queue`` may be tried on ``rank``: never with its last try, nor a second time."""
        cost, host = queue.cost, self._rank_states[rank].host
        if not queue.tasks or cost.rank is not None or cost.need is not cost.amounts or cost.host not in (None, host):
            return False
        task = queue.tasks[0]
        failed_on = self._failures.failed_on.get(task, ())
        return self._failures.tries_left(task) > 0 and all(self._rank_states[each].host != host for each in failed_on)

    def next_wakeup(self, now: float) -> float:
        """Return when the next probe is due, if anything waits."""
        if not self._ready.is_queued():
            return float("inf")
        times = (term.next_probe for term in self._probation.terms.values() if term.probe is None)
        return min((time for time in times if time > now), default=float("inf"))
