"""Functions that all ranks call together; for ``mpirun -n N python -m pytest --with-mpi`` (tests/launch does it)."""

from __future__ import annotations

import operator

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.process_context import this_process
from handoff_mpi.testing import settings_restored

pytestmark = pytest.mark.mpi(min_size=2)


def rank_and_size():
    comm = world()
    return comm.Get_rank(), comm.Get_size()


def sum_of_squares(count):
    dag = DAG(f"squares of {count}")
    for number in range(count):
        dag.add_function(Function(number, (), operator.mul, [number, number]))
    dag.add_function(Function("sum", list(range(count)), lambda *parts: sum(parts)))
    return dag


def test_results_on_all_gives_every_rank_the_same(tmp_path):
    results = handoff.execute(sum_of_squares(20), results_on="all", run_dir=tmp_path)
    assert results["sum"] == 2470
    assert results.status == "done"
    told = world().allgather((results.dag_id, results.run, sorted(results.allocations.items(), key=repr)))
    assert len({repr(each) for each in told}) == 1


def test_results_on_root_gives_the_others_none(tmp_path):
    rank, _ = rank_and_size()
    results = handoff.execute(sum_of_squares(5), run_dir=tmp_path)
    if rank == 0:
        assert results["sum"] == 30
    else:
        assert results is None


def test_only_the_dag_of_rank_0_counts(tmp_path):
    rank, _ = rank_and_size()
    results = handoff.execute(sum_of_squares(5 if rank == 0 else 7), results_on="all", run_dir=tmp_path)
    assert results["sum"] == 30


def test_functions_run_on_the_other_ranks(tmp_path):
    _, size = rank_and_size()
    dag = DAG()
    for rank in range(1, size):
        dag.add_function(Function(rank, (), lambda: handoff.current_task().rank, node=rank))
    results = handoff.execute(dag, results_on="all", run_dir=tmp_path)
    assert {rank: results[rank] for rank in range(1, size)} == {rank: rank for rank in range(1, size)}
    assert results.allocations == {rank: rank for rank in range(1, size)}


def test_discover_nodes_tells_every_rank_of_all_ranks():
    _, size = rank_and_size()
    nodes = handoff.discover_nodes()
    assert sorted(nodes) == list(range(size))
    assert all(node["cpu"] > 0 and node["memory"] > 0 for node in nodes.values())
    assert len({repr(each) for each in world().allgather(nodes)}) == 1


def test_within_a_cluster_nobody_need_be_asked():
    _, size = rank_and_size()
    with handoff.Cluster() as cluster:
        if cluster:
            assert sorted(handoff.discover_nodes()) == list(range(size))


def test_after_a_run_rank_0_tells_what_all_ranks_offer_without_asking_them(tmp_path):
    rank, size = rank_and_size()
    dag = DAG()
    dag.add_function(Function("one", (), abs, [-1]))
    handoff.execute(dag, run_dir=tmp_path)
    if rank == 0:
        assert sorted(handoff.discover_nodes()) == list(range(size))


def test_what_a_rank_registers_is_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(this_process.of(OwnJobs), "world", [])  # as before the first run, so that all ranks are asked
    rank, size = rank_and_size()
    with settings_restored():
        if rank == size - 1:
            handoff.register_local_node({"tape": 3})
        assert [node.get("tape", 0) for node in handoff.discover_nodes().values()] == [0] * (size - 1) + [3]
        dag = DAG()
        dag.add_function(Function("t", (), lambda: handoff.current_task().rank, cost={"tape": 2}))
        assert handoff.execute(dag, results_on="all", run_dir=tmp_path)["t"] == size - 1


def test_a_large_value_moves_between_ranks(tmp_path):
    _, size = rank_and_size()
    dag = DAG()
    dag.add_function(Function("make", (), numpy.arange, [1_000_000], node=1))
    dag.add_function(Function("use", ["make"], lambda array: int(array.sum()), node=size - 1))
    results = handoff.execute(dag, results_on="all", run_dir=tmp_path)
    assert results["use"] == 499_999_500_000


def test_rank_0_raises_and_the_others_are_told_of_a_failed_function(tmp_path):
    rank, _ = rank_and_size()
    dag = DAG()
    dag.add_function(Function("fails", (), lambda: 1 / 0, max_retries=0))
    dag.add_function(Function("after", ["fails"], abs))
    dag.add_function(Function("unharmed", (), abs, [-7]))
    if rank == 0:
        with pytest.raises(handoff.DAGFailed, match="division by zero") as caught:
            handoff.execute(dag, results_on="all", run_dir=tmp_path)
        results = caught.value.results
    else:
        results = handoff.execute(dag, results_on="all", run_dir=tmp_path)
    assert results["unharmed"] == 7
    with pytest.raises(handoff.TaskError, match="division by zero"):
        results["fails"]
    with pytest.raises(handoff.ValueUnavailable, match="skipped"):
        results["after"]


def test_a_bad_dag_raises_on_rank_0_and_lets_the_others_go(tmp_path):
    rank, _ = rank_and_size()
    dag = DAG()
    dag.add_function(Function("a", ["nothing"], abs))
    if rank == 0:
        with pytest.raises(handoff.DAGError, match="nothing"):
            handoff.execute(dag, run_dir=tmp_path)
    else:
        assert handoff.execute(dag, run_dir=tmp_path) is None


def test_a_cluster_does_several_runs(tmp_path):
    with handoff.Cluster() as cluster:
        if cluster:
            for count in (1, 40, 3):
                results = cluster.execute(sum_of_squares(count), run_dir=tmp_path / str(count))
                assert results["sum"] == sum(number * number for number in range(count))


def test_a_cluster_goes_on_after_a_failed_run(tmp_path):
    with handoff.Cluster() as cluster:
        if cluster:
            dag = DAG()
            dag.add_function(Function("fails", (), lambda: 1 / 0, max_retries=0))
            with pytest.raises(handoff.DAGFailed):
                cluster.execute(dag, run_dir=tmp_path / "failed")
            assert cluster.execute(sum_of_squares(5), run_dir=tmp_path / "after")["sum"] == 30


def test_only_rank_0_may_execute_on_a_cluster(tmp_path):
    with handoff.Cluster() as cluster:
        if cluster:
            assert cluster.execute(sum_of_squares(2), run_dir=tmp_path)["sum"] == 1
    if not cluster:
        with pytest.raises(handoff.UsageError, match="rank 0"):
            cluster.execute(sum_of_squares(2))


def test_parts_of_the_world_can_have_runs_of_their_own(tmp_path):
    rank, _ = rank_and_size()
    part = world().Split(rank % 2, rank)
    try:
        count = 5 + rank % 2
        results = handoff.execute(sum_of_squares(count), comm=part, results_on="all", run_dir=tmp_path)
        assert results["sum"] == sum(number * number for number in range(count))
    finally:
        part.Free()
