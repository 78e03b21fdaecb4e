"""Failures that are held: a function that is tried elsewhere keeps others waiting only while it may still run."""

from __future__ import annotations

from handoff_mpi.scheduler import Closed, Submitted, ValueLost
from tests.scheduler.test_avoidance import hosts
from tests.scheduler.transcript import Dialogue, done, made, raised, task


def trials_that_are_skipped():
    """Three functions that failed on host a are tried elsewhere and skipped; a fourth fails there, and has its turn.

    All calls on rank 1, the only one of host a, fail; no function has a try left.
    """
    run = Dialogue(hosts("abb"), max_retries=0)
    run.submit(task(pin=3), closed=False)
    run.tell(1.0, made(3, 0))
    # 1, 2 and 3 take the value of 0; 4 does not. 5 to 9 keep rank 2 busy, 10 to 14 rank 3.
    urgent = [task(pin=rank, priority=1) for rank in (2, 3) for _ in range(5)]
    run.tell(1.0, Submitted([task(0), task(0), task(0), task(), *urgent]), Closed())
    for now in (2, 3, 4):
        run.tell(float(now), raised(1, now - 1), done(2, now + 3), done(3, now + 8))
    assert [f"{each}#1 READY by RETRY on 1: ('ValueError', 'oops')" in run.log for each in (1, 2, 3)] == [True] * 3
    run.tell(5.0, done(2, 8), done(3, 13), ValueLost(0, [3]))
    assert run.tell(6.0, done(2, 9), done(3, 14)) == ["3.0 claims for 0#2"]
    run.tell(7.0, raised(3, (0, 2)))
    assert run.states.split()[:5] == ["FAILED", "SKIPPED", "SKIPPED", "SKIPPED", "DISPATCHED"]
    run.tell(8.0, raised(1, 4))
    assert run.log == ["4#1 READY by UNDECIDED on 1: ('ValueError', 'oops')"]
    assert run.tell(9.0) == ["2.0 claims for 4#2"], "no other trial is left, so this one has its turn"
    run.tell(10.0, done(2, (4, 2)))
    assert run.status == "failed"


def test_a_skipped_trial_keeps_no_other_waiting():
    trials_that_are_skipped()
