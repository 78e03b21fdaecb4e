"""Functions that wait for the user's resource tracker."""

from __future__ import annotations

import pytest

from handoff_mpi.allocation import FirstAvailable, Ledger
from handoff_mpi.messages import REFUSED
from handoff_mpi.resources import Capability
from handoff_mpi.scheduler import (
    Closed,
    Dispatch,
    Policy,
    Refused,
    ResourcesUpdated,
    Scheduler,
    StopRequested,
    Submitted,
)
from handoff_mpi.scheduler.refusals import MAX_ASKED, MAX_POLL_S, MAX_TRACKER_ERRORS
from handoff_mpi.simulation import check
from tests.scheduler.transcript import Dialogue, cpus, done, ranks, task


class Tracked:
    """A scheduler whose placements ``grants(rank)`` allows or not; calls end when the test ends them.

    Attributes:
        asked: the ranks that the tracker was asked for, in order.
        running: ``(rank, task, attempt)`` of the calls that were granted.
    """

    def __init__(self, ledger, grants, specs, strategy=None, **policy):
        self.scheduler = Scheduler(ledger, strategy or FirstAvailable(), Policy(window=1, **policy))
        self.grants = grants
        self.asked = []
        self.running = []
        self.now = 0.0
        self.tell(Submitted(specs), Closed())

    def tell(self, *events):
        while True:
            commands = self.scheduler.handle(events, self.now)
            check(self.scheduler)
            self.scheduler.tasks.take_log()
            events = [event for each in commands if isinstance(each, Dispatch) for event in self._ask(each)]
            if not events:
                return

    def _ask(self, dispatch):
        for number, attempt in dispatch.tasks:
            self.asked.append(dispatch.rank)
            answer = self.grants(dispatch.rank)
            if answer is True:
                self.running.append((dispatch.rank, number, attempt))
            else:
                yield Refused(number, attempt, "no licence", answer == "broken")

    def go_on(self, until):
        """Wake up whenever the scheduler wants to, until then."""
        while self.scheduler.next_wakeup() <= until and not self.scheduler.is_over:
            self.now = max(self.now, self.scheduler.next_wakeup())
            self.tell()
        self.now = until

    def end(self, *calls):
        for call in calls or [*self.running]:
            self.running.remove(call)
            self.tell(done(call[0], call[1:]))

    @property
    def why(self):
        return {number: failure.message for number, failure in self.scheduler.tasks.failures.items()}


def test_a_function_that_is_offered_on_a_rank_whose_resources_are_withdrawn_runs_elsewhere():
    """It waits for the only concurrent call to end when rank 2 has no cores any more."""
    answers = iter([False, False])
    specs = [task(cost=cpus(1)), task(cost=cpus(2))]
    run = Tracked(ranks(2, 2), lambda rank: next(answers, True), specs, max_concurrency=1)
    run.go_on(1.0)
    (_, other, _), *_ = run.running
    assert other == 1 and run.scheduler.ready.offered == {0}
    (rank,) = [queue.cost.rank for queue in run.scheduler.ready.all_queues() if queue.tasks]
    run.tell(ResourcesUpdated(rank, cpus(0)))
    run.end()
    assert [number for _, number, _ in run.running] == [0] and run.asked[-1] != rank


@pytest.mark.long
def test_a_refused_function_waits_for_as_long_as_it_takes_and_others_run_meanwhile():
    run = Tracked(ranks(1), lambda rank: False, [task()], heartbeat_timeout_s=1e9)
    run.go_on(36_000.0)
    assert run.scheduler.status == "running"
    assert run.scheduler.slots.in_flight == 0
    assert len(run.asked) <= 36_000 / MAX_POLL_S + 10, "it is asked at a bounded interval"
    assert len(run.asked) >= 36_000 / MAX_POLL_S - 10
    run.grants = lambda rank: True
    run.go_on(36_000.0 + 2 * MAX_POLL_S)
    assert run.running == [(1, 0, 1)], "what was refused was no attempt"
    run.end()
    assert run.scheduler.status == "done"


@pytest.mark.long
def test_of_many_that_ask_for_the_same_a_few_are_asked_for_each_time():
    run = Tracked(ranks(4), lambda rank: False, [task()] * 1000 + [task(cost=cpus(2))] * 1000, heartbeat_timeout_s=1e9)
    begun = len(run.asked)
    assert begun <= 2 * (4 + MAX_ASKED)
    run.go_on(100 * MAX_POLL_S)
    assert len(run.asked) - begun <= 2 * 110
    run.grants = lambda rank: True
    for _ in range(3000):
        run.go_on(run.now + MAX_POLL_S if not run.running else run.now)
        run.end()
        if run.scheduler.is_over:
            break
    assert run.scheduler.status == "done"


def test_one_licence_is_used_all_the_time():
    run = Tracked(ranks(4), lambda rank: False, [task()] * 50, heartbeat_timeout_s=1e9)
    run.grants = lambda rank: not run.running
    while not run.scheduler.is_over:
        run.go_on(run.now + 2 * MAX_POLL_S)
        assert len(run.running) == 1
        run.end()
    assert len(run.asked) <= 50 * 30
    assert run.scheduler.status == "done"


@pytest.mark.parametrize("granting", [1, 3, 20])
def test_a_rank_that_is_granted_is_found(granting):
    run = Tracked(ranks(*[1] * 20), lambda rank: rank == granting, [task()] * 3, heartbeat_timeout_s=1e9)
    for _ in range(3):
        run.go_on(run.now + 4 * MAX_POLL_S)
        assert [rank for rank, _, _ in run.running] == [granting]
        run.end()
    assert run.scheduler.status == "done"


def test_other_functions_run_while_one_waits():
    licence = {"cpu": 0, "licence": 10_000}
    ledger = Ledger([Capability(1, "h", {**cpus(1), "licence": 10_000})], {1: 1})
    run = Dialogue(ledger)
    run.submit(task(cost=licence), task())
    assert run.tell(0.0, Refused(0, 1, "full")) == ["1.0 claims for 1#1"]
    assert run.log[0] == "0#1 READY by RETRACTED on 1: full"
    again = run.scheduler.next_wakeup()
    assert 0.0 <= again < 1.0
    run.tell(1.0, done(1, 1))
    assert run.tell(2.0) == []
    assert run.states == "DISPATCHED DONE"


def test_a_slot_whose_dispatch_was_refused_is_sent_its_claim_with_the_next():
    run = Dialogue(ranks(1))
    assert run.submit(task(), task(cost={})) == ["1.0 claims for 0#1"]
    assert run.tell(0.0, Refused(0, 1, "full")) == ["1.0 claims for 1#1"]


def test_a_limit_fails_what_has_waited_for_longer():
    run = Tracked(
        ranks(1), lambda rank: False, [task(), task(0), task()], tracker_timeout_s=60.0, heartbeat_timeout_s=1e9
    )
    run.go_on(59.0)
    assert run.why == {}
    run.go_on(70.0)
    assert set(run.why) == {0, 2}
    assert run.why[0] == "the resource tracker has refused it for 60.0 s (tracker_timeout), last on rank 1: no licence"
    assert run.scheduler.tasks.failures[0].kind == REFUSED
    assert run.scheduler.status == "failed"


def test_a_tracker_that_fails_instead_of_answering_is_asked_a_few_times():
    run = Tracked(ranks(1, 1), lambda rank: "broken", [task()] * 100)
    run.go_on(10.0)
    assert run.scheduler.status == "failed"
    assert len(run.asked) <= MAX_TRACKER_ERRORS + 1
    assert len(run.why) == 100
    assert f"failed {MAX_TRACKER_ERRORS} times in a row" in run.why[99]


def test_a_tracker_that_fails_now_and_then_fails_nothing():
    answers = iter(["broken", "broken", False] * 50 + [True] * 50)
    run = Tracked(ranks(1), lambda rank: next(answers), [task()], heartbeat_timeout_s=1e9)
    run.go_on(1000.0)
    run.end()
    assert run.scheduler.status == "done"


def test_a_run_that_is_stopped_asks_no_more():
    run = Tracked(ranks(2), lambda rank: False, [task()] * 3)
    run.tell(StopRequested("enough"))
    assert run.scheduler.is_over
    asked = len(run.asked)
    run.tell()
    assert len(run.asked) == asked
    assert run.scheduler.next_wakeup() > run.now


def test_a_slow_tracker_does_not_take_all_of_rank_0s_time():
    run = Dialogue(ranks(1))
    run.submit(task())
    assert run.tell(0.0, Refused(0, 1, "no", seconds=3.0)) == []
    assert run.scheduler.next_wakeup() >= 25.0


class Stubborn:
    """Places on rank 2 alone, by the first group there."""

    def allocate(self, ready, view):
        for group in ready:
            while len(group) and view.fits(group.cost, 2):
                yield group[0], 2


def test_a_strategy_that_has_its_own_will_keeps_it():
    answers = iter([False] * 5 + [True] * 5)
    run = Tracked(ranks(1, 1), lambda rank: next(answers), [task()] * 2, Stubborn(), heartbeat_timeout_s=1e9)
    for _ in range(2):
        run.go_on(run.now + 20.0)
        assert [rank for rank, _, _ in run.running] == [2]
        run.end()
    assert run.scheduler.status == "done"
