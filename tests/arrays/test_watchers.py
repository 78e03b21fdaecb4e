"""Selections end when their last open element does; nothing is looked at before."""

from __future__ import annotations

import itertools
import random

import pytest

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.watchers import Watchers


def watch(count, *selections):
    watchers = Watchers(IntervalSet([(0, count)]))
    return watchers, [watchers.add(number, indices) for number, indices in enumerate(selections)]


def test_a_selection_ends_with_its_last_element():
    watchers, are_open = watch(100, range(10, 20), range(15, 16), range(5, 5))
    assert are_open == [True, True, False]
    assert watchers.end([(0, 15)]) == []
    assert watchers.end([(15, 18)]) == [1]
    assert watchers.end([(30, 40), (18, 20)]) == [0]


def test_elements_that_have_ended_before_need_not_end():
    watchers = Watchers(IntervalSet([(0, 5), (8, 9)]))
    assert not watchers.add(0, range(5, 8))
    assert watchers.add(1, range(4, 8))
    assert watchers.end([(4, 5)]) == [1]


def test_a_million_elements_that_end_are_no_steps():
    """Lookups are counted: a selection is looked at when the element that it watches ends."""
    watchers, _ = watch(10_000_000, range(10_000_000), range(0, 10_000_000, 7))
    looks = []
    add = watchers.add

    class Counting(Watchers):
        __slots__ = ()

        def add(self, number, indices):
            looks.append(number)
            return add(number, indices)

    counting = Counting(watchers._open)
    counting._selections, counting._watched = watchers._selections, watchers._watched
    for start in range(0, 9_000_000, 1_000_000):
        assert counting.end([(start, start + 1_000_000)]) == []
    assert not looks
    assert sorted(counting.end([(9_000_000, 10_000_000)])) == [0, 1]
    assert len(looks) == 2


@pytest.mark.parametrize("seed", range(40))
def test_it_is_as_if_each_element_of_each_selection_were_looked_at(seed):
    rng = random.Random(seed)
    count = rng.choice([10, 100, 5000])
    selections = []
    for _ in range(rng.randrange(30)):
        low, high = sorted(rng.choices(range(count + 1), k=2))
        selections.append(range(low, high, rng.choice([1, 1, 2, 7, 1500])))
    watchers, are_open = watch(count, *selections)
    assert are_open == [bool(indices) for indices in selections]
    left = {number: set(indices) for number, indices in enumerate(selections) if indices}
    bounds = sorted({0, count, *rng.choices(range(count), k=min(count, 20))})
    intervals = [*itertools.pairwise(bounds)]
    rng.shuffle(intervals)
    for low, high in intervals:
        for indices in left.values():
            indices.difference_update(range(low, high))
        ended = sorted(number for number, indices in left.items() if not indices)
        assert sorted(watchers.end([(low, high)])) == ended
        for number in ended:
            del left[number]
    assert not left
