"""Decides about attempts that failed: another try elsewhere, a verdict later, or a failure for good.

An attempt spends a try of its function. One that failed on a rank or host which is put on probation because of it is
given back; see :mod:`handoff_mpi.scheduler.probation` and :mod:`handoff_mpi.scheduler.undecided`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from handoff_mpi.allocation import Ledger
from handoff_mpi.messages import DIED, ErrorReport
from handoff_mpi.scheduler.crash_tracker import CrashTracker
from handoff_mpi.scheduler.evidence import Evidence
from handoff_mpi.scheduler.lifecycle import DISPATCHED, DONE, READY, Cause
from handoff_mpi.scheduler.pauses import Pauses
from handoff_mpi.scheduler.policy import Policy
from handoff_mpi.scheduler.probation import Probation, Term
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.retries import Chance, chance_of, delay_before_retry
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.transitions import FailedAttempt, Forgiven, ProbationBegun, ProbationEnded, RankRecord
from handoff_mpi.scheduler.tries import Tries
from handoff_mpi.scheduler.undecided import HOLD_CALLS, MAX_HOLD_S, MIN_HOLD_S, Undecided, UndecidedFailures, Verdict


class Failures:
    """Judges failed attempts, and the ranks and hosts where they failed.

    Args:
        ledger, tasks, ready, slots: the scheduler's tables.
        policy: the user's choices.
        crash_tracker: the deaths that tasks are blamed for.
        expected_s: returns how long a task is expected to take.
        pauses: arrays pause while too many of their elements may fail.
        fail: called with a task, the cause, a rank and its error when it has failed for good.
        log: called with a rank and what happened to it, for the log.
        retract: called with a rank whose queued tasks should be given back.

    Attributes:
        evidence: the records of ranks; the reporter of calls that succeeded adds to its wins.
        probation: the ranks and hosts on probation.
    """

    def __init__(
        self,
        ledger: Ledger,
        tasks: TaskTable,
        ready: ReadyTasks,
        slots: SlotTable,
        policy: Policy,
        crash_tracker: CrashTracker,
        expected_s: Callable[[int], float],
        pauses: Pauses,
        fail: Callable[..., None],
        log: Callable[[int, RankRecord], None],
        retract: Callable[[int], None],
    ) -> None:
        self.evidence = Evidence(ledger.rank_states)
        self.probation = Probation(ledger, self.evidence)
        self.failed_on = ready.avoid.failed_on
        ready.avoid.is_alone_to_blame = self.probation.is_alone_to_blame
        known = self.evidence, self.probation.trusted, self.failed_on
        self._undecided = UndecidedFailures(ledger.rank_states, *known, ready.undecided, self._may_run)
        self._tries = Tries()
        self._ledger = ledger
        self._tasks = tasks
        self._ready = ready
        self._slots = slots
        self._policy = policy
        self._crash_tracker = crash_tracker
        self._expected_s = expected_s
        self._pauses = pauses
        self._fail = fail
        self._log = log
        self._retract = retract
        self._may_hold = not policy.stop_on_failure  # whose first failure stops the run at once

    def close(self) -> None:
        """Break the reference cycles; failures are no longer decided."""
        del self._undecided

    @property
    def next_wakeup(self) -> float:
        """When undecided failures must be looked at."""
        return self._undecided.next_look

    # -- ends of attempts -------------------------------------------------------------------------------

    def failed(
        self, task: int, rank: int, status: int, error: ErrorReport, duration: float, now: float, is_last: bool = False
    ) -> None:
        """An attempt of ``task`` has ended badly on ``rank``, after ``duration`` seconds.

        Args:
            is_last: whether it is not tried again, though it may have tries left.
        """
        has_died = status == DIED
        chance = self._chance(task, status, error)
        self.note(task, rank, has_died, now, chance)
        if has_died and task in self._crash_tracker.deaths:
            error = error._replace(message=self._crash_tracker.tell(task, f"on rank {rank}: {error.message}"))
        may_retry = self._crash_tracker.may_retry(task) if has_died else self._may_retry(task, chance)
        until = now + min(MAX_HOLD_S, max(MIN_HOLD_S, HOLD_CALLS * max(duration, self._expected_s(task))))
        if is_last or (chance == Chance.NEVER and not may_retry):
            self._fail_for_good(task, rank, error)
        elif may_retry:  # if the run is being stopped, in one that resumes it
            self._retry(task, rank, error, now)
            due = self._ready.deferred.get(task, now)
            self._pauses.doubt(task, min(now + MAX_HOLD_S, max(until, due + MIN_HOLD_S)))
        else:
            failure = self._undecided.failure(rank, error, chance, until)
            self._decide(task, failure, now)
        self._undecided.trials.pop(task, None)

    def _chance(self, task: int, status: int, error: ErrorReport) -> Chance:
        own = self._tasks.specs[task].retry_on
        return chance_of(status, error, self._policy.retry_on if own is None else own)

    def _delay_s(self, task: int) -> float:
        """Return how long the next try of ``task`` must wait, whose failure was noted."""
        own = self._tasks.specs[task].retry_delay_s
        delay_s = self._policy.retry_delay_s if own is None else own
        if not delay_s:
            return 0.0
        failures = max(1, self._tries.spent(task), self._crash_tracker.deaths.get(task, 0))
        return delay_before_retry(delay_s, failures, task, self._policy.seed)

    def defer(self, task: int, now: float) -> bool:
        """Have a READY task that failed wait for its next try, if it must; return whether it does."""
        delay_s = self._delay_s(task)
        if delay_s:
            self._ready.defer(task, now + delay_s)
        return bool(delay_s)

    def note(self, task: int, rank: int, has_died: bool, now: float, chance: Chance = Chance.ALWAYS) -> None:
        """An attempt of ``task`` failed on ``rank``: it spends a try, unless the rank is known to be bad."""
        self._tasks.ran_on.setdefault(task, []).append(rank)
        self.probe_ended(task, now, has_failed=True)
        self._spend(task, rank, has_died, chance)

    def probe_ended(self, task: int, now: float, has_failed: bool) -> None:
        """If ``task`` is a probe still, it has failed, or ended without a result."""
        if task in self.probation.probes:
            self.probation.came_back(task, now, has_failed)

    def died_with_rank(self, task: int, rank: int) -> None:
        """``rank`` died in a call of ``task``, as a child process might have, which may be the fault of its host."""
        self._spend(task, rank, True, Chance.ALWAYS)

    def _spend(self, task: int, rank: int, has_died: bool, chance: Chance) -> None:
        if has_died:
            self._crash_tracker.died(task)
        self._ready.avoid.note(task, rank)
        self._tries.spend(task, rank, has_died, chance)
        if chance == Chance.NEVER:
            return  # the function is to blame
        if rank not in self.probation.of_rank:
            self.evidence.fail(rank)
        elif self._has_elsewhere(task, rank):
            self._give_back([rank])

    def succeeded(self, task: int, rank: int, now: float) -> None:
        """A task succeeded on ``rank``; called only while some task has failed before, or is a probe."""
        self._crash_tracker.deaths.pop(task, None)  # it is no poison, should it have to run once more
        if task not in self.failed_on and task not in self.probation.probes:
            return
        term = self.probation.probes.get(task)
        if term is not None:
            self._end(term, "a probe succeeded there", now)
        # An attempt that was given back has spoken against its rank already.
        self._ready.avoid.besides.pop(task, None)
        failed_on = [each for each in self.failed_on.pop(task, ()) if self._tries.counts(task, each)]
        self._tries.clear_deaths(task)
        self._undecided.trials.pop(task, None)
        for begun in self.probation.judge(failed_on, rank, now):
            self._begin(begun)

    def copy(self, task: int, other: int) -> None:
        """``other`` is a part of ``task``: it failed as often, and on the same ranks."""
        self._tries.copy(task, other)
        self._undecided.copy(task, other)
        self._ready.avoid.copy(task, other)
        if task in self._tasks.ran_on:
            self._tasks.ran_on[other] = [*self._tasks.ran_on[task]]
        self._crash_tracker.copy(task, other)

    def forget(self, task: int) -> None:
        """Nothing is known of ``task`` any more: its number will stand for other work."""
        self._tries.forget(task)
        self._undecided.forget(task)
        self._ready.avoid.forget(task)

    def rank_lost(self, now: float) -> None:
        """A rank was lost: if only ranks on probation are left, they are as good as any."""
        if self.probation.terms and not self.probation.has_trusted():
            for term in [*self.probation.terms.values()]:
                self._end(term, "no other rank is left", now)

    # -- verdicts -----------------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Look at what is undecided, and end what is final or may be tried elsewhere."""
        if now < self._undecided.next_look:
            return
        for task, verdict in self._undecided.look(now, self._is_busy):
            failure = self._undecided.release(task)
            if verdict == Verdict.FINAL:
                self._fail_for_good(task, failure.rank, failure.error)
            else:
                self._pauses.doubt(task)
                self._ready.avoid.besides[task] = self._undecided.begin_trial(task, failure.rank)
                self._retry(task, failure.rank, failure.error)

    def stop(self) -> None:
        """The run is being stopped: what is undecided is final, and so are all later failures."""
        self._may_hold = False
        for task in [*self._ready.undecided]:
            if task in self._ready.undecided:  # else its array had too many failures, and was given up
                failure = self._undecided.release(task)
                self._fail_for_good(task, failure.rank, failure.error)

    def _decide(self, task: int, failure: Undecided, now: float) -> None:
        """A failure without tries left is final, unless it may turn out to be the fault of its rank or host."""
        is_open = self._may_hold and self._has_elsewhere(task, failure.rank)
        if is_open and self._undecided.verdict(task, failure, now, self._is_busy) != Verdict.FINAL:
            why = FailedAttempt(failure.error.kind, failure.error.message)
            self._tasks.move(task, Cause.UNDECIDED, failure.rank, why)
            self._undecided.add(task, failure, now)
            self._pauses.doubt(task, failure.until)
        else:
            self._fail_for_good(task, failure.rank, failure.error)

    def _may_retry(self, task: int, chance: Chance) -> bool:
        has_tries = self.tries_left(task) >= 0 and self._crash_tracker.may_retry(task)
        return has_tries and self._tries.has_chance(task, chance)

    def tries_left(self, task: int) -> int:
        """Return how often ``task`` may still be tried again after an exception; negative if it has failed for good."""
        limit = self._tasks.specs[task].max_retries
        return (self._policy.max_retries if limit is None else limit) - self._tries.used(task)

    def _retry(self, task: int, rank: int, error: ErrorReport, now: float | None = None) -> None:
        """``task``, which failed ``now``, is tried again after its delay, and holds nothing until then.

        It is tried again at once if ``now`` is None: it failed some time ago.
        """
        self._tasks.move(task, Cause.RETRY, rank, FailedAttempt(error.kind, error.message))
        if now is None or not self.defer(task, now):
            self.offer(task)

    def offer(self, task: int) -> None:
        """Offer a READY task that failed, and whose time has come."""
        if self._is_first_of_group(task):
            self._ready.rebind(task)
        self._tasks.requeue(task)

    def _is_first_of_group(self, task: int) -> bool:
        """Whether no other member of the collocated group of ``task`` runs or has run well."""
        group, state = self._tasks.specs[task].group, self._tasks.state
        if group is None:
            return False
        return all(state[each] not in (DISPATCHED, DONE) for each in self._ready.groups.members[group] if each != task)

    def _fail_for_good(self, task: int, rank: int, error: ErrorReport) -> None:
        self._ready.avoid.besides.pop(task, None)
        failed_on = self.failed_on.pop(task, [])
        if len({self._ledger.rank_states[each].host for each in failed_on}) > 1:
            self.evidence.confirm(failed_on)
        self._tries.forget(task)
        self._fail(task, Cause.ERROR, rank, error)

    def _may_run(self, task: int) -> bool:
        return self._tasks.state[task] in (READY, DISPATCHED)

    def _has_elsewhere(self, task: int, rank: int) -> bool:
        """Whether ``task`` could run on another rank that is not on probation than ``rank``: pins and groups win."""
        spec = self._tasks.specs[task]
        if isinstance(spec.pin, int) or spec.group is not None:
            return False
        if rank in self.probation.of_rank:
            return self._ledger.feasibility.is_left(self._ledger.request_class(spec.cost, None, spec.pin))
        return self._ready.class_elsewhere(task, spec.pin).plain is not None

    def _is_busy(self, host: str) -> bool:
        """Whether calls may still tell about ``host``, or about any for ""."""
        if self._ready.is_queued():
            return True
        if not host or self._pauses.paused:  # a paused array gives the host no further calls: others tell
            return bool(self._slots.in_flight)
        return any(slot.tasks for rank in self.evidence.hosts[host] for slot in self._slots.of_rank[rank])

    # -- probation ------------------------------------------------------------------------------------------

    def _begin(self, term: Term) -> None:
        self._log(term.ranks[0], ProbationBegun(term.place, tuple(sorted(term.ranks)), term.reason))
        self._give_back(term.ranks)
        for rank in term.ranks:
            self._retract(rank)
            self._ready.leave(rank)
        self._ready.reconsider()

    def _end(self, term: Term, why: str, now: float) -> None:
        self.probation.end(term, now)
        self._log(term.ranks[0], ProbationEnded(term.place, tuple(sorted(term.ranks)), why))
        self._ready.reconsider()

    def _give_back(self, ranks: Sequence[int]) -> None:
        """Attempts that failed on ``ranks`` do not count: what is undecided because of them is tried elsewhere."""
        for task, deaths in self._tries.give_back(ranks).items():
            if deaths:
                self._crash_tracker.forgive(task, deaths)
                self._log(ranks[0], Forgiven(task, deaths))
            self._pauses.trust(task)
            failure: Undecided | None = self._ready.undecided.get(task)
            if failure is not None and self._may_retry(task, failure.chance):
                self._undecided.release(task)
                self._retry(task, failure.rank, failure.error)
