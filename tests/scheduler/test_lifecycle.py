"""The table of transitions: each of its rows happens in some dialogue, and what is not in it cannot happen."""

from __future__ import annotations

import pytest

from handoff_mpi.arrays.links import Link
from handoff_mpi.messages import DEVICE_LOSS, OK, RAISED, ErrorReport, LeaseReport
from handoff_mpi.scheduler import (
    TRANSITIONS,
    Cause,
    Finished,
    RankLost,
    Refused,
    Restored,
    Retracted,
    State,
    Submitted,
    Unfetched,
    ValueLocation,
    ValueLost,
)
from tests.scheduler.test_linked_arrays import linked
from tests.scheduler.transcript import GPU, LONG, SHORT, Dialogue, array, done, elements, made, raised, ranks, task

WAITING, READY, DISPATCHED, DONE, FAILED, SKIPPED = State


def inputs_done(run):
    run.submit(task(), task(0))
    run.tell(1.0, done(1, 0))


def placed(run):
    run.submit(task())


def ok(run):
    run.submit(task())
    run.tell(1.0, done(1, 0))


def retry(run):
    run.submit(task())
    run.tell(1.0, raised(1, 0))


def rank_lost(run):
    run.submit(task())
    run.tell(1.0, RankLost(1, "it died"))


def device_lost(run):
    run.submit(task())
    run.tell(
        1.0,
        Finished(1, [(0, 1, RAISED, ErrorReport(DEVICE_LOSS, "it failed", devices=("GPU-a",)), 0, 0.0, LONG, False)]),
    )


def returned(run):
    run.submit(task())
    run.tell(1.0, Retracted(1, [(0, 1)]))


def input_lost_while_dispatched(run):
    run.submit(task(), task(0))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, Unfetched(1, 1, 1, [(0, [1])]))


def input_lost_while_ready(run):
    run.submit(task(), task(pin=2), task(0, pin=2))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, RankLost(1, "it died"))


def error(run):
    run.submit(task(max_retries=0))
    run.tell(1.0, raised(1, 0))


def undecided(run):
    run.submit(task(max_retries=0), task(), task())
    run.tell(1.0, raised(1, 0))


def error_that_was_undecided(run):
    undecided(run)
    run.tell(15.0)


def retry_of_what_was_undecided(run):
    run.submit(*[task(max_retries=0)] * 6)
    run.tell(1.0, done(2, 2), raised(1, 0, 1))
    run.tell(2.0, raised(1, 4, 5))


def given_up(run):
    run.submit(task(cost=GPU))


def value_lost(run):
    run.submit(task(keep=True))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, RankLost(1, "it died"))


def input_failed_while_waiting(run):
    run.submit(task(max_retries=0), task(0))
    run.tell(1.0, raised(1, 0))


def input_failed_while_ready(run):
    """While task 0 is made again, its consumer is refused by the tracker; then task 0 fails."""
    run.submit(task(max_retries=1), task(0))
    run.tell(1.0, raised(1, 0))
    run.tell(2.0, made(2, (0, 2)))
    run.tell(3.0, RankLost(2, "it died"))
    run.tell(4.0, Refused(1, 1, "full"), raised(1, (0, 3)))


def restored(run):
    run.tell(0.0, Submitted([task(), task(0)], {0: ValueLocation.HOME}))


def restored_while_ready(run):
    """An array waits for elements of another one alone, and is taken over late with some of them, or none."""
    run.submit(task(), array(2, 0), linked(2, Link(1, range(2))))
    run.tell(1.0, Restored({1: [(0, 2)]}, {1: ValueLocation.HOME, 2: ValueLocation.NOWHERE}))


def sent_ahead(run):
    run.submit(task(), task(0), task(1))
    run.tell(0.0, done(1, 0, lasted=SHORT))


def elements_done(run):
    run.submit(array(1))
    run.tell(1.0, elements(1, 1))


def elements_done_while_waiting(run):
    run.submit(task(), array(0, 0))


def given_up_while_waiting(run):
    """The last element fails while an input of the array is made again, for which other calls wait."""
    run.submit(task(), array(1, 0, pin=2), task(0, pin=2))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, RankLost(1, "it died"))
    run.tell(3.0, elements(2, 3, error=ErrorReport("TypeError", "oops", lineage=("TypeError",))))


def element_failed(rank, lease, element, kind):
    """A lease of one element has ended, which raised."""
    report = LeaseReport((), None, ((((element, element + 1),), ErrorReport(kind, "oops", lineage=(kind,))),))
    return Finished(rank, [(lease, 1, OK, report, 8, 0.0, SHORT, False)])


def dropped(run):
    """An element waits for its retry when another one fails for good, which ends the array."""
    run.submit(array(2, max_failures=0, retry_delay_s=50.0))
    run.tell(1.0, element_failed(1, 1, 0, "ValueError"))
    run.tell(2.0, element_failed(1, 2, 1, "TypeError"))


def dropped_while_waiting(run):
    """As above, while the value of task 0 is made again, which the elements take."""
    run.submit(task(), array(3, 0, max_failures=0))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, element_failed(2, 4, 2, "ValueError"), ValueLost(0, [1, 2]))
    run.tell(3.0, element_failed(1, 2, 0, "TypeError"))


STORIES = {
    (WAITING, Cause.INPUTS_DONE): inputs_done,
    (READY, Cause.PLACED): placed,
    (WAITING, Cause.SENT_AHEAD): sent_ahead,
    (DISPATCHED, Cause.OK): ok,
    (DISPATCHED, Cause.RETRY): retry,
    (DISPATCHED, Cause.UNDECIDED): undecided,
    (READY, Cause.RETRY): retry_of_what_was_undecided,
    (DISPATCHED, Cause.RANK_LOST): rank_lost,
    (DISPATCHED, Cause.DEVICE_LOST): device_lost,
    (DISPATCHED, Cause.RETRACTED): returned,
    (DISPATCHED, Cause.INPUT_LOST): input_lost_while_dispatched,
    (READY, Cause.INPUT_LOST): input_lost_while_ready,
    (DISPATCHED, Cause.ERROR): error,
    (READY, Cause.ERROR): error_that_was_undecided,
    (READY, Cause.GIVEN_UP): given_up,
    (DONE, Cause.VALUE_LOST): value_lost,
    (WAITING, Cause.INPUT_FAILED): input_failed_while_waiting,
    (READY, Cause.INPUT_FAILED): input_failed_while_ready,
    (WAITING, Cause.RESTORED): restored,
    (READY, Cause.RESTORED): restored_while_ready,
    (READY, Cause.ELEMENTS_DONE): elements_done,
    (WAITING, Cause.ELEMENTS_DONE): elements_done_while_waiting,
    (WAITING, Cause.GIVEN_UP): given_up_while_waiting,
    (READY, Cause.DROPPED): dropped,
    (WAITING, Cause.DROPPED): dropped_while_waiting,
}


def named(row):
    return f"{row[0].name}-{row[1].name}"


@pytest.mark.parametrize("row", TRANSITIONS, ids=named)
def test_each_row_of_the_table_happens_in_some_run(row):
    run = Dialogue(ranks(2, 1))
    STORIES[row](run)
    assert (*row, TRANSITIONS[row]) in run.moves


def test_what_failed_or_was_skipped_stays_so_and_what_is_done_is_only_made_again():
    out_of = {state: {cause for before, cause in TRANSITIONS if before == state} for state in State}
    assert {state for state in State if state.is_final} == {DONE, FAILED, SKIPPED}
    assert (out_of[DONE], out_of[FAILED], out_of[SKIPPED]) == ({Cause.VALUE_LOST}, set(), set())


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_state_is_reached_and_is_no_trap(state):
    assert state in reachable(WAITING)
    assert any(each.is_final for each in reachable(state))


def reachable(state):
    found = [state]
    for each in found:
        found += {then for (before, _), then in TRANSITIONS.items() if before == each and then not in found}
    return found


@pytest.mark.parametrize("state", [state for state in State if state != READY], ids=lambda state: state.name)
def test_the_impossible_raises_and_tells_the_tasks_story(state):
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task())
    run.tell(1.0, raised(1, 0))
    run.scheduler.tasks.state[0] = state  # behind the scheduler's back: it waits to be placed on rank 2
    story = rf"task 0 cannot continue from {state.name} by PLACED: attempt 2, rank 2, ran on \[1\]"
    with pytest.raises(AssertionError, match=story):
        run.scheduler.handle([done(2, 1)], 2.0)
