"""``--rerun`` names functions, elements of arrays, and nothing that is not there."""

from __future__ import annotations

from operator import add

import pytest

from handoff_mpi import DAG, Function, UsageError
from handoff_mpi.dag import Plan
from handoff_mpi.launch.rerun import read_rerun


@pytest.fixture
def plan():
    dag = DAG("rerun")
    dag.add_function(Function("fit", [], list))
    dag.map(abs, range(10), id="sweep")
    dag.add_function(Function(("all", 2), [], list))
    dag.reduce(add, dag.map(abs, iter([1]), window=4, id="pulled"), id="sum")
    plan = Plan()
    plan.add(dag)
    return plan


def test_functions_and_whole_arrays_are_named_by_their_ids(plan):
    rerun = read_rerun(["fit", ("all", 2), "sweep"], plan)
    assert (rerun.tasks, rerun.elements, rerun.named) == ({0, 1, 2}, {}, {0, 1, 2})


def test_a_fold_of_a_windowed_array_is_named_with_the_blocks_that_it_folds(plan):
    blocks, fold = plan.number_of["sum-blocks"], plan.number_of["sum"]
    assert read_rerun(["sum"], plan).tasks == {blocks, fold}
    assert read_rerun(["sum-blocks"], plan).tasks == {blocks}


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("sweep[3]", [(3, 4)]),
        ("sweep[-1]", [(9, 10)]),
        ("sweep[2:5]", [(2, 5)]),
        ("sweep[:3, 7:]", [(0, 3), (7, 10)]),
        (("sweep", 4), [(4, 5)]),
    ],
)
def test_elements_are_named_as_python_counts_them(name, elements, plan):
    rerun = read_rerun([name], plan)
    assert [*rerun.elements[1]] == elements
    assert (rerun.tasks, rerun.named) == (set(), {1})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("fot", "rerun names 'fot', which the DAG does not hold; did you mean 'fit'"),
        ("fit[3]", "which the DAG does not hold"),
        (("fit", 3), "which the DAG does not hold"),
        ("swoop[3]", "which the DAG does not hold"),
        ("sweep[10]", "but the array has 10 elements"),
        ("sweep[-11]", "but the array has 10 elements"),
        ("sweep[5:2]", "which selects none of the 10 elements of the array"),
        ("sweep[3", r"is not the name of elements; write sweep\[3\], sweep\[100:200\] or"),
        ("sweep[]", "is not the name of elements"),
        ("sweep[first]", "is not the name of elements"),
        ("sweep[3,]", "'' is neither an index nor a slice"),
        ("sweep[1:2:3]", "neither an index nor a slice"),
    ],
)
def test_what_is_not_there_is_refused(name, problem, plan):
    with pytest.raises(UsageError, match=problem):
        read_rerun([name], plan)


def test_of_many_that_are_not_there_the_first_is_named(plan):
    with pytest.raises(UsageError, match="rerun names 'a' and 2 more"):
        read_rerun(["a", "b", "c"], plan)
