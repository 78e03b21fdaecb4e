"""Leases of elements at one rank, as dialogues: parts, retractions, time-outs and ends."""

from __future__ import annotations

from handoff_mpi.messages import CRITICAL, DIED, INLINE_RESULT_NBYTES, KEEP_REMOTE, NORMAL, RAISED
from tests.worker.transcript import Dialogue, dispatch, lease, pressed, recall, report, stop, task

LARGE = INLINE_RESULT_NBYTES + 1


def begun(*leases, **options):
    rank = Dialogue(**options)
    assert rank.tell(0.0, dispatch(*leases)) == [f"call {leases[0][0]}#1 on slot 0"]
    return rank


def test_the_report_of_a_lease_is_sent_inline_at_any_size():
    rank = begun(lease(7, 0, 5, flags=KEEP_REMOTE))
    ended = rank.lease_ended(report([(0, 5)]), nbytes=LARGE)
    assert rank.tell(0.05, ended) == ["to 0: finished 7#1 ok with 0:5 ended"]
    assert rank.worker.held == {} and rank.is_idle


def test_the_next_lease_begins_when_one_has_ended():
    rank = begun(lease(7, 0, 5), lease(8, 5, 9))
    first = rank.lease_ended(report([(0, 3)], failed=[3, 4]))
    first.outcome.duration = 0.0002
    assert rank.tell(0.0002, first) == ["call 8#1 on slot 0"], "the reports of short ones gather"
    assert rank.tell(0.05, rank.lease_ended(report([(5, 9)]))) == [
        "to 0: finished 7#1 ok with 0:3 ended, 3:4 failed (ValueError), 4:5 failed (ValueError), 8#1 ok with 5:9 ended"
    ]


def test_a_lease_whose_inputs_cannot_be_decoded_has_raised():
    rank = begun(lease(7, 0, 5))
    assert rank.tell(0.05, rank.ended(status=RAISED)) == ["to 0: finished 7#1 raised (raised)"]


def test_parts_of_a_lease_that_lasts_are_taken_and_reported():
    rank = begun(lease(7, 0, 5))
    assert rank.worker.next_wakeup() == 0.1
    assert rank.tell(0.1) == ["take part of 7", "to 0: alive, 7#1 runs since 0"]
    assert rank.tell(0.1, rank.part_ended(report([(0, 2)]))) == ["to 0: part of 7#1: 0:2 ended"]
    assert rank.worker.next_wakeup() == 0.2
    assert rank.tell(0.2) == ["take part of 7"]
    assert rank.tell(0.25, rank.lease_ended(report([(2, 5)]))) == ["to 0: finished 7#1 ok with 2:5 ended"]


def test_parts_of_a_function_that_lasts_are_not_taken():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    assert rank.tell(0.1) == ["to 0: alive, 0#1 runs since 0"]
    assert rank.worker.next_wakeup() > 1


def test_a_lease_that_runs_is_stopped_when_it_is_retracted_and_one_that_waits_returns():
    rank = begun(lease(7, 0, 5), lease(8, 5, 9))
    assert rank.tell(0.0, recall((7, 1), (8, 1))) == ["to 0: returned 8#1", "stop 7"]
    assert rank.tell(0.0, recall((7, 1))) == [], "it is stopping"
    assert rank.tell(0.0, rank.part_ended(report([(0, 1)], left=[(2, 5)]))) == [
        "to 0: part of 7#1: 0:1 ended, 2:5 left"
    ]
    assert rank.tell(5.0, rank.lease_ended(report([(1, 2)]))) == ["to 0: finished 7#1 ok with 1:2 ended"]


def test_a_retraction_of_another_attempt_stops_nothing():
    rank = begun(lease(7, 0, 5))
    assert rank.tell(0.0, recall((7, 2))) == []


def test_a_function_that_runs_is_not_stopped():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    assert rank.tell(0.0, recall((0, 1))) == []


def test_leases_are_stopped_where_memory_gets_short():
    rank = begun(lease(7, 0, 5))
    assert rank.tell(0.01, pressed(CRITICAL)) == ["to 0: short of memory: so much is in use", "stop 7"]
    rank.tell(0.02, rank.lease_ended(report([(0, 1)], left=[(1, 5)])), pressed(NORMAL))
    assert rank.tell(0.03, dispatch(lease(7, 1, 5))) == ["call 7#1 on slot 0"]


def test_leases_are_stopped_when_the_run_ends_and_nothing_more_is_reported():
    rank = begun(lease(7, 0, 5))
    assert rank.tell(0.01, stop()) == ["stop 7", "to 0: bye", "leave with None"]
    assert rank.tell(0.01, rank.part_ended(report(left=[(1, 5)]))) == []


def test_a_part_that_comes_after_its_lease_has_ended_is_dropped():
    rank = begun(lease(7, 0, 5))
    part = rank.part_ended(report([(0, 1)]))
    rank.tell(0.01, rank.lease_ended(report([(1, 5)])))
    assert rank.tell(0.01, part) == []


# -- timeouts ---------------------------------------------------------------------------------------------


def test_a_timeout_is_that_of_each_element():
    rank = begun(lease(7, 0, 5, timeout_s=0.05))
    assert rank.worker.next_wakeup() == 0.05
    assert rank.tell(0.05, rank.element_begun(1, 0.03)) == []
    assert rank.worker.next_wakeup() == 0.08
    assert rank.tell(0.08) == ["kill slot 0"]
    assert rank.tell(0.09, rank.ended(status=DIED)) == ["to 0: finished 7#1 timed out (timeout) in 1"]


def test_an_element_that_ends_as_its_time_is_over_is_not_charged():
    rank = begun(lease(7, 0, 5, timeout_s=0.0625))
    rank.tell(0.04, rank.element_begun(0, 0.03125))
    assert rank.tell(0.09375) == ["kill slot 0"]
    assert rank.tell(0.09376, rank.element_begun(1, 0.09375)) == [], "the child was not killed"
    assert rank.worker.next_wakeup() == 0.1
    died = rank.ended(status=DIED)
    assert rank.tell(0.0938, died) == ["to 0: finished 7#1 died (died)"], "another death, not the time-out"


def test_a_lease_that_never_begins_its_first_element_times_out_as_a_whole():
    rank = begun(lease(7, 0, 5, timeout_s=0.05))
    assert rank.tell(0.05) == ["kill slot 0"]
    assert rank.tell(0.06, rank.ended(status=DIED)) == ["to 0: finished 7#1 timed out (timeout)"]


def test_the_timeout_of_the_first_element_counts_from_the_beginning_of_the_child():
    rank = begun(lease(7, 0, 5, timeout_s=0.05))
    assert rank.tell(0.05) == ["kill slot 0"]
    assert rank.tell(0.06, rank.begun()) == []
    assert rank.worker.next_wakeup() == 0.11
