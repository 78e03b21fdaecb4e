"""The table of ranks: which changes each state allows, and which events they become for the scheduler."""

from __future__ import annotations

import itertools
import re

import pytest

from handoff_mpi import membership as module
from handoff_mpi.membership import TRANSITIONS, Change, Membership, MemberState
from handoff_mpi.scheduler import RankLost, RankReturned, RankSuspected, RankUnreachable

ALIVE, SUSPECT, UNREACHABLE, LOST, LEFT = MemberState
LIMIT_S = 80.0
#: The changes that lead from ALIVE to each state.
WAYS = {
    ALIVE: (),
    SUSPECT: (Change.SILENCE,),
    UNREACHABLE: (Change.SILENCE, Change.TIMEOUT),
    LOST: (Change.LOSS,),
    LEFT: (Change.GOODBYE,),
}


def table(*ranks):
    """A table of ``ranks`` that has looked once, at the time 0."""
    membership = Membership()
    assert membership.begin_run(ranks, LIMIT_S) == []
    assert membership.look(0.0) == ([], [])
    return membership


def in_state(state):
    """A table whose rank 1 is in ``state``."""
    membership = table(1)
    for change in WAYS[state]:
        membership.move(1, change)
    assert membership.state(1) is state
    return membership


# -- the table of transitions -----------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "change"), [*itertools.product(MemberState, Change)])
def test_a_change_is_made_as_the_table_says_or_refused(state, change):
    membership = in_state(state)
    then = TRANSITIONS.get((state, change))
    if then is None:
        with pytest.raises(AssertionError, match=f"rank 1 is {state.value}"):
            membership.move(1, change)
        assert membership.state(1) is state
    else:
        membership.move(1, change)
        assert membership.state(1) is then
    assert membership.lost == ({1} if membership.state(1) is LOST else set())


def test_nothing_leaves_lost():
    assert not [change for state, change in TRANSITIONS if state is LOST]


def test_the_docstring_shows_the_transitions():
    rows = re.findall(r"^([A-Z, ]+?)  +([A-Z_]+)  +([A-Z]+)\b", module.__doc__, re.MULTILINE)
    shown = {
        (MemberState[state], Change[change]): MemberState[then]
        for states, change, then in rows
        for state in states.split(", ")
    }
    assert shown == TRANSITIONS


# -- silence ------------------------------------------------------------------------------------------------


def test_a_silent_rank_is_suspect_at_half_the_limit_and_unreachable_at_the_limit():
    membership = table(1, 2)
    membership.hear([2], 40.0)
    assert membership.look(40.0) == ([], [])
    assert membership.look(50.0) == ([RankSuspected(1, "silent for 50 s")], [1])
    membership.hear([2], 80.0)
    assert membership.look(80.0) == ([], [1]), "its process is checked again"
    assert membership.look(81.0) == ([RankUnreachable(1, "silent for 81 s")], [])
    assert membership.look(99.0) == ([], []), "it is no longer looked at"
    assert membership.hear([1, 2], 100.0) == [RankReturned(1)]
    assert membership.state(1) is ALIVE
    assert membership.hear([1], 101.0) == []


def test_a_look_that_comes_late_finds_both_changes():
    membership = table(1)
    assert membership.look(90.0) == ([RankSuspected(1, "silent for 90 s"), RankUnreachable(1, "silent for 90 s")], [])


def test_the_silence_of_a_rank_that_was_found_alive_counts_from_then_on():
    membership = table(1)
    assert membership.look(50.0).unclear == [1]
    membership.find_alive(1, 51.0)
    assert membership.look(91.0) == ([], [])
    assert membership.look(110.0) == ([], [1])
    assert membership.state(1) is SUSPECT
    assert membership.look(132.0) == ([RankUnreachable(1, "silent for 132 s")], [])


def test_a_rank_that_is_heard_of_in_time_is_never_looked_at():
    membership = table(1)
    for now in range(0, 400, 30):
        assert membership.hear([1], float(now)) == []
        assert membership.look(float(now)) == ([], [])


def test_a_look_is_due_eight_times_in_the_limit():
    membership = Membership()
    membership.begin_run([1], LIMIT_S)
    assert membership.next_check == 0.0
    membership.look(5.0)
    assert membership.next_check == 15.0
    membership.hear([1], 12.0)
    assert membership.next_check == 15.0


# -- the ends of ranks --------------------------------------------------------------------------------------


def test_a_loss_becomes_one_event():
    membership = table(1)
    assert membership.lose(1, "it died", with_its_host=True) == [RankLost(1, "it died", True)]
    assert membership.lose(1, "it was killed") == []
    assert membership.lost == {1}


@pytest.mark.parametrize("state", [ALIVE, SUSPECT, UNREACHABLE, LEFT])
def test_a_rank_can_be_lost_in_any_state(state):
    membership = in_state(state)
    assert membership.lose(1, "it died") == [RankLost(1, "it died")]
    assert membership.look(500.0) == ([], [])


def test_a_rank_that_has_left_or_is_lost_is_not_awaited():
    membership = table(1, 2, 3)
    membership.leave(1)
    membership.leave(1)
    membership.lose(2, "it died")
    membership.leave(2)
    assert membership.state(2) is LOST
    assert membership.awaited([1, 2, 3, 4]) == {3, 4}, "a rank that computes nothing is awaited as well"


def test_the_end_of_the_run_gives_up_what_is_unreachable():
    membership = table(1, 2)
    membership.hear([2], 50.0)
    membership.look(90.0)
    assert (membership.state(1), membership.state(2)) == (UNREACHABLE, ALIVE)
    membership.look(95.0)
    membership.end_run()
    assert membership.lost == {1}
    assert membership.state(2) is SUSPECT


# -- one run after the other --------------------------------------------------------------------------------


def test_the_next_run_begins_with_all_that_are_not_lost():
    membership = table(1, 2, 3, 4)
    membership.hear([1, 2, 3], 60.0)
    membership.look(90.0)
    membership.leave(1)
    membership.lose(2, "it died")
    membership.look(101.0)
    assert [membership.state(rank) for rank in (1, 2, 3, 4)] == [LEFT, LOST, SUSPECT, UNREACHABLE]
    assert membership.begin_run([3, 1, 4], LIMIT_S) == []
    assert [membership.state(rank) for rank in (1, 2, 3, 4)] == [ALIVE, LOST, ALIVE, ALIVE]
    assert (membership.heard, membership.next_check) == ({}, 0.0)
    assert membership.look(500.0) == ([], []), "their silence counts from the first look"
    assert [each.rank for each in membership.look(545.0).events] == [3, 1, 4]


def test_a_rank_that_was_lost_since_the_run_was_planned_is_told_of_at_once():
    membership = Membership()
    assert membership.lose(2, "it died") == [RankLost(2, "it died")], "between two runs"
    assert membership.begin_run([1, 2], LIMIT_S) == [RankLost(2, "it was lost before the run began")]
