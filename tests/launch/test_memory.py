"""A run's memory is given back at its end: in one process, on rank 0, on workers and in their children."""

from __future__ import annotations

import gc
import sys
import types

import numpy as np
import psutil
import pytest

import handoff_mpi
from handoff_mpi import DAG, DAGFailed, Function
from handoff_mpi.results.function_error import FunctionError
from tests.conftest import run_process

#: Objects of a run that its end must free.
OF_A_RUN = {
    *("Run", "Scheduler", "Ledger", "SchedulerLoop", "Plan", "Recorder"),
    *("Worker", "WorkerDriver", "WorkerReactor", "RankCalls", "CallIO", "OwnCalls", "Children"),
}


def fail(value):
    kept = value + 1
    try:
        raise ValueError(kept)
    except ValueError as error:
        problem = error
    raise problem


def build(fails=False):
    dag = DAG("memory")
    dag.add_function(Function("make", (), np.ones, [100_000]))
    dag.add_function(Function("take", ["make"], np.sum))
    dag.add_function(Function("recursive", (), recurse, [3]))
    if fails:
        dag.add_function(Function("fail", ["make"], fail, max_retries=0))
    return dag


def recurse(depth):
    return recurse(depth - 1) if depth else 0


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def module_of(thing):
    """Return the module that made an object, or its type; some types of other libraries have no name there."""
    module = thing.__module__ if isinstance(thing, (types.MethodType, types.FunctionType)) else type(thing).__module__
    return module if isinstance(module, str) else ""


def belongs_to_us(thing):
    return module_of(thing).startswith(("handoff_mpi", "numpy"))


@pytest.mark.long
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_a_run_leaves_nothing_that_only_the_collector_frees(tmp_path, no_collector, isolation, fails):
    def run(name):
        options = {"isolation": isolation, "run_dir": tmp_path / name, "check": False}
        results = handoff_mpi.execute(build(fails), **options)
        assert results["take"] == 100_000

    run("first")  # what is imported and made once
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    run("second")
    gc.collect()
    assert [thing for thing in gc.garbage if belongs_to_us(thing)] == []


def test_an_error_that_is_kept_keeps_the_results_but_not_the_run(tmp_path, no_collector):
    with pytest.raises(DAGFailed) as caught:
        handoff_mpi.execute(build(fails=True), run_dir=tmp_path / "run")
    error = caught.value
    alive = {type(thing).__name__ for thing in gc.get_objects() if module_of(thing).startswith("handoff_mpi")}
    assert alive & OF_A_RUN == set()
    assert error.results["take"] == 100_000
    for _ in range(2):
        with pytest.raises(FunctionError) as raised:
            error.results["fail"]
        assert raised.value is not error.results.errors["fail"]
    assert error.results.errors["fail"].__traceback__ is None


LOOP = """
import gc, os, sys
import numpy
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
gc.disable()
PLACES = [int(place) for place in sys.argv[1].split(",")]

def make(nbytes): return numpy.ones(nbytes // 8)
def look(value): return int(value.sum()), resident_mb()
def resident_mb(): return int(open("/proc/self/statm").read().split()[1]) // 256
def blocks(_): gc.collect(); return sys.getallocatedblocks()

def big(cluster, number):
    dag = DAG("big")
    for place in PLACES:
        dag.add_function(Function(("make", place), (), make, [40_000_000], node=place))
        dag.add_function(Function(("look", place), [("make", place)], look, node=place))
    results = cluster.execute(dag, run_dir=f"big{number}", checkpoint="none", isolation=sys.argv[2])
    assert all(results["look", place][0] == 5_000_000 for place in PLACES)
    return [resident_mb(), *(results["look", place][1] for place in PLACES)]

def small(cluster, number):
    dag = DAG("small")
    for place in PLACES:
        for k in range(4):
            dag.add_function(Function((k, place), (), abs, [k], node=place))
        dag.add_function(Function(("blocks", place), [(3, place)], blocks, node=place))
    results = cluster.execute(dag, run_dir=f"small{number}", isolation=sys.argv[2])
    return [blocks(None), *(results["blocks", place] for place in PLACES)]

with handoff.Cluster() as cluster:
    if cluster:
        first = big(cluster, 0)
        for number in range(1, 6): last = big(cluster, number)
        print("BIG", [after - before for before, after in zip(first, last)])
        for number in range(15): first = small(cluster, number)
        for number in range(15, 40): last = small(cluster, number)
        print("SMALL", [(after - before) / 25 for before, after in zip(first, last)])
"""


@pytest.mark.long
@pytest.mark.sample("1-rank", "3-process")
@pytest.mark.parametrize(("ranks", "isolation"), [(1, "rank"), (3, "rank"), (3, "process")])
def test_a_loop_of_runs_settles_on_every_rank(mpirun, tmp_path, ranks, isolation):
    (tmp_path / "loop.py").write_text(LOOP)
    if ranks == 1:
        ended = run_process([sys.executable, "loop.py", "0", isolation], tmp_path)
    else:
        ended = mpirun(ranks, "loop.py", ",".join(map(str, range(1, ranks))), isolation)
    assert ended.rc == 0, ended.err
    told = dict(line.split(" ", 1) for line in ended.out.splitlines() if line.startswith(("BIG", "SMALL")))
    big, small = (eval(told[name]) for name in ("BIG", "SMALL"))
    assert max(big) < 60, "a run's values, of 40 MB, are not freed at its end"
    assert max(small) < 10, "each run leaves some objects behind"


def spread(value):
    return np.full(125_000, value[0] + 1.0)


def join(left, right):
    assert left[0] == right[0]
    return np.full(125_000, left[0])


def resident_nbytes(value):
    return value[0], psutil.Process().memory_info().rss


def diamonds(count):
    """A chain of ``count`` diamonds: three values of 1 MB each, that no function needs after the next diamond."""
    dag = DAG("diamonds")
    dag.add_function(Function(("join", 0), (), np.zeros, [125_000]))
    for number in range(count):
        for side in ("left", "right"):
            dag.add_function(Function((side, number), [("join", number)], spread))
        dag.add_function(Function(("join", number + 1), [("left", number), ("right", number)], join))
    for number in (0, count):
        dag.add_function(Function(("resident", number), [("join", number)], resident_nbytes, priority=1))
    return dag


@pytest.mark.parametrize(("cache_size", "most"), [("10MB", 60_000_000), (0, 40_000_000)])
def test_a_rank_keeps_few_values_that_no_function_needs(tmp_path, cache_size, most):
    results = handoff_mpi.execute_local(diamonds(100), run_dir=tmp_path / "run", cache_size=cache_size)
    (_, before), (count, after) = results["resident", 0], results["resident", 100]
    assert count == 100
    assert after - before < most, "of 300 MB of values that were made"


@pytest.mark.parametrize("cache_size", [-1, "much", "256 potatoes", None, True, float("inf")])
def test_a_cache_size_that_is_no_amount_of_memory_is_refused(cache_size):
    with pytest.raises(handoff_mpi.UsageError, match="cache_size must be an amount of memory"):
        handoff_mpi.execute_local(DAG(), cache_size=cache_size)
