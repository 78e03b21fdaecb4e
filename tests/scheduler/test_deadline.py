"""The scheduler does not start tasks that cannot finish before the deadline of the run."""

from __future__ import annotations

from handoff_mpi.allocation import FirstAvailable, Ledger
from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import OK
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import Closed, Dispatch, Finished, Policy, Scheduler, Submitted
from handoff_mpi.simulation import check

CPU = {"cpu": UNIT}


def sent(commands):
    return [task for command in commands if isinstance(command, Dispatch) for task, _ in command.tasks]


def make(*specs, stop_at):
    ledger = Ledger([Capability(1, "h", {"cpu": 2 * UNIT})], {1: 1})
    scheduler = Scheduler(ledger, FirstAvailable(), Policy(stop_at=stop_at))
    return scheduler, scheduler.handle([Submitted(specs), Closed()], 0.0)


def finish(scheduler, task, now, duration):
    commands = scheduler.handle([Finished(1, [(task, 1, OK, (0, None), 8, now - duration, duration, False)])], now)
    check(scheduler)
    return commands


def test_what_is_known_to_take_too_long_is_left_and_the_run_stops():
    scheduler, commands = make(*[TaskSpec((), CPU, code=0)] * 3, stop_at=25.0)
    assert sent(commands) == [0]
    assert sent(finish(scheduler, 0, 10.0, 10.0)) == [1]
    assert sent(finish(scheduler, 1, 20.0, 10.0)) == []
    assert scheduler.is_over
    assert scheduler.status == "stopped"
    assert "time" in scheduler.stopping


def test_what_is_short_still_starts():
    long, short = TaskSpec((), CPU, code=0), TaskSpec((), CPU, code=1)
    scheduler, commands = make(long, short, long, short, stop_at=25.0)
    assert sent(commands) == [0]
    assert sent(finish(scheduler, 0, 10.0, 10.0)) == [1]
    assert sent(finish(scheduler, 1, 11.0, 1.0)) == [2]
    assert sent(finish(scheduler, 2, 21.0, 10.0)) == [3]
    finish(scheduler, 3, 22.0, 1.0)
    assert scheduler.status == "done"
