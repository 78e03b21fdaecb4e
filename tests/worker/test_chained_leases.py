"""Leases that take the values of others of their slot, as dialogues: when they begin, and when they go back."""

from __future__ import annotations

import pytest

from handoff_mpi.arrays.columns import TAKEN, held, pack
from handoff_mpi.arrays.inputs import values_of
from handoff_mpi.messages import DIED, RAISED, LeaseReport
from tests.worker.transcript import Dialogue, dispatch, lease, recall, report


def follower(number, leader, start, stop, first=0):
    """An assignment of elements that take the values of lease ``leader`` from position ``first`` on."""
    *assignment, _ = lease(number, start, stop)
    return (*assignment, (((start, stop),), ((((TAKEN, stop - start, leader, first),),),), 0))


def begun(*leases, slots=1):
    rank = Dialogue(slots=slots)
    assert rank.tell(0.0, dispatch(*leases)) == [f"call {leases[0][0]}#1 on slot 0"]
    return rank


def with_values(start, values):
    return LeaseReport(((start, start + len(values)),), pack(values), (), (), 1.0)


def elements_of(rank, slot=0):
    """The elements that the call of a slot takes."""
    ((start, stop),), ((piece,),), _ = rank.calls[slot].elements
    return values_of(piece, 0, stop - start)


def test_a_lease_begins_with_the_values_of_the_one_that_it_follows():
    rank = begun(lease(7, 0, 3), follower(8, 7, 0, 3), lease(9, 3, 5), follower(10, 9, 3, 5))
    assert rank.tell(0.0002, rank.lease_ended(with_values(0, [5, 6, 7])))[0] == "call 8#1 on slot 0"
    assert elements_of(rank) == [5, 6, 7]
    assert rank.tell(0.0004, rank.lease_ended(with_values(0, [1, 1, 1])))[0] == "call 9#1 on slot 0"
    rank.tell(0.0006, rank.lease_ended(with_values(3, [8, 9])))
    assert elements_of(rank) == [8, 9] and rank.calls[0].task == 10


def test_values_that_were_reported_before_count():
    rank = begun(lease(7, 0, 4), follower(8, 7, 0, 2, first=1))
    assert rank.tell(0.1, rank.part_ended(with_values(0, ["a", "b"])))
    rank.tell(0.2, rank.part_ended(LeaseReport((), pack([]))))
    rank.tell(0.3, rank.lease_ended(with_values(2, [3, None])))
    assert rank.calls[0].task == 8 and elements_of(rank) == ["b", 3]


def test_a_chain_of_three_runs_in_its_order():
    rank = begun(lease(7, 0, 1), follower(8, 7, 0, 1), follower(9, 8, 0, 1))
    rank.tell(0.0002, rank.lease_ended(with_values(0, [1])))
    rank.tell(0.0004, rank.lease_ended(with_values(0, [2])))
    assert rank.calls[0].task == 9 and elements_of(rank) == [2]


@pytest.mark.parametrize("how", ["failed", "left", "raised", "died"])
def test_what_follows_a_lease_that_does_not_end_whole_goes_back_behind_its_report(how):
    rank = begun(lease(7, 0, 4), follower(8, 7, 0, 4), follower(9, 8, 0, 4), lease(10, 4, 5))
    ends = {
        "failed": lambda: rank.lease_ended(report([(0, 3)], failed=[3])),
        "left": lambda: rank.lease_ended(report([(0, 3)], left=[(3, 4)])),
        "raised": lambda: rank.ended(status=RAISED),
        "died": lambda: rank.ended(status=DIED),
    }
    said = rank.tell(0.0002, ends[how]())
    assert said[0].startswith("to 0: finished 7#1 ")
    assert said[1:] == ["to 0: returned 8#1 9#1", "call 10#1 on slot 0"]


def test_a_lease_that_is_retracted_takes_those_with_it_that_follow():
    rank = begun(lease(6, 0, 1), lease(7, 1, 4), follower(8, 7, 1, 4), follower(9, 8, 1, 4))
    assert rank.tell(0.0, recall((7, 1))) == ["to 0: returned 7#1 8#1 9#1"]
    rank.tell(0.0002, rank.lease_ended(report([(0, 1)])))
    assert rank.is_idle


def test_a_lease_that_is_retracted_alone_leaves_the_one_that_it_follows():
    rank = begun(lease(7, 0, 3), follower(8, 7, 0, 3))
    assert rank.tell(0.0, recall((8, 1))) == ["to 0: returned 8#1"]
    said = rank.tell(0.05, rank.lease_ended(report([(0, 3)])))
    assert said == ["to 0: finished 7#1 ok with 0:3 ended"] and rank.is_idle


def test_a_lease_whose_leader_is_not_here_goes_back():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(follower(8, 7, 0, 3))) == ["to 0: returned 8#1"]
    assert rank.is_idle


def test_rank_0_gets_the_values_at_once_that_a_lease_takes_however_short_the_one_was_that_made_them():
    rank = begun(lease(7, 0, 3), follower(8, 7, 0, 3))
    event = rank.lease_ended(report([(0, 3)]))
    event.outcome.duration = 0.0
    assert rank.tell(0.0, event) == ["call 8#1 on slot 0", "to 0: finished 7#1 ok with 0:3 ended"]


def test_objects_of_this_process_go_on_as_they_are_where_nothing_can_change_them():
    rank = begun(lease(7, 0, 2), follower(8, 7, 0, 2))
    event = rank.lease_ended(with_values(0, [1 << 40, 2]))
    values = [1 << 40, 2]
    event.outcome.column = held(values)
    rank.tell(0.0, event)
    assert elements_of(rank)[0] is values[0]
