"""Elements that wait for others, compared with sets of elements."""

import random

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import OWN, Link
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.scheduler.links import AwaitedElements, Links
from handoff_mpi.scheduler.tasks import TaskTable


def expanded(intervals):
    return {index for start, stop in intervals for index in range(start, stop)}


def random_links(rng):
    size, block = rng.randint(1, 20), rng.randint(1, 4)
    links = [Link(0, range(size), block)]
    count = len(links[0])
    if rng.random() < 0.7:
        start = rng.randint(0, 30 - count)
        links.append(Link(1, range(start, start + count)[:: rng.choice([1, -1])]))
    return links, count


def test_an_element_waits_for_all_that_it_takes_and_is_lost_with_any_of_it():
    rng = random.Random(1)
    for _ in range(300):
        links, count = random_links(rng)
        awaited = AwaitedElements(links, IntervalSet([(0, count)]))
        have, lost = [set(), set()], [set(), set()]
        ready, skipped = set(), set()
        for _ in range(30):
            source = rng.randrange(len(links))
            start = rng.randint(0, 30)
            stop = min(start + rng.randint(0, 6), 30 if source else len(links[0].indices))
            elements = set(range(start, stop))
            if elements & (have[source] | lost[source]):
                continue
            if rng.random() < 0.9:
                have[source] |= elements
                ready |= expanded(awaited.supply(source, start, max(start, stop)))
            else:
                lost[source] |= elements
                skipped |= expanded(awaited.lose(source, start, max(start, stop)))
            for each in range(count):
                takes = [set(link.taken(each, each + 1)) for link in links]
                is_lost = any(its & gone for its, gone in zip(takes, lost, strict=False))
                is_ready = all(its <= there for its, there in zip(takes, have, strict=False))
                assert (each in ready, each in skipped) == (is_ready, is_lost), (links, each)
                assert (each in awaited.elements) == (not is_ready and not is_lost)


def test_a_tree_in_one_array_is_released_level_by_level():
    heard = []
    links = Links(
        TaskTable(None, []),
        lambda array, found: heard.append(("may run", array, found)),
        lambda array, found: heard.append(("skipped", array, found)),
        lambda array: [],
    )
    # 0..9 in blocks of 3 are the elements 0..3, these in blocks of 3 are 4 and 5, and these are 6
    levels = [Link(0, range(10), 3), Link(OWN, range(4), 3, 4), Link(OWN, range(4, 6), 3, 6)]
    assert not links.add(1, ArraySpec(7, links=levels, tree=Tree(10, 3)), IntervalSet([(0, 7)]))
    assert (links.consumers_of(0), links.sources_of(1), links.has_nothing_to_fold(1)) == ([1], [0, 1, 1], True)
    for supplied, elements in ((0, [(0, 4), (5, 9)]), (0, [(4, 5), (9, 10)]), (1, [(0, 3)])):
        links.supply(supplied, elements)
    assert not links.has_nothing_to_fold(1)
    links.lose(1, [(3, 4)])
    assert [words for words, _, _ in heard] == ["may run"] * 3 + ["skipped"] * 2
    assert [found for _, _, found in heard] == [[(0, 1), (2, 3)], [(1, 2), (3, 4)], [(4, 5)], [(5, 6)], [(6, 7)]]
    assert not links.awaited[1].elements


def test_elements_without_a_link_wait_for_nothing():
    links = Links(TaskTable(None, []), print, print, print)
    elements = IntervalSet([(0, 7)])
    free = links.add(0, ArraySpec(7, links=[Link(OWN, range(4), 3, 4), Link(OWN, range(4, 6), 3, 6)]), elements)
    assert free.intervals() == [(0, 4)] and elements.intervals() == [(4, 7)]
