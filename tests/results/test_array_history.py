"""A launch takes over the elements that earlier launches computed."""

from __future__ import annotations

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.results.array_history import ArrayLaunch, suspects_of, take_over, values_of_last


def launch(epoch, parts, restored=(), count=10):
    """``parts`` are (first element, its values)."""
    columns = [([(first, first + len(values))], 1, pack(list(values))) for first, values in parts]
    return ArrayLaunch(epoch, count, ["digest"], columns, list(restored))


def values_in(values):
    return {index: values[index] for start, stop in values.have for index in range(start, stop)}


def everything(launch):
    return IntervalSet([(0, launch.count)])


def test_values_of_a_newer_launch_come_first_and_older_ones_fill_the_gaps():
    values = ArrayValues(10)
    launches = [launch(1, [(0, "abcdef")]), launch(2, [(2, "CD"), (8, "I")])]
    taken = take_over(launches, values, everything)
    assert "".join(values_in(values).values()) == "abCDefI"
    assert taken == [(2, ((2, 4), (8, 9))), (1, ((0, 2), (4, 6)))]


def test_only_elements_whose_arguments_are_the_same_are_taken():
    values = ArrayValues(10)
    same = {1: IntervalSet([(1, 3), (5, 9)]), 2: IntervalSet()}
    taken = take_over([launch(1, [(0, "abcdef")]), launch(2, [(6, "G")])], values, lambda each: same[each.epoch])
    assert values_in(values) == {1: "b", 2: "c", 5: "f"}
    assert taken == [(1, ((1, 3), (5, 6)))]


def test_a_part_may_have_several_intervals():
    values = ArrayValues(10)
    part = ([(0, 2), (5, 8)], 3, pack(list("abfgh")))
    take_over([ArrayLaunch(1, 10, [], [part])], values, lambda each: IntervalSet([(1, 7)]))
    assert values_in(values) == {1: "b", 5: "f", 6: "g"}


def test_elements_whose_end_is_not_known_are_suspects_in_the_groups_of_their_leases():
    one, two = launch(1, [(0, "ab")]), launch(2, [(6, "g")])
    one.failed.append(([(4, 5)], 1, 1, "ValueError", "oops", ""))
    for elements in ([(0, 2)], [(1, 5)], [(8, 10)]):
        one.suspect(elements)
    two.suspect([(5, 9)])
    assert one.suspects == [IntervalSet([(2, 4)]), IntervalSet([(8, 10)])]
    have = IntervalSet([(0, 3), (6, 7)])
    assert suspects_of([one, two], have, everything) == [[(5, 6), (7, 9)], [(3, 4)], [(9, 10)]]
    assert suspects_of([one, two], have, lambda each: IntervalSet([(0, 6)])) == [[(5, 6)], [(3, 4)]]


def test_the_last_launch_has_its_own_values_and_those_it_took_over():
    launches = [launch(1, [(0, "abcdef")]), launch(2, [(2, "CD")], [(1, [(0, 2)]), (7, [(8, 9)])])]
    assert values_in(values_of_last(launches)) == {0: "a", 1: "b", 2: "C", 3: "D"}


def test_a_column_is_looked_up_once_however_many_blocks_were_taken_over():
    """A launch takes over a windowed array block by block."""
    values = [(index, [index]) for index in range(50)]
    launches = [
        launch(1, values, count=50),
        launch(2, [], [(1, [(index, index + 1)]) for index in range(50)], count=50),
    ]
    found = []

    def find(epoch, column):
        found.append(epoch)
        return column

    assert values_of_last(launches, find)[49] == 49
    assert len(found) == 50


def test_elements_that_were_values_of_functions_are_unlike_those_of_a_range():
    def digests(elements):
        found = freeze_elements(elements, "argument")
        found.encode()
        return found.digests()

    before = ArrayLaunch(1, 5, [digests([0, "of a function", 2, 3, 4])])
    assert before.unlike([digests(range(5))]) == before.unlike([digests([0, 1, 2, 3, 4])]) == IntervalSet([(1, 2)])
    assert before.unlike([digests(range(3))]) == IntervalSet([(1, 2), (3, 5)])
    assert ArrayLaunch(1, 5, [digests(range(5))]).unlike([before.digests[0]]) == IntervalSet(), "none was one"
