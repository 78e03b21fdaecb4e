"""The brain of rank 0: told what happened and what time it is, it answers what to do.

It never touches MPI, a clock, a file, a thread or random numbers; the loop does (:mod:`handoff_mpi.runtime`), and so
does the simulated cluster. Each turn has four verbs in order: absorb (here), release, allocate and dispatch
(:mod:`handoff_mpi.scheduler.placement`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from handoff_mpi.allocation import SUSPECT, AllocationStrategy, ClusterView, Ledger
from handoff_mpi.dag import TaskSpec
from handoff_mpi.errors import AllocationError
from handoff_mpi.messages import DEATH, NO_ROOM, OK, REFUSED, ErrorReport
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.capability import MAX_SLOTS
from handoff_mpi.scheduler.crash_tracker import CrashTracker
from handoff_mpi.scheduler.events import (
    BroadcastLoss,
    Closed,
    Command,
    Event,
    Failure,
    Finished,
    Forget,
    HomeValueLost,
    MemoryTold,
    Persisted,
    RankLost,
    RankReturned,
    RankSuspected,
    RankUnreachable,
    Refused,
    ResourcesUpdated,
    Retract,
    Retracted,
    StopRequested,
    Submitted,
    Transition,
    Unfetched,
    ValueLost,
)
from handoff_mpi.scheduler.explanation import Explainer
from handoff_mpi.scheduler.failures import Failures
from handoff_mpi.scheduler.lifecycle import DISPATCHED, DONE, READY, Cause
from handoff_mpi.scheduler.memory_pressure import MemoryPressure
from handoff_mpi.scheduler.overrides import Overrides
from handoff_mpi.scheduler.placement import Placer
from handoff_mpi.scheduler.policy import Policy
from handoff_mpi.scheduler.probing import HostProbe
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.refusals import Refusals
from handoff_mpi.scheduler.slots import Slot, SlotTable
from handoff_mpi.scheduler.tasks import TaskTable


class Scheduler:
    """The scheduler of one run.

    Args:
        ledger: the capability of the job.
        strategy: decides which ready task goes where.
        policy: the user's choices.
        prices: given to strategies, in place of demand ÷ supply.

    Attributes:
        tasks: where each task stands; see :class:`TaskTable`.
        ready: the tasks that could be placed.
        slots: what is in flight where.
        stale: how many reports were dropped because they carried an old attempt number.
        stopping: why the run is being stopped; empty if it is not.
        stopped_on_failure: whether a function's failure is why: nobody else has asked for it.
        logs_claims: whether claims and their release go into the log too.
    """

    def __init__(
        self,
        ledger: Ledger,
        strategy: AllocationStrategy,
        policy: Policy | None = None,
        prices: dict[str, float] | None = None,
    ) -> None:
        self.ledger = ledger
        self.policy = policy or Policy()
        self.specs: list[TaskSpec] = []
        self.ready = ReadyTasks(ledger, self.specs)
        self.tasks = TaskTable(self.ready, self.specs)
        self.slots = SlotTable(ledger)
        view = ClusterView(ledger, dict(prices or {}), self.expected_s, self.inputs_elsewhere)
        self._placer = Placer(view, strategy, self.tasks, self.ready, self.slots, self.policy)
        self._memory_pressure = MemoryPressure(ledger)
        self._crash_tracker = CrashTracker(self.policy.crash_limit)
        shared = ledger, self.tasks, self.ready, self.slots, self.policy, self._crash_tracker
        self._failures = Failures(*shared, self.expected_s, self._fail, self._log_rank, self._recall_queued)
        # most turns find these empty, which must cost next to nothing
        self._undecided, self._failed_on = self.ready.undecided, self.ready.avoid.failed_on
        self._deferred = self.ready.deferred
        self._probes, self._on_probation = self._failures.probation.probes, self._failures.probation.of_rank
        self._wins = self._failures.evidence.wins
        self._host_probe = HostProbe(ledger, self.ready, self.slots, self._placer, self._failures)
        self._overrides = Overrides(ledger, self.slots, self._placer, self._memory_pressure, self._log_rank)
        self._refusals = Refusals(
            self.ready,
            self.specs,
            self.tasks.state,
            self.policy.tracker_timeout_s,
            self._placer.ranks_behind if self._placer.may_choose_ranks else None,
        )
        self._held = self._refusals.holds
        self._commands: list[Command] = []
        self.stale = 0
        self.now = 0.0
        self.stopping = ""
        self.stopped_on_failure = False
        self._closed = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._on_submitted,
            Closed: self._on_closed,
            Finished: self._on_finished,
            Retracted: self._on_returned,
            Unfetched: self._on_unfetched,
            Persisted: self._on_persisted,
            ValueLost: self._on_value_lost,
            HomeValueLost: self._on_home_value_lost,
            RankSuspected: self._on_rank_suspected,
            RankUnreachable: self._on_rank_unreachable,
            RankReturned: self._on_rank_returned,
            RankLost: self._on_rank_lost,
            ResourcesUpdated: self._on_resources_updated,
            MemoryTold: self._on_memory_told,
            Refused: self._on_refused,
            StopRequested: self._on_stop_requested,
        }

    def close(self) -> None:
        """Break the reference cycles, so that the run's tables are freed at once; the machine is then unusable."""
        self._placer.close()
        self._failures.close()
        self.ready.free.close()
        self.ledger.close()
        for name in [name for name in vars(self) if name.startswith("_")]:
            delattr(self, name)  # most of its parts call back into it

    # -- the turn ---------------------------------------------------------------------------------

    def handle(self, events: Iterable[Event], now: float) -> list[Command]:
        """Absorb ``events`` at time ``now`` (seconds, any origin) and return what to do.

        Raises:
            AllocationError: the strategy placed a task where it does not fit.
            AssertionError: the impossible happened; the message tells the task's story.
        """
        self.now = now
        for event in events:
            self._handlers[type(event)](event)
        if self._deferred:
            for task in self.ready.due(now):
                self._failures.offer(task)
        if self._held and not self.stopping:
            self._ask_tracker_again()
        if self._undecided:
            self._failures.settle(now)
        self._placer.release(now, not self.stopping)
        if not self.stopping:
            self._placer.allocate(now)
            if self._on_probation:
                self._host_probe.place(now)
            self._override_if_stuck(now)
            if not self.slots.in_flight and self._is_out_of_time():
                self._stop("what is left would not finish in the time that is left")
            while self._is_stuck() and self._give_up_on_ready() and not self.stopping:
                self._placer.allocate(now)
                self._override_if_stuck(now)
            self._placer.prefill()
            self._placer.recall_for_idle(now)
        self._commands += self._placer.take_commands()
        for rank, tasks in self.tasks.releasable.items():
            self._commands.append(Forget(rank, tasks))
        self.tasks.releasable = {}
        commands, self._commands = self._commands, []
        return commands

    def next_wakeup(self) -> float:
        """Return the time at which :meth:`handle` must be called again even if nothing happens."""
        wakeup = float("inf")
        if self._deferred and not self.stopping and (due := self.ready.next_due) is not None:
            wakeup = due
        if self._held and not self.stopping:
            wakeup = min(wakeup, self._refusals.next_due)
        if self._on_probation and not self.stopping:
            wakeup = min(wakeup, self._host_probe.next_wakeup(self.now))
        if self._undecided:
            wakeup = min(wakeup, self._failures.next_wakeup)
        return min(wakeup, self._placer.next_wakeup(self.now))

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: all tasks have ended, or the run was stopped and nothing runs."""
        if self.stopping:
            return not self.slots.in_flight
        return self._closed and not self.tasks.open

    @property
    def status(self) -> str:
        """Return "running", then "done", "failed" or "stopped"."""
        if not self.is_over:
            return "running"
        if self.tasks.open:
            return "stopped"
        return "failed" if self.failures else "done"

    # -- what the loop reads ----------------------------------------------------------------------

    @property
    def state(self) -> bytearray:
        return self.tasks.state

    @property
    def attempts(self) -> list[int]:
        return self.tasks.attempts

    @property
    def failures(self) -> dict[int, Failure]:
        return self.tasks.failures

    @property
    def log(self) -> list[Transition]:
        """The transitions of this turn; the loop drains it with :meth:`take_log`."""
        return self.tasks.log

    def take_log(self) -> list[Transition]:
        """Return the transition log and empty it."""
        log, self.tasks.log = self.tasks.log, []
        return log

    @property
    def short_of_memory(self) -> Collection[int]:
        """Ranks that are given no new tasks because they are short of memory."""
        return self._memory_pressure.ranks

    @property
    def on_probation(self) -> Collection[int]:
        """Ranks that are given only probes: they, or their hosts, fail functions that succeed elsewhere."""
        return self._on_probation

    @property
    def in_flight(self) -> int:
        return self.slots.in_flight

    @property
    def logs_claims(self) -> bool:
        return self._placer.logs_claims

    @logs_claims.setter
    def logs_claims(self, wanted: bool) -> None:
        self._placer.logs_claims = wanted

    def is_current(self, task: int, attempt: int) -> bool:
        """Whether a report of this attempt still counts."""
        return self.tasks.is_current(task, attempt)

    def is_isolated(self, task: int) -> bool:
        """Whether the next attempt must run in a child process: it has a time limit, or is suspected of a death."""
        return self.specs[task].timeout_s is not None or task in self._crash_tracker.suspects

    def expected_s(self, task: int) -> float:
        """Return how long ``task`` is expected to take: as others of its code did, else one second."""
        return self._placer.mean_s.get(self.specs[task].code, 1.0)

    def explain(self, task: int, label: Callable[[int], str] = str) -> dict[str, Any]:
        """Return where ``task`` stands and why it does not run, as plain data; nothing changes.

        Args:
            label: returns how a task is called in the answer.
        """
        parts = self.tasks, self.ready, self.slots, self.policy, self._placer, self._refusals, self._failures.probation
        return Explainer(self.ledger, *parts, self.stopping, self.now, label).explain(task)

    def inputs_elsewhere(self, task: int) -> Sequence[tuple[int, Sequence[int]]]:
        """Return ``(bytes, ranks that hold it)`` of each input of ``task`` that did not come home."""
        holders = self.tasks.holders
        if not holders:
            return ()
        return [(self.tasks.nbytes[each], holders[each]) for each in self.specs[task].inputs if each in holders]

    # -- absorb: submissions ------------------------------------------------------------------------

    def _on_submitted(self, event: Submitted) -> None:
        self._crash_tracker.inherit(event.suspects, event.deaths)
        self.tasks.add(event.specs, event.restored)

    def _on_closed(self, event: Closed) -> None:
        self._closed = True

    # -- absorb: ends of calls ----------------------------------------------------------------------

    def _on_finished(self, event: Finished) -> None:
        tasks, land, now = self.tasks, self.slots.land, self.now
        state, attempts, recalled = tasks.state, tasks.attempts, self._placer.recalled
        has_trouble = bool(self._failed_on or self._probes or self._crash_tracker.deaths)
        others = 0  # entries that are not successes, or were counted
        for entry in event.entries:
            task = entry[0]
            if state[task] != DISPATCHED or attempts[task] != entry[1]:
                self.stale += 1
                others += 1
                continue
            slot = land(task, now)
            if recalled:
                recalled.discard(task)
            if entry[2] == OK:
                self._placer.learn(task, entry[6])
                tasks.done(task, entry, slot.rank)
                if has_trouble:
                    self._failures.succeeded(task, slot.rank, now)
            else:
                wins = event.entries.index(entry) - others
                self._wins[slot.rank] += wins  # what succeeded before it speaks for the rank before, not after
                others += wins + 1
                self._failures.failed(task, entry, slot.rank, now)
        wins = len(event.entries) - others
        if wins:
            self._wins[event.rank] += wins

    def _fail(self, task: int, cause: Cause, rank: int, error: ErrorReport) -> None:
        self.tasks.fail(task, cause, rank, error)
        if self.policy.stop_on_failure and not self.stopping:
            self.stopped_on_failure = True
            self._stop(f"function failed: {error.message}")

    # -- absorb: what comes back ----------------------------------------------------------------------

    def _on_returned(self, event: Retracted) -> None:
        returned = [task for task, attempt in event.entries if self.is_current(task, attempt)]
        self.stale += len(event.entries) - len(returned)
        for task in returned:
            self._take_back(task, Cause.RETRACTED)
        self._requeue_all(returned)

    def _requeue_all(self, tasks: Sequence[int]) -> None:
        """Put READY tasks back at the heads of their queues, in the order they had."""
        for task in reversed(tasks):
            if self.state[task] == READY and task not in self._deferred:
                self.tasks.requeue(task)

    def _take_back(self, task: int, cause: Cause, detail: Any = None) -> Slot:
        slot = self.slots.land(task, self.now)
        self._placer.recalled.discard(task)
        self._failures.came_back(task, self.now)
        self.tasks.move(task, cause, slot.rank, detail)
        return slot

    def _on_unfetched(self, event: Unfetched) -> None:
        for each, asked in event.missing:
            if not asked or 0 in asked:  # rank 0 serves files to ranks that do not see them
                self.tasks.persisted.discard(each)
            self.tasks.lose_value(each, asked)
        if not self.is_current(event.task, event.attempt):
            self.stale += 1
            return
        self._take_back(event.task, Cause.INPUT_LOST)
        if any(self.specs[each].stays and self._has_lost(asked) for each, asked in event.missing):
            self._crash_tracker.suspects.add(event.task)  # a rank may have died of encoding that input for it
        self.tasks.ready_or_waiting(event.task)
        self.tasks.recompute(self.tasks.lost_inputs(event.task))

    def _has_lost(self, ranks: Sequence[int]) -> bool:
        """Whether one of ``ranks`` that computed is lost."""
        return any(rank in self.ledger.rank_states and not self.ledger.rank_states[rank].is_alive for rank in ranks)

    def _on_persisted(self, event: Persisted) -> None:
        if self.state[event.task] == DONE:
            self.tasks.persisted.add(event.task)

    def _on_value_lost(self, event: ValueLost) -> None:
        self.tasks.lose_value(event.task, event.ranks)

    def _on_home_value_lost(self, event: HomeValueLost) -> None:
        self.tasks.lose_home_value(event.task)

    def _on_refused(self, event: Refused) -> None:
        if not self.is_current(event.task, event.attempt):
            return
        slot = self._take_back(event.task, Cause.RETRACTED, ("refused", event.reason))
        self.attempts[event.task] -= 1  # it was no attempt: nothing was sent
        if not slot.tasks:
            self.slots.release(slot)  # the claim went with the dispatch that was not sent
        self._refusals.refuse(event.task, event, slot.rank, self.now)

    def _ask_tracker_again(self) -> None:
        """Offer tasks that the tracker has refused, and fail those that have waited too long."""
        for task, why in self._refusals.expired(self.now):
            self._fail(task, Cause.GIVEN_UP, -1, ErrorReport(REFUSED, why))
        for task, count, rank, reason in self._refusals.unreported(self.now):
            self._log_rank(rank, "refused for long", (task, count, reason))
        if not self.stopping:
            self._refusals.offer_due(self.now)

    # -- absorb: ranks --------------------------------------------------------------------------------

    def _on_rank_suspected(self, event: RankSuspected) -> None:
        self.ledger.cordon(event.rank)
        self._log_rank(event.rank, "suspect", event.reason)
        self._take_back_queued(event.rank)

    def _on_rank_unreachable(self, event: RankUnreachable) -> None:
        self._lose_rank(event.rank, event.reason, may_return=True)

    def _on_rank_returned(self, event: RankReturned) -> None:
        self.ledger.restore(event.rank)
        self.ledger.uncordon(event.rank)
        self._log_rank(event.rank, "returned")

    def _take_back_queued(self, rank: int) -> None:
        """A suspect's queued tasks go elsewhere; the running ones may well be finished."""
        tasks = [(task, self.attempts[task]) for task in self.slots.waiting_behind(rank)]
        for task, _ in tasks:
            self._take_back(task, Cause.RANK_LOST)
        self._requeue_all([task for task, _ in tasks])
        if tasks:
            self._commands.append(Retract(rank, tasks))

    def _on_rank_lost(self, event: RankLost) -> None:
        self._memory_pressure.end(event.rank)
        if event.rank in self.ledger.rank_states:
            self._lose_rank(event.rank, event.reason, event.with_its_host)

    def _lose_rank(self, rank: int, reason: str, is_blameless: bool = False, may_return: bool = False) -> None:
        if not self.ledger.rank_states[rank].is_alive:
            return
        self._log_rank(rank, "lost", reason)
        self._commands.append(BroadcastLoss(rank))
        orphans = [task for slot in self.slots.of_rank[rank] for task in slot.tasks]
        recalled = [(task, self.attempts[task]) for task in orphans]
        for task in orphans:
            self._take_back(task, Cause.RANK_LOST, reason)
            self.tasks.ran_on.setdefault(task, []).append(rank)
        if not (may_return or is_blameless):
            self._suspect(orphans, rank, reason)
        for slot in self.slots.of_rank[rank]:
            if slot.claim is not None:
                self.slots.release(slot)
        self.ledger.remove(rank)
        self._failures.rank_lost(self.now)
        self.ready.unbind(rank)
        self.ready.reconsider()
        self._requeue_all(orphans)
        for task in [*self.tasks.held.get(rank, ())]:
            self.tasks.lose_value(task, [rank])
        if may_return and recalled:
            self._commands.append(Retract(rank, recalled))

    def _suspect(self, orphans: list[int], rank: int, reason: str) -> None:
        """Suspects of a rank's death run in a child next time, each alone; only a sole one is guilty for certain."""
        if len(orphans) != 1:
            self._crash_tracker.suspects.update(orphans)
            return
        (task,) = orphans
        self._failures.died_with_rank(task, rank)
        may_retry = self._crash_tracker.may_retry(task)
        self._log_rank(rank, "blamed on", (task, self.attempts[task], reason))
        if may_retry:
            self._failures.defer(task, self.now)
        else:
            how = self._crash_tracker.tell(task, f"with rank {rank}: {reason}")
            self._fail(task, Cause.GIVEN_UP, rank, ErrorReport(DEATH, how))

    def _on_resources_updated(self, event: ResourcesUpdated) -> None:
        try:
            self.ledger.update(event.rank, event.amounts)
        except AllocationError as error:
            self._log_rank(event.rank, "not updated", str(error))
            return
        if self.policy.adds_slots and "cpu" in event.amounts:
            self.ledger.add_slots(event.rank, min(event.amounts["cpu"] // UNIT, MAX_SLOTS))
            self.slots.follow(event.rank)
        self.ready.reconsider()
        self._log_rank(event.rank, "updated", event.amounts)

    def _on_memory_told(self, event: MemoryTold) -> None:
        if event.rank not in self.ledger.rank_states:
            return
        self._log_rank(event.rank, "memory high" if event.is_short else "memory normal", event.words)
        if event.is_short:
            self._memory_pressure.begin(event.rank)
            self._recall_queued(event.rank)
        else:
            self._memory_pressure.end(event.rank)

    def _log_rank(self, rank: int, what: str, detail: Any = None) -> None:
        self.tasks.log.append((-1, -1, -1, 0, rank, (what, detail)))

    # -- absorb: the end ------------------------------------------------------------------------------

    def _on_stop_requested(self, event: StopRequested) -> None:
        if not self.stopping:
            self._stop(event.reason)

    def _stop(self, reason: str) -> None:
        """Dispatch nothing more, and ask for what has not started."""
        self.stopping = reason
        self._failures.stop()
        for rank in self.slots.of_rank:
            self._recall_queued(rank)

    def _recall_queued(self, rank: int) -> None:
        """Ask for what has not started at ``rank``, and was not asked for before."""
        tasks = [task for task in self.slots.waiting_behind(rank) if task not in self._placer.recalled]
        if tasks:
            self._placer.recalled.update(tasks)
            self._commands.append(Retract(rank, [(task, self.attempts[task]) for task in tasks]))

    def _is_stuck(self) -> bool:
        """Whether tasks are ready, fit nothing that is left, and wait for nothing: that would be a hang."""
        return not (self.slots.in_flight or self.stopping) and self.ready.is_queued()

    def _is_out_of_time(self) -> bool:
        """Whether nothing that is left would end in the time that is left; while nothing runs."""
        due = self.ready.next_due if self._deferred else None
        if due is None:
            return self._placer.holds_back
        if due < self.policy.stop_at:
            return False
        return self._placer.holds_back or not (self._held or self._undecided or self.ready.is_queued())

    def _override_if_stuck(self, now: float) -> None:
        """Use cordoned ranks if nothing runs otherwise, or nothing would end."""
        if self.ledger.cordoned and self._is_stuck():
            self._overrides.place(now)

    def _give_up_on_ready(self) -> bool:
        """Fail what fits nothing that is left, else let tasks run where they failed; return whether there was any.

        Suspects are offered nothing, but left.
        """
        queues = self.ready.all_queues()
        hopeless = [queue for queue in queues if not self.ledger.feasibility.could_fit(queue.cost)]
        if not hopeless and not self._awaits_suspects():
            if self.ready.relent():
                return True
            hopeless = queues
        for queue in hopeless:
            for task in list(queue.tasks):
                if self.state[task] == READY:
                    self.ready.remove(task)
                    why = self._placer.why_no_room(queue.cost)
                    self._fail(task, Cause.GIVEN_UP, -1, ErrorReport(NO_ROOM, why))
        return bool(hopeless)

    def _awaits_suspects(self) -> bool:
        """Whether ranks are suspect that are not lost: sooner or later they are heard of, or lost."""
        rank_states, cordoned = self.ledger.rank_states, self.ledger.cordoned
        return any(SUSPECT in reasons and rank_states[rank].is_alive for rank, reasons in cordoned.items())
