"""Carries the changes of ranks into the scheduler's tables: what becomes of tasks, claims and values there.

The table of ranks (:mod:`handoff_mpi.membership`) lies outside the scheduler; its changes come as events.
"""

from __future__ import annotations

from collections.abc import Callable

from handoff_mpi.allocation import Ledger
from handoff_mpi.errors import AllocationError
from handoff_mpi.membership import RankLost, RankReturned, RankSuspected, RankUnreachable
from handoff_mpi.messages import DEATH, ErrorReport
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.capability import MAX_SLOTS
from handoff_mpi.scheduler.crash_tracker import CrashTracker
from handoff_mpi.scheduler.events import (
    BroadcastLoss,
    Command,
    MemoryTold,
    ResourcesUpdated,
    Retract,
)
from handoff_mpi.scheduler.failures import Failures
from handoff_mpi.scheduler.lifecycle import Cause
from handoff_mpi.scheduler.memory_pressure import MemoryPressure
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.retractions import Retractions
from handoff_mpi.scheduler.returns import Returns
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.transitions import (
    Blamed,
    Lost,
    MemoryHigh,
    MemoryNormal,
    NotUpdated,
    Returned,
    Suspected,
    Updated,
)


class RankChanges:
    """Handles the events of ranks.

    Args:
        ledger, tasks, ready, slots: the scheduler's tables.
        memory_pressure: the ranks that are short of memory.
        crash_tracker: the deaths that tasks are blamed for.
        failures: judges attempts.
        retractions, returns: bring tasks back from ranks.
        adds_slots: whether a rank that is given more cores is given a slot for each.
        fail: called with a task, the cause, a rank and its error when it has failed for good.
        commands: the commands of this turn, which the methods add to.
    """

    def __init__(
        self,
        ledger: Ledger,
        tasks: TaskTable,
        ready: ReadyTasks,
        slots: SlotTable,
        memory_pressure: MemoryPressure,
        crash_tracker: CrashTracker,
        failures: Failures,
        retractions: Retractions,
        returns: Returns,
        adds_slots: bool,
        fail: Callable[[int, Cause, int, ErrorReport], None],
        commands: list[Command],
    ) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._ready = ready
        self._slots = slots
        self._memory_pressure = memory_pressure
        self._crash_tracker = crash_tracker
        self._failures = failures
        self._retractions = retractions
        self._returns = returns
        self._adds_slots = adds_slots
        self._fail = fail
        self._commands = commands

    # -- silence ----------------------------------------------------------------------------------------

    def suspected(self, event: RankSuspected, now: float) -> None:
        """A suspect's queued tasks are run elsewhere; the running ones may well be finished."""
        rank = event.rank
        self._ledger.cordon(rank)
        self._tasks.log_rank(rank, Suspected(event.reason))
        tasks = [(task, self._tasks.attempts[task]) for task in self._slots.waiting_behind(rank)]
        for task, _ in tasks:
            self._returns.take_back(task, Cause.RANK_LOST, now)
        self._returns.requeue([task for task, _ in tasks])
        if tasks:
            self._commands.append(Retract(rank, tasks))

    def returned(self, event: RankReturned, now: float) -> None:
        """The rank is offered tasks again."""
        self._ledger.restore(event.rank)
        self._ledger.uncordon(event.rank)
        self._tasks.log_rank(event.rank, Returned())

    # -- losses -----------------------------------------------------------------------------------------

    def unreachable(self, event: RankUnreachable, now: float) -> None:
        """The rank counts as lost until it returns; then it must not run what it had."""
        recalled = self._lose(event.rank, event.reason, now, is_blameless=True)
        if recalled:
            self._commands.append(Retract(event.rank, recalled))

    def lost(self, event: RankLost, now: float) -> None:
        """The rank is lost for good; it may have been unreachable before, and what it had is elsewhere by now."""
        self._memory_pressure.end(event.rank)
        rank_state = self._ledger.rank_states.get(event.rank)
        if rank_state is not None and rank_state.is_present:
            self._lose(event.rank, event.reason, now, event.with_its_host)

    def _lose(self, rank: int, reason: str, now: float, is_blameless: bool) -> list[tuple[int, int]]:
        """Take everything from ``rank``; return the tasks that were in flight there, with their attempts."""
        tasks = self._tasks
        tasks.log_rank(rank, Lost(reason))
        self._commands.append(BroadcastLoss(rank))
        orphans = [task for slot in self._slots.of_rank[rank] for task in slot.tasks]
        recalled = [(task, tasks.attempts[task]) for task in orphans]
        if not is_blameless:
            self._returns.suspect_followers(orphans)
        for task in orphans:
            self._returns.take_back(task, Cause.RANK_LOST, now, reason)
            if not self._returns.is_shared(task):
                tasks.ran_on.setdefault(task, []).append(rank)
        if not is_blameless:
            self._suspect(orphans, rank, reason, now)
        for slot in self._slots.of_rank[rank]:
            if slot.claim is not None:
                self._slots.release(slot)
        self._ledger.remove(rank)
        self._failures.rank_lost(now)
        self._ready.unbind(rank)
        self._ready.reconsider()
        self._returns.requeue(orphans)
        for task in [*tasks.held.get(rank, ())]:
            tasks.lose_value(task, [rank])
        return recalled

    def _suspect(self, orphans: list[int], rank: int, reason: str, now: float) -> None:
        """Suspects of a rank's death run in a child next time, each alone; only a sole one is guilty for certain."""
        if len(orphans) != 1:
            self._crash_tracker.suspects.update(filter(self._returns.has_work, orphans))
            return
        (task,) = orphans
        if not self._returns.has_work(task):
            return
        self._failures.died_with_rank(task, rank)
        may_retry = self._crash_tracker.may_retry(task)
        self._tasks.log_rank(rank, Blamed(task, self._tasks.attempts[task], reason))
        if may_retry:
            self._failures.defer(task, now)
        else:
            how = self._crash_tracker.tell(task, f"with rank {rank}: {reason}")
            self._fail(task, Cause.GIVEN_UP, rank, ErrorReport(DEATH, how))

    # -- resources --------------------------------------------------------------------------------------

    def updated(self, event: ResourcesUpdated, now: float) -> None:
        """The rank offers other amounts, and maybe more slots."""
        try:
            self._ledger.update(event.rank, event.amounts)
        except AllocationError as error:
            self._tasks.log_rank(event.rank, NotUpdated(str(error)))
            return
        if self._adds_slots and "cpu" in event.amounts:
            self._ledger.add_slots(event.rank, min(event.amounts["cpu"] // UNIT, MAX_SLOTS))
            self._slots.follow(event.rank)
        self._ready.reconsider()
        self._tasks.log_rank(event.rank, Updated(event.amounts))

    def memory_told(self, event: MemoryTold, now: float) -> None:
        """The rank is short of memory from now on, or no longer."""
        if event.rank not in self._ledger.rank_states:
            return
        record = MemoryHigh(event.words) if event.is_short else MemoryNormal(event.words)
        self._tasks.log_rank(event.rank, record)
        if event.is_short:
            self._memory_pressure.begin(event.rank)
            self._retractions.retract_queued(event.rank)
        else:
            self._memory_pressure.end(event.rank)
