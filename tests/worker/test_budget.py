"""A value is counted before it comes into a rank's memory, and values leave memory for it."""

from __future__ import annotations

import pytest

from handoff_mpi.messages import DIED, HIGH, ISOLATE, RAISED, TIMED_OUT
from handoff_mpi.worker import held_values
from handoff_mpi.worker.spilling import PORTION_COUNT, choose_spilled
from tests.worker.transcript import (
    Dialogue,
    absent,
    arrives,
    dispatch,
    fetch,
    forget,
    lost,
    pressed,
    recall,
    task,
    value,
)

KB = 1000


def holding(*numbers, nbytes=100 * KB, room=None, can_spill=True, **options):
    """A rank that has made some values, and that measures then how much may come."""
    rank = Dialogue(**{"slots": 2, **options})
    for number in numbers:
        rank.tell(0.0, dispatch(task(number)))
        rank.tell(0.0, rank.ended(nbytes=nbytes))
    if room is not None:
        rank.worker.budget.measured(room, can_spill)
    return rank


def moves(lines):
    """The lines that say which values leave memory."""
    return [line for line in lines if line.startswith(("drop", "spill"))]


def expect(rank, nbytes):
    return [f"{type(command).__name__.lower()} {command.task}" for command in rank.worker.expect(nbytes)]


# -- results --------------------------------------------------------------------------------------------


def test_values_leave_memory_before_a_call_whose_result_does_not_fit():
    rank = holding(0, 1, room=150 * KB)
    assert rank.tell(1.0, dispatch(task(2))) == ["call 2#1 on slot 0"]
    lines = rank.tell(1.0, dispatch(task(3), slot=1))
    assert lines == ["spill 0", "call 3#1 on slot 1"], "two results are expected by now"


def test_values_that_no_call_needs_are_dropped_before_others_are_moved_out():
    rank = holding(0, 1, 2, room=50 * KB)
    rank.tell(1.0, forget(1))
    assert rank.tell(1.0, dispatch(task(3)))[:1] == ["drop 1"]


def test_a_larger_result_than_expected_makes_room_afterwards_and_is_expected_next():
    rank = holding(0, 1, 2, room=150 * KB)
    rank.tell(1.0, dispatch(task(3), task(4)))
    lines = rank.tell(1.0, rank.ended(nbytes=200 * KB))
    assert moves(lines) == ["spill 3", "spill 0"], "the next result is expected to be as large, and 3 is the largest"


@pytest.mark.parametrize("status", [RAISED, DIED, TIMED_OUT])
def test_a_call_that_failed_promises_nothing_any_more(status):
    rank = holding(0, room=150 * KB)
    for number in range(1, 5):
        rank.tell(1.0, dispatch(task(number)))
        assert moves(rank.tell(1.0, rank.ended(status=status))) == []


def test_a_call_whose_input_is_missing_promises_nothing_any_more():
    rank = holding(0, 1, room=150 * KB)
    for number in range(2, 6):
        assert moves(rank.tell(1.0, dispatch(task(number, value(9 + number, 1))))) == []
        rank.tell(1.0, dispatch(task(20 + number, value(0, 1))))
        assert moves(rank.tell(1.0, rank.missing(9 + number))) == []


def test_inputs_that_are_copied_for_a_child_are_counted_and_those_in_files_too():
    rank = holding(0, 1, 2, room=150 * KB)
    assert moves(rank.tell(1.0, dispatch(task(3, value(0, 1))))) == []
    rank = holding(0, 1, 2, room=150 * KB)
    assert moves(rank.tell(1.0, dispatch(task(3, value(0, 1), flags=ISOLATE)))) == ["spill 1"]


def test_where_values_cannot_be_moved_out_only_those_that_no_call_needs_leave():
    rank = holding(0, 1, 2, room=-(10**9), can_spill=False)
    rank.tell(1.0, forget(2))
    assert rank.tell(1.0, dispatch(task(3))) == ["drop 2", "call 3#1 on slot 0"]
    assert rank.worker.spilled == set()


def test_one_choice_frees_as_much_as_is_missing(monkeypatch):
    choices = []

    def count(*args):
        choices.append(args)
        return choose_spilled(*args)

    monkeypatch.setattr(held_values, "choose_spilled", count)
    rank = holding(*range(10 * PORTION_COUNT), room=-900 * PORTION_COUNT * KB)
    lines = rank.tell(1.0, dispatch(task(10**6)))
    assert (len(moves(lines)), len(choices)) == (9 * PORTION_COUNT + 1, 1), "the result of the call is expected, too"
    rank.worker.budget.measured(-KB, True)
    rank.tell(1.0, rank.ended())
    assert len(choices) == 1, "no result is expected any more, and nothing comes"


def test_what_was_freed_may_be_used_again():
    rank = holding(0, room=100 * KB)
    for number in range(1, 20):
        rank.tell(1.0, forget(number - 1))
        rank.tell(1.0, dispatch(task(number)))
        rank.tell(1.0, rank.ended(nbytes=100 * KB))
    assert rank.worker.spilled == set()


# -- arrivals -------------------------------------------------------------------------------------------


def test_values_leave_memory_before_a_buffer_is_received():
    rank = holding(0, 1, room=250 * KB)
    assert expect(rank, 200 * KB) == []
    assert expect(rank, 100 * KB) == ["spill 0"]
    assert expect(rank, 10 * KB) == [], "small buffers are not counted"


def test_a_value_that_has_arrived_counts_once():
    rank = holding(0, room=450 * KB)
    rank.tell(1.0, dispatch(task(8, value(7, 2))))
    expect(rank, 200 * KB)
    assert moves(rank.tell(1.0, arrives(2, 0, nbytes=200 * KB))) == []
    assert expect(rank, 50 * KB) == []
    rank.worker.budget.measured(200 * KB, True)
    assert expect(rank, 50 * KB) == []
    assert expect(rank, 200 * KB) == ["spill 0"], "memory for the buffer before was set aside, and is measured later"


def test_values_are_asked_for_while_there_is_room_and_one_at_a_time_always():
    rank = holding(0, room=250 * KB, can_spill=False)
    sources = [value(number, 2) for number in range(10, 14)]
    asked = rank.tell(1.0, dispatch(task(5, *sources)))
    assert [line for line in asked if "fetch" in line] == [
        "to 2: fetch 10 on request_id 0",
        "to 2: fetch 11 on request_id 1",
    ]
    rank.worker.budget.measured(-KB, False)
    assert rank.tell(1.0, arrives(2, 0, nbytes=100 * KB)) == ["put 10"], "one is on its way"
    assert rank.tell(1.0, arrives(2, 1, nbytes=100 * KB)) == ["put 11", "to 2: fetch 12 on request_id 2"]
    assert "to 2: fetch 13 on request_id 3" in rank.tell(1.0, arrives(2, 2, nbytes=100 * KB))
    assert "call 5#1 on slot 0" in rank.tell(1.0, arrives(2, 3, nbytes=100 * KB))


def test_values_are_not_asked_for_at_the_cost_of_those_that_calls_here_need():
    rank = holding(0, 1, room=50 * KB)
    rank.tell(1.0, dispatch(task(4), task(5, value(0, 1)), task(6, value(8, 2), value(9, 2))))
    assert rank.worker.spilled == {1}
    assert "to 2: fetch 9 on request_id 1" not in rank.tell(1.0)


@pytest.mark.parametrize("can_spill", [True, False])
def test_values_are_not_asked_for_at_the_cost_of_those_that_come_later_in_the_message(can_spill):
    rank = holding(0, room=300 * KB)
    rank.tell(1.0, dispatch(task(4, value(7, 2))))
    rank.tell(1.0, arrives(2, 0, nbytes=100 * KB))  # a copy, which may be dropped
    rank.tell(1.0, rank.ended(nbytes=KB))
    rank.worker.budget.measured(50 * KB, can_spill)
    inputs = value(8, 2), value(9, 2), value(7, 2), value(0, 1)
    lines = rank.tell(2.0, dispatch(task(5, *inputs[:2]), task(6, *inputs), slot=1))
    assert not [line for line in moves(lines) if line != "spill 4"]
    assert "to 2: fetch 8 on request_id 1" in lines


def test_a_fetch_that_waits_for_memory_ends_with_the_call_that_needs_it():
    rank = holding(0, room=0, can_spill=False)
    rank.tell(1.0, dispatch(task(4), task(5, value(8, 2)), task(6, value(9, 2))))
    rank.tell(1.0, recall((6, 1)))
    lines = rank.tell(1.0, arrives(2, 0, nbytes=KB))
    assert not any("fetch 9" in line for line in lines)
    assert any("fetch 9" in line for line in rank.tell(1.0, dispatch(task(6, value(9, 2), attempt=2))))


def test_a_fetch_that_waits_for_memory_ends_if_its_holder_is_lost():
    rank = holding(0, room=0, can_spill=False)
    rank.tell(1.0, dispatch(task(4), task(5, value(8, 2)), task(6, value(9, 3))))
    rank.tell(1.0, lost(3))
    lines = rank.tell(1.0, absent(2, 0))
    assert "to 0: unfetched for 6#1: 9 asked of [1]" in lines


def test_a_rank_that_asks_for_a_value_that_waits_for_memory_here_is_sent_elsewhere():
    rank = holding(0, room=0, can_spill=False)
    rank.tell(1.0, dispatch(task(4), task(5, value(8, 2)), task(6, value(9, 2))))
    assert rank.tell(1.0, fetch(3, 7, 9)) == ["to 3: absent on request_id 7"]


def test_values_leave_memory_before_one_is_read_from_its_file_to_be_sent():
    rank = holding(0)
    rank.tell(1.0, pressed(HIGH, 1))
    rank.tell(1.0, dispatch(task(1)))
    rank.tell(1.0, rank.ended(nbytes=100 * KB))
    rank.worker.budget.measured(50 * KB, True)
    assert rank.tell(1.0, fetch(2, 5, 0)) == ["spill 1", "serve 0 to 2 on request_id 5"]
