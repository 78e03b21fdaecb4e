"""Links compared with what they stand for, element by element."""

import random

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import Link


def expanded(intervals):
    return {index for start, stop in intervals for index in range(start, stop)}


def random_link(rng):
    count = rng.randint(0, 20)
    bounds = [rng.choice([None, rng.randint(-22, 22)]) for _ in range(2)]
    indices = range(count)[slice(*bounds, rng.choice([None, 1, 2, 3, -1, -2]))]
    return count, Link(0, indices, rng.randint(1, 4), rng.randint(0, 3))


def taken(link):
    return {link.first + place // link.block: [] for place in range(len(link.indices))} | {
        link.first + block: [*link.indices[block * link.block : (block + 1) * link.block]] for block in range(len(link))
    }


def test_a_link_is_what_its_elements_take():
    rng = random.Random(1)
    for _ in range(3000):
        count, link = random_link(rng)
        elements = taken(link)
        start = rng.randint(0, count)
        stop = rng.randint(start, count)
        source = range(start, stop)
        assert link.elements == (link.first, link.first + len(elements))
        positions = expanded([link.positions(start, stop)])
        assert positions == {place for place, index in enumerate(link.indices) if index in source}, link
        touched = {each for each, its in elements.items() if any(index in source for index in its)}
        assert expanded([link.touched(start, stop)]) == touched, link
        have = IntervalSet((place, place + 1) for place in range(len(link.indices)) if rng.random() < 0.7)
        low = rng.randint(0, 8)
        supplied = expanded(link.supplied(have, low, low + 7))
        there = {index for place, index in enumerate(link.indices) if place in have}
        assert supplied == {e for e in range(low, low + 7) if e in elements and there.issuperset(elements[e])}, link
        for each, its in elements.items():
            assert [*link.taken(each, each + 1)] == its
