"""The brain of rank 0: it receives what happened and what time it is, and answers what to do.

It never touches MPI, a clock, a file, a thread or random numbers; the loop does (:mod:`handoff_mpi.runtime`), and so
does the simulated cluster. Each turn has four verbs in order: absorb, release, allocate and dispatch. This module holds
the turn, and what it absorbs of tasks; the rest is in parts:

- :mod:`~handoff_mpi.scheduler.rank_changes`: what becomes of tasks when a rank is suspect, lost, or back;
- :mod:`~handoff_mpi.scheduler.failures`: whether an attempt that failed is tried again, and where;
- :mod:`~handoff_mpi.scheduler.pipelining`: slots that keep their claims get further tasks;
- :mod:`~handoff_mpi.scheduler.placement`: the strategy decides on the others;
- :mod:`~handoff_mpi.scheduler.dead_ends`: what fits nowhere while nothing runs.

The tables (``tasks``, ``ready``, ``slots``, ``ledger``) are public: callers read them there, and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from handoff_mpi.allocation import AllocationStrategy, ClusterView, Ledger
from handoff_mpi.dag import TaskSpec
from handoff_mpi.membership import RankLost, RankReturned, RankSuspected, RankUnreachable
from handoff_mpi.messages import OK, REFUSED, ErrorReport, LeaseReport
from handoff_mpi.scheduler.array_explanation import name_of
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.chained_leases import ChainedLeases
from handoff_mpi.scheduler.crash_tracker import CrashTracker
from handoff_mpi.scheduler.dead_ends import DeadEnds
from handoff_mpi.scheduler.device_losses import DeviceLosses
from handoff_mpi.scheduler.dispatches import Dispatches
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.events import (
    Closed,
    Command,
    ElementsEnded,
    ElementsPulled,
    Event,
    Finished,
    Forget,
    HomeValueLost,
    MemoryTold,
    Persisted,
    Refused,
    ResourcesUpdated,
    Restored,
    Retract,
    Retracted,
    StopRequested,
    Submitted,
    Unfetched,
    ValueLost,
)
from handoff_mpi.scheduler.explanation import Explainer
from handoff_mpi.scheduler.failures import Failures
from handoff_mpi.scheduler.lease_ends import LeaseEnds
from handoff_mpi.scheduler.lifecycle import DISPATCHED, DONE, Cause
from handoff_mpi.scheduler.memory_pressure import MemoryPressure
from handoff_mpi.scheduler.overrides import Overrides
from handoff_mpi.scheduler.pipelining import Pipeline
from handoff_mpi.scheduler.placement import Placer
from handoff_mpi.scheduler.policy import Policy
from handoff_mpi.scheduler.probing import HostProbe
from handoff_mpi.scheduler.rank_changes import RankChanges
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.refusals import Refusals
from handoff_mpi.scheduler.retractions import Retractions
from handoff_mpi.scheduler.returns import Returns
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.transitions import RefusedForLong, TrackerRefusal
from handoff_mpi.scheduler.waiters import Waiters

#: Receives an event and the time.
_Handler: TypeAlias = "Callable[[Any, float], None]"


class Scheduler:
    """The scheduler of one run.

    Args:
        ledger: the capability of the job.
        strategy: decides which ready task goes where.
        policy: the user's choices.
        prices: given to strategies, in place of demand ÷ supply.

    Attributes:
        ledger: the capability of the job, and the claims on it.
        tasks: where each task stands, and the log of transitions; see :class:`TaskTable`.
        ready: the tasks that could be placed.
        slots: what is in flight where.
        dispatches: what is sent in this turn; whether claims are logged.
        memory_pressure: the ranks that get no new tasks because they are short of memory.
        probation: the ranks that get only probes: they, or their hosts, fail functions that succeed elsewhere.
        arrays: the elements of arrays, and their leases.
        stale: how many reports were dropped because they carried an old attempt number.
        now: the time of the last turn, in seconds.
        stopping: why the run is being stopped; empty if it is not.
        stopped_on_failure: whether a function's failure is why: nobody else has asked for it.
    """

    def __init__(
        self,
        ledger: Ledger,
        strategy: AllocationStrategy,
        policy: Policy | None = None,
        prices: dict[str, float] | None = None,
    ) -> None:
        self.ledger = ledger
        self.policy = policy = policy or Policy()
        self.specs: list[TaskSpec] = []
        self.ready = ready = ReadyTasks(ledger, self.specs)
        self.tasks = tasks = TaskTable(ready, self.specs)
        self.slots = slots = SlotTable(ledger, policy.max_concurrency)
        self._crash_tracker = CrashTracker(policy.crash_limit)
        self.arrays = arrays = Arrays(tasks, ready, self._crash_tracker.suspects)
        self.memory_pressure = MemoryPressure(ledger)
        self.stopped_on_failure = self._closed = False
        self.stale, self.now, self.stopping = 0, 0.0, ""
        self._commands: list[Command] = []
        self._durations = durations = Durations(self.specs, slots, policy.stop_at)
        window = policy.window if getattr(strategy, "reuses_claims", False) else 0
        chained_leases = ChainedLeases(ledger, arrays, tasks, ready, durations, self.memory_pressure, window)
        self.dispatches = dispatches = Dispatches(tasks, ready, slots, arrays, chained_leases)
        self._retractions = retractions = Retractions(ledger, tasks, slots, arrays, self._commands)
        tables = ledger, tasks, ready, slots
        judged_by = policy, self._crash_tracker, durations.expected_s
        calls = self._fail, tasks.log_rank, retractions.retract_queued
        self._failures = Failures(*tables, *judged_by, arrays.pauses, *calls)
        self.probation = self._failures.probation
        self._returns = returns = Returns(tasks, ready, slots, retractions, self.probation, arrays)
        parts = *tables, self.memory_pressure, self._crash_tracker, self._failures, retractions, returns
        self._rank_changes = RankChanges(*parts, policy.adds_slots, self._fail, self._commands)
        self._device_losses = DeviceLosses(ledger, tasks, ready, retractions, returns)
        waiters = Waiters(ledger, ready, durations.remaining_s)
        view = ClusterView(ledger, dict(prices or {}), durations.expected_s, tasks.inputs_elsewhere)
        self._placer = placer = Placer(view, strategy, tasks, ready, slots, waiters, durations, dispatches)
        self._pipeline = Pipeline(*tables, waiters, durations, dispatches, window, chained_leases)
        self._host_probe = HostProbe(ledger, ready, slots, placer, self._failures)
        overrides = Overrides(ledger, slots, placer, self.memory_pressure, tasks.log_rank)
        self._dead_ends = DeadEnds(ledger, ready, slots, tasks.state, overrides, placer.strategy_name, self._fail)
        ranks_behind = placer.ranks_behind if placer.may_choose_ranks else None
        self._refusals = Refusals(ready, self.specs, tasks.state, policy.tracker_timeout_s, ranks_behind)
        # most turns find these empty, which must cost next to nothing
        self._undecided, self._failed_on, self._deferred = ready.undecided, ready.avoid.failed_on, ready.deferred
        self._probes, self._on_probation = self.probation.probes, self.probation.of_rank
        self._wins, self._held = self._failures.evidence.wins, self._refusals.holds
        self._of_arrays, self._leases = arrays.of, arrays.leases
        self._lease_ends = LeaseEnds(arrays, tasks, self._failures, self._crash_tracker, durations, self._device_losses)
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[type, _Handler]:
        """Return the handler of each type of event."""
        changes = self._rank_changes
        return {
            Submitted: self._on_submitted,
            Closed: self._on_closed,
            Finished: self._on_finished,
            ElementsEnded: self._on_elements_ended,
            ElementsPulled: lambda event, now: self.arrays.pulled(event),
            Restored: lambda event, now: self.arrays.restored(event),
            Retracted: self._on_retracted,
            Unfetched: self._on_unfetched,
            Persisted: self._on_persisted,
            ValueLost: self._on_value_lost,
            HomeValueLost: self._on_home_value_lost,
            RankSuspected: changes.suspected,
            RankUnreachable: changes.unreachable,
            RankReturned: changes.returned,
            RankLost: changes.lost,
            ResourcesUpdated: changes.updated,
            MemoryTold: changes.memory_told,
            Refused: self._on_refused,
            StopRequested: self._on_stop_requested,
        }

    def close(self) -> None:
        """Break the reference cycles, so that the run's tables are freed at once; the machine is then unusable."""
        self._failures.close()
        self.ready.free.close()
        self.ledger.close()
        self.arrays.close()
        for name in [name for name in vars(self) if name.startswith("_")]:
            delattr(self, name)  # most of its parts call back into it

    # -- the turn ---------------------------------------------------------------------------------

    def handle(self, events: Iterable[Event], now: float) -> list[Command]:
        """Absorb ``events`` at time ``now`` (seconds, any origin) and return what to do.

        Raises:
            AllocationError: the strategy placed a task where it does not fit.
            AssertionError: the impossible happened; the message tells the task's story.
        """
        self.now = self._durations.now = now
        if self._leases:
            self.arrays.begin_turn()
        for event in events:
            self._handlers[type(event)](event, now)
        if self._deferred:
            for task in self.ready.due(now):
                self._failures.offer(task)
        if self._held and not self.stopping:
            self._ask_tracker_again()
        if self._undecided:
            self._failures.settle(now)
        if self._of_arrays:
            self._settle_arrays()
            self.arrays.pauses.review(now)
        self._pipeline.release(now, not self.stopping)
        for_idle: list[Retract] = []
        if not self.stopping:
            self._place(now)
            self._pipeline.prefill(now)
            for_idle = self._retractions.retract_for_idle(now)
            if self._of_arrays:
                for_idle += self._retractions.recall_for_idle(now)
        return self._take_commands(for_idle)

    def _place(self, now: float) -> None:
        """Place what can be placed, and decide about what can be placed nowhere."""
        self._placer.allocate(now)
        if self._on_probation:
            self._host_probe.place(now)
        self._dead_ends.override(now)
        if not self.slots.in_flight and self._is_out_of_time():
            self._stop("what is left would not finish in the time that is left")
        while not self.stopping and self._dead_ends.give_up() and not self.stopping:
            self._placer.allocate(now)
            self._dead_ends.override(now)
        if self._of_arrays:
            self._settle_arrays()

    def _settle_arrays(self) -> None:
        """End the leases that were skipped, and the arrays whose elements have all ended."""
        self._lease_ends.settle()
        self.arrays.settle(lambda array, error: self._fail(array, Cause.GIVEN_UP, -1, error))

    def _take_commands(self, for_idle: Sequence[Command]) -> list[Command]:
        """Return the commands of this turn, in the order in which they must be carried out."""
        commands = [*self._commands, *self.dispatches.take_commands(), *for_idle]
        self._commands.clear()
        if self.tasks.releasable:
            commands += [Forget(rank, tasks) for rank, tasks in self.tasks.releasable.items()]
            self.tasks.releasable = {}
        return commands

    def next_wakeup(self) -> float:
        """Return the time at which :meth:`handle` must be called again even if nothing happens."""
        wakeup = self._failures.next_wakeup if self._undecided else float("inf")
        if self.stopping:
            return wakeup
        wakeup = min(wakeup, self._retractions.next_wakeup(self.now), self.arrays.pauses.next_due)
        if self._deferred and (due := self.ready.next_due) is not None:
            wakeup = min(wakeup, due)
        if self._held:
            wakeup = min(wakeup, self._refusals.next_due)
        if self._on_probation:
            wakeup = min(wakeup, self._host_probe.next_wakeup(self.now))
        return wakeup

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
        return "failed" if self.tasks.failures else "done"

    def running(self) -> list[int]:
        """Return the tasks that run now, as far as is known; an array once for each of its leases."""
        running = self.slots.running()
        return [self.arrays.task_of(task) for task in running] if self._leases else running

    def is_isolated(self, task: int) -> bool:
        """Whether the next attempt must run in a child process: it has a time limit, or is suspected of a death."""
        return self.specs[task].timeout_s is not None or task in self._crash_tracker.suspects

    def explain(self, task: int, label: Callable[[int], str] = str) -> dict[str, object]:
        """Return where ``task`` stands and why it does not run, as plain data; nothing changes.

        Args:
            label: returns how a task is called in the answer.
        """
        tables = self.tasks, self.ready, self.slots, self.policy
        parts = self._durations, self._refusals, self.probation, self.arrays
        names = partial(name_of, self.arrays, label)
        return Explainer(self.ledger, *tables, *parts, self.stopping, self.now, names).explain(task)

    # -- absorb: submissions ------------------------------------------------------------------------

    def _on_submitted(self, event: Submitted, now: float) -> None:
        self._crash_tracker.inherit(event.suspects, event.deaths)
        first, specs, selections = len(self.specs), event.specs, event.selections
        if selections:
            specs = [each if each.takes is None else replace(each, inputs=each.takes) for each in specs]
        self.arrays.submit(first, specs, event.elements, event.suspect_elements)
        self.tasks.add(specs, event.restored, self.arrays.selections.specs(selections, specs, first))
        self.arrays.selections.submit(first + len(specs), selections, event.elements)
        self.arrays.begin_waiting()

    def _on_closed(self, event: Closed, now: float) -> None:
        self._closed = True

    # -- absorb: ends of calls ----------------------------------------------------------------------

    def _on_finished(self, event: Finished, now: float) -> None:
        tasks, land, learn = self.tasks, self.slots.land, self._durations.learn
        state, attempts, asked = tasks.state, tasks.attempts, self._retractions.asked
        leases, devices = self._leases, self._device_losses
        has_trouble = bool(self._failed_on or self._probes or self._crash_tracker.deaths)
        others = 0  # entries that are not successes, or were counted
        for entry in event.entries:
            task, attempt, status, value, nbytes, _, duration, is_persisted = entry
            if state[task] != DISPATCHED or attempts[task] != attempt:
                self.stale += 1
                others += 1
                continue
            slot = land(task, now)
            if asked:
                asked.discard(task)
            if devices.errors and status == OK:
                devices.succeeded(slot)
            if status != OK and devices.gives_back(task, slot, ErrorReport(*value), now):
                others += 1
            elif leases and task in leases:
                others = self._count_wins(event, entry, others)
                self._lease_ends.finished(task, slot.rank, status, value, duration, now)
            elif status == OK:
                learn(task, duration)
                tasks.done(task, slot.rank, value is not None, nbytes, is_persisted)
                if has_trouble:
                    self._failures.succeeded(task, slot.rank, now)
            else:
                others = self._count_wins(event, entry, others)
                self._failures.failed(task, slot.rank, status, ErrorReport(*value), duration, now)
        if wins := len(event.entries) - others:
            self._wins[event.rank] += wins

    def _count_wins(self, event: Finished, entry: Any, others: int) -> int:
        """Successes before ``entry`` speak for the rank before it does, not after; return how many are counted."""
        position = event.entries.index(entry)
        self._wins[event.rank] += position - others
        return position + 1

    def _on_elements_ended(self, event: ElementsEnded, now: float) -> None:
        if self.tasks.is_current(event.task, event.attempt):
            report = LeaseReport(*event.report)
            self._lease_ends.part_ended(event.task, event.rank, report, report.busy_s, now)
        else:
            self.stale += 1

    def _fail(self, task: int, cause: Cause, rank: int, error: ErrorReport) -> None:
        self.tasks.fail(task, cause, rank, error)
        if self._of_arrays:
            for dropped in self._lease_ends.failed(task):
                self._retractions.recall_array(dropped)
        if self.policy.stop_on_failure and not self.stopping:
            self.stopped_on_failure = True
            self._stop(f"function failed: {error.message}")

    # -- absorb: what comes back ----------------------------------------------------------------------

    def _on_retracted(self, event: Retracted, now: float) -> None:
        returned = [task for task, attempt in event.entries if self.tasks.is_current(task, attempt)]
        self.stale += len(event.entries) - len(returned)
        for task in returned:
            self._returns.take_back(task, Cause.RETRACTED, now)
        self._returns.requeue(returned)

    def _on_unfetched(self, event: Unfetched, now: float) -> None:
        tasks = self.tasks
        for each, asked in event.missing:
            if not asked or 0 in asked:  # rank 0 serves files to ranks that do not see them
                tasks.persisted.discard(each)
            tasks.lose_value(each, asked)
        if not tasks.is_current(event.task, event.attempt):
            self.stale += 1
            return
        self._returns.take_back(event.task, Cause.INPUT_LOST, now)
        if any(self.specs[each].stays and self._has_lost(asked) for each, asked in event.missing):
            self._crash_tracker.suspects.add(event.task)  # a rank may have died of encoding that input for it
        tasks.ready_or_waiting(event.task)
        self._lease_ends.end_if_dropped(event.task)
        tasks.recompute(tasks.lost_inputs(event.task))

    def _has_lost(self, ranks: Sequence[int]) -> bool:
        """Whether one of ``ranks`` that computed is lost."""
        return any(rank in self.ledger.rank_states and not self.ledger.rank_states[rank].is_present for rank in ranks)

    def _on_persisted(self, event: Persisted, now: float) -> None:
        if self.tasks.state[event.task] == DONE:
            self.tasks.persisted.add(event.task)

    def _on_value_lost(self, event: ValueLost, now: float) -> None:
        self.tasks.lose_value(event.task, event.ranks)

    def _on_home_value_lost(self, event: HomeValueLost, now: float) -> None:
        self.tasks.lose_home_value(event.task)

    def _on_refused(self, event: Refused, now: float) -> None:
        if not self.tasks.is_current(event.task, event.attempt):
            return
        slot = self._returns.take_back(event.task, Cause.RETRACTED, now, TrackerRefusal(event.reason))
        self.tasks.attempts[event.task] -= 1  # it was no attempt: nothing was sent
        if not slot.tasks:
            self.slots.release(slot)  # the claim went with the dispatch that was not sent
        self._refusals.refuse(event.task, event, slot.rank, now)
        self._lease_ends.end_if_dropped(event.task)

    def _ask_tracker_again(self) -> None:
        """Offer tasks that the tracker has refused, and fail those that have waited too long."""
        for task, why in self._refusals.expired(self.now):
            self._fail(task, Cause.GIVEN_UP, -1, ErrorReport(REFUSED, why))
        for task, count, rank, reason in self._refusals.unreported(self.now):
            self.tasks.log_rank(rank, RefusedForLong(task, count, reason))
        if not self.stopping:
            self._refusals.offer_due(self.now)

    # -- absorb: the end ------------------------------------------------------------------------------

    def _on_stop_requested(self, event: StopRequested, now: float) -> None:
        if not self.stopping:
            self._stop(event.reason)

    def _stop(self, reason: str) -> None:
        """Dispatch nothing more, and ask for what has not started."""
        self.stopping = reason
        self._failures.stop()
        for rank in self.slots.of_rank:
            self._retractions.retract_queued(rank)
        self._retractions.recall_all()

    def _is_out_of_time(self) -> bool:
        """Whether nothing that is left would end in the time that is left; while nothing runs."""
        due = self.ready.next_due if self._deferred else None
        if due is not None and due < self.policy.stop_at:
            return False
        is_left = due is None or self._held or self._undecided or self.arrays.pauses.paused or self.ready.is_queued()
        return self._placer.holds_back or not is_left
