"""Sets of intervals, compared with sets of integers."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.arrays.intervals import IntervalSet

BOUNDS = st.tuples(st.integers(0, 40), st.integers(0, 40))
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), BOUNDS),
        st.tuples(st.just("discard"), BOUNDS),
        st.tuples(st.just("take"), st.integers(0, 15)),
    ),
    max_size=30,
)


def members(intervals):
    return [index for start, stop in intervals for index in range(start, stop)]


def check(found, expected):
    """``found`` holds the integers ``expected``, in as few intervals as can be."""
    intervals = [*found]
    assert members(intervals) == sorted(expected)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(intervals))
    assert len(found) == len(expected)
    assert bool(found) == bool(expected)
    assert [index for index in range(-2, 44) if index in found] == sorted(expected)


@given(OPERATIONS)
@settings(max_examples=60, deadline=None)
def test_an_interval_set_is_a_set(operations):
    tested, twin = IntervalSet(), set()
    for name, argument in operations:
        if name == "take":
            lowest = sorted(twin)[:argument]
            assert members(tested.take(argument)) == lowest
            twin.difference_update(lowest)
        elif name == "add":
            tested.add(*argument)
            twin.update(range(*argument))
        else:
            tested.discard(*argument)
            twin.difference_update(range(*argument))
        check(tested, twin)
    check(tested.missing(35), set(range(35)) - twin)
    assert members(tested.within(7, 21)) == sorted(twin & set(range(7, 21)))
    assert tested.within(21, 7) == []


def test_neighbours_become_one_interval_and_a_hole_parts_it():
    found = IntervalSet([(5, 7), (0, 3), (3, 5)])
    assert [*found] == [(0, 7)]
    found.discard(2, 4)
    assert [*found] == [(0, 2), (4, 7)]
    assert found.take(3) == [(0, 2), (4, 5)]
    assert repr(found) == "IntervalSet([(5, 7)])"


def test_a_copy_is_equal_until_one_of_the_two_changes():
    found = IntervalSet([(1, 3)])
    other = found.copy()
    assert other == found
    other.add(3, 4)
    assert other != found
    assert [*found] == [(1, 3)]
    assert found != {1, 2}


@given(st.sets(st.integers(0, 60)), BOUNDS, st.sampled_from([1, 2, 5, 40]))
def test_the_last_member_among_some_indices_is_found(members, bounds, step):
    indices = range(*sorted(bounds), step)
    intervals = IntervalSet((index, index + 1) for index in members)
    assert intervals.last_of(indices) == max(members.intersection(indices), default=None)
