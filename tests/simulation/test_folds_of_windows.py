"""Folds of windowed arrays on the simulated cluster, and what later launches take over of what depends on these."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.dag.selections import Selection
from handoff_mpi.simulation.shapes import Fold, Handles, Linked, Shape, Window
from tests.simulation.test_arrays import count_begun
from tests.simulation.test_cluster import run
from tests.simulation.test_linked_arrays import linked, load_of


def folded(source, root, fan_in):
    """Two arrays that fold the elements that come: the blocks of the first level, and the others."""
    columns = [Linked(source, range(UNKNOWN_COUNT))]
    return Shape(0, columns, root=root, block=fan_in), Shape(
        0, fold=Fold(source + 1, range(UNKNOWN_COUNT), fan_in), root=root
    )


def two_folds(first=None, second=None):
    """A short and a long windowed array, each with a fold, and functions and arrays behind one of these, or both."""
    first, second = first or Window(10, 20), second or Window(2, 60)
    tasks = [
        Shape(0, window=first),
        *folded(0, first, 4),
        Shape(0, window=second),
        Shape(0, [Linked(3, range(UNKNOWN_COUNT))], root=second),
        *folded(4, second, 3),
        (2,),
        (6,),
        Shape(30),
        Shape(25),
        linked(9, range(29, -1, -1)),
        Shape(12, [Handles(12, {3: 2, 5: 7})]),
        (7, 8, 11),
    ]
    load = load_of(*tasks)
    load.specs[9].inputs, load.specs[10].inputs = (2,), (6,)
    load.duration_s[7:9], load.element_s[9], load.duration_s[13] = [0.5, 0.7], 0.05, 3.0
    return load


def partly_needed():
    """A function that takes one element of an array over another one, which is behind a fold; and a long one."""
    root = Window(10, 20)
    arrays = [Shape(0, window=root), *folded(0, root, 4), Shape(60), linked(3, range(60))]
    load = load_of(*arrays, (7,), (), selections=[Selection(4, 3)])
    load.specs[3].inputs = (2,)
    load.element_s[3], load.element_s[4], load.duration_s[6] = 0.3, 0.05, 8.0
    return load


def behind_folds(first=None, second=None):
    """A windowed array, and an array that takes elements of another one, behind a fold; and what is behind theirs."""
    first, second, third = first or Window(10, 20), second or Window(6, 25), Window(8, 22)
    tasks = [
        Shape(0, window=first),
        *folded(0, first, 4),
        (2,),
        Shape(0, window=second),
        *folded(4, second, 3),
        Shape(0, window=third),
        Shape(0, [Linked(7, range(UNKNOWN_COUNT))], root=third),
        *folded(8, third, 3),
        (6,),
        (10,),
        (11, 12),
        Shape(20),
    ]
    load = load_of(*tasks)
    load.specs[4].inputs, load.specs[8].inputs, load.specs[14].inputs = (3,), (2,), (6,)
    load.duration_s[13] = 3.0
    return load


def behind_chained_folds():
    """A windowed array behind a fold of elements that take another fold, and have all come before that is known."""
    first, second, third = Window(10, 20), Window(8, 22), Window(6, 25)
    tasks = [
        Shape(0, window=first),
        *folded(0, first, 4),
        Shape(0, window=second),
        Shape(0, [Linked(3, range(UNKNOWN_COUNT))], root=second),
        *folded(4, second, 3),
        Shape(0, window=third),
        *folded(7, third, 3),
        (9,),
        (),
    ]
    load = load_of(*tasks)
    load.specs[4].inputs, load.specs[7].inputs = (2,), (6,)
    load.duration_s[11] = 3.0
    return load


def behind_failures(fails):
    """A windowed array that takes an empty list of elements of an array behind a fold, which fails.

    Args:
        fails: whether the iterable of what is folded raises; else too many of its elements fail.
    """
    first, second = Window(10, 20, fails=fails), Window(6, 25)
    tasks = [Shape(0, window=first), *folded(0, first, 4), Shape(5), Shape(0, window=second), ()]
    load = load_of(*tasks, selections=[Selection(3, range(0))])
    load.specs[3].inputs, load.specs[4].inputs, load.specs[4].takes, load.specs[4].keep = (2,), (3,), (6,), True
    if not fails:
        assert load.specs[0].array is not None
        load.specs[0].array = replace(load.specs[0].array, max_failures=2)
        load.element_raises.update(((0, index), 9) for index in range(20))
    load.element_s[4], load.duration_s[5] = 0.1, 3.0
    return load


def early_behind_a_fold():
    """Arrays, and a function, that do not wait for a fold: they take elements that are not behind it, or none."""
    first, second = Window(2, 60), Window(10, 20)
    tasks = [
        Shape(0, window=first),
        *folded(0, first, 4),
        Shape(5),
        Shape(0),
        Shape(4, [Handles(4, {2: 2})]),
        Shape(30),
        Shape(20),
        Shape(0, window=second),
        Shape(0, [Linked(8, range(UNKNOWN_COUNT))], root=second),
        (4,),
        (),
    ]
    load = load_of(*tasks, selections=[Selection(3, range(0)), Selection(5, 0)])
    load.specs[3].inputs = load.specs[4].inputs = (2,)
    for array, inputs, takes in ((6, (3,), (12,)), (7, (5,), (13,)), (9, (3,), (12,))):
        load.specs[array].inputs, load.specs[array].takes, load.specs[array].keep = inputs, takes, True
        load.element_s[array] = 0.02
    load.duration_s[10], load.duration_s[11] = 0.2, 3.0
    return load


COUNTS = {0: 20, 1: 5, 2: 3, 3: 60, 4: 60, 5: 20, 6: 11, 9: 30, 10: 25, 11: 30, 12: 12}


def test_undisturbed_each_element_begins_once(monkeypatch):
    begun = count_begun(monkeypatch)
    cluster = run(2, load=two_folds(), faults=False, ranks=4)
    if not cluster.policy.stop_on_failure:
        assert cluster.scheduler.status == "done"
    assert begun == Counter((array, index) for array, count in COUNTS.items() for index in range(count))


@pytest.mark.parametrize("window", [Window(2, 60), Window(2, 60, changes_at=40), Window(2, 60, later_count=45)])
def test_later_launches_take_over_what_is_behind_folds_that_are_the_same(window):
    """The oracle sees what runs again, and which values there are."""
    for seed in range(3):
        cluster = run(seed, load=two_folds(second=window), always=("late relaunch",), pressure=False, bad_hosts=False)
        assert cluster.launches > 1 or cluster.scheduler.status != "done"


@pytest.mark.parametrize(
    "windows", [{}, {"first": Window(6, 25, changes_at=10, alternates=True)}, {"second": Window(6, 25, later_count=15)}]
)
def test_later_launches_take_over_what_is_behind_folds_that_are_behind_others(windows):
    load = behind_folds(**windows)
    cluster = run(1, load=load, always=("late relaunch",), pressure=False, bad_hosts=False)
    assert cluster.launches > 1 or cluster.scheduler.status != "done"


def test_later_launches_take_over_what_is_behind_a_fold_that_is_known_with_another():
    cluster = run(1, load=behind_chained_folds(), always=("late relaunch",), pressure=False, bad_hosts=False)
    assert (cluster.launches, cluster.scheduler.status) == (4, "done")


@pytest.mark.parametrize("fails", [True, False])
def test_later_launches_do_not_wait_for_a_fold_that_fails(fails):
    cluster = run(3, load=behind_failures(fails), always=("relaunch",), pressure=False, bad_hosts=False)
    assert cluster.launches == 4


def test_what_has_begun_before_a_fold_is_known_is_not_taken_over():
    cluster = run(1, load=early_behind_a_fold(), always=("late relaunch",), pressure=False, bad_hosts=False)
    assert (cluster.launches, cluster.scheduler.status) == (4, "done")


def test_a_later_launch_does_not_finish_what_nobody_needs_any_more():
    for seed in range(3):
        cluster = run(seed, load=partly_needed(), always=("late relaunch",), pressure=False, bad_hosts=False)
        assert cluster.launches > 1 or cluster.scheduler.status != "done"


@pytest.mark.parametrize("always", ["resumed", "withdrawn"])
def test_folds_survive(always):
    """A run that has ended is launched again as not all is done; some ranks have no cores for a while."""
    launches = 0
    for seed in range(4):
        load = two_folds()
        load.element_raises.update({(3, 7): 9, (9, 2): 1})
        cluster = run(seed, load=load, always=(always,))
        launches += cluster.launches
    assert launches > 4 or always == "withdrawn"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_fold_of_few_values(count):
    for seed in range(3):
        cluster = run(seed, load=two_folds(Window(2, count)), faults=False, ranks=4)
        assert (cluster.scheduler.status == "done") == bool(count)


def test_an_iterable_that_raises_leaves_nothing_to_fold():
    for seed in range(3):
        cluster = run(seed, load=two_folds(Window(2, 9, fails=True)), faults=False, ranks=4)
        assert cluster.scheduler.status in ("failed", "stopped")


@pytest.mark.long
@pytest.mark.parametrize(
    "always",
    [(), ("late relaunch",), ("late relaunch", "deaths", "refusals"), ("resumed", "stop"), ("withdrawn", "refusals")],
)
def test_random_dags_of_folds_of_windowed_arrays(always):
    for seed in range(12):
        run(seed, folds=True, always=always)
