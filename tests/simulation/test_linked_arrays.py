"""Arrays over arrays on the simulated cluster: links, folds, handles as elements, selections and windows."""

from __future__ import annotations

from collections import Counter

import pytest

from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.selections import Selection
from handoff_mpi.scheduler.chained_leases import ChainedLeases
from handoff_mpi.simulation.shapes import Fold, Handles, Linked, Shape, Window
from handoff_mpi.simulation.workload import Workload
from tests.simulation.test_arrays import CPU, count_begun
from tests.simulation.test_cluster import run


def load_of(*tasks, selections=()):
    """Tasks, of which each is a shape of an array, or a tuple of what a function takes."""

    def task_of(number):
        return number if number < len(tasks) else selections[number - len(tasks)].array

    load = Workload(selections=[*selections])
    load.specs = [TaskSpec((), CPU, keep=True) for _ in tasks]
    load.shapes = {task: shape for task, shape in enumerate(tasks) if isinstance(shape, Shape)}
    for task, what in enumerate(tasks):
        spec = load.specs[task]
        load.duration_s.append(0.01)
        load.nbytes.append((8,))
        if task in load.shapes:
            spec.keep = False
            spec.array = load.shapes[task].freeze(task, None, None).spec
            handles = {number for each in what.columns if isinstance(each, Handles) for number in each.of.values()}
            spec.element_inputs = tuple({task_of(number) for number in handles})
            load.element_s[task] = 0.001
        else:
            spec.takes = what
            spec.inputs = tuple({task_of(number) for number in what})
    return load


def linked(source, indices):
    return Shape(len(indices), [Linked(source, indices)])


def fold(source, indices, fan_in):
    its = Fold(source, indices, fan_in)
    return Shape(len(its.blocks), fold=its)


def all_kinds():
    """A chain of three that fans out, a fold, handles, a window, and functions that take some of them."""
    selections, window = (
        [Selection(1, 7), Selection(2, range(19, -1, -2)), Selection(3, range(20), True)],
        Window(4, 30),
    )
    tasks = [
        (),
        Shape(41),
        linked(1, range(39, -1, -2)),
        linked(2, range(20)),
        Shape(20, [Linked(1, range(20)), Linked(3, range(19, -1, -1)), Handles(20, {3: 0, 5: 10})]),
        fold(3, range(20), 3),
        (10, 11, 12),
        (4, 5),
        Shape(0, window=window),
        Shape(0, [Linked(8, range(UNKNOWN_COUNT))], root=window),
    ]
    return load_of(*tasks, selections=selections)


def test_undisturbed_each_element_begins_once_when_what_it_takes_is_there(monkeypatch):
    begun = count_begun(monkeypatch)
    load = all_kinds()
    cluster = run(2, load=load, faults=False, ranks=4)
    assert cluster.scheduler.status == "done"
    counts = {1: 41, 2: 20, 3: 20, 4: 20, 5: 7 + 3 + 1, 8: 30, 9: 30}
    assert begun == Counter((array, index) for array, count in counts.items() for index in range(count))


@pytest.mark.parametrize("fault", ["deaths", "relaunch", "lost values"])
def test_arrays_over_arrays_survive(fault):
    for seed in range(3):
        assert run(seed, load=all_kinds(), always=(fault,), ranks=4).scheduler.status != "running"


def test_what_takes_an_element_that_failed_is_skipped_alone():
    for seed in range(3):
        load = all_kinds()
        load.element_raises[1, 39] = 99  # element 0 of array 2 takes it, and so on
        cluster = run(seed, load=load, faults=False, ranks=3)
        arrays = cluster.scheduler.arrays.of
        if not cluster.scheduler.stopping:
            assert [arrays[each].bereft for each in (2, 3, 4)] == [1, 1, 1]
            assert cluster.scheduler.status == "failed"


def test_an_iterable_that_raises_fails_its_array_behind_what_has_come():
    for seed in range(3):
        cluster = run(seed, load=load_of(Shape(0, window=Window(3, 20, fails=True))), faults=False, ranks=3)
        assert cluster.scheduler.arrays.of[0].done == 20 and cluster.scheduler.status == "failed"


def test_without_faults_no_report_of_a_linked_array_is_stale():
    for seed in range(2):
        assert run(seed, faults=False, links=True).scheduler.stale == 0, seed


def test_leases_of_linked_arrays_follow_one_another(monkeypatch):
    lengths = Counter()
    lease = ChainedLeases.lease

    def count(self, array, slot):
        leases = lease(self, array, slot)
        lengths[len(leases)] += 1
        return leases

    monkeypatch.setattr(ChainedLeases, "lease", count)
    load = load_of(Shape(600), linked(0, range(600)), linked(1, range(5, 600)), fold(2, range(595), 8))
    cluster = run(1, load=load, faults=False, ranks=4)
    assert cluster.scheduler.status == "done" and cluster.scheduler.stale == 0
    assert lengths[4] > 3, "leases of all four arrays travel together"
    done = {number: each.done for number, each in cluster.scheduler.arrays.of.items()}
    assert done == {0: 600, 1: 600, 2: 595, 3: 75 + 10 + 2 + 1}


@pytest.mark.long
def test_random_dags_of_leases_that_follow_others():
    for seed in range(12):
        run(seed, chains=True)
    for seed in range(3):
        run(seed, chains=True, ranks=12, tasks=40)


@pytest.mark.long
def test_random_dags_of_linked_arrays():
    for seed in range(25):
        run(seed, links=True)
    for seed in range(6):
        run(seed, links=True, ranks=12, tasks=40)
