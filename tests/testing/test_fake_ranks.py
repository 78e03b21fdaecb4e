"""Fake ranks: the scheduler and the workers of a real job, in one process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.process_context import this_process
from handoff_mpi.results.supervision import LOST_HOSTS
from handoff_mpi.testing import fake_ranks


def where():
    return handoff.current_task().rank, os.getpid(), threading.get_ident()


def many(count, **declared):
    dag = DAG()
    for number in range(count):
        dag.add_function(Function(number, (), where, **declared))
    return dag


def test_calls_run_on_all_ranks_but_0_in_this_thread(tmp_path):
    with fake_ranks(4):
        results = handoff.execute(many(12), run_dir=tmp_path / "run", allocation_strategy="load_balanced")
    here = os.getpid(), threading.get_ident()
    assert {results[number] for number in range(12)} == {(rank, *here) for rank in (1, 2, 3)}
    assert all(results[number][0] == rank for number, rank in results.allocations.items())


def test_all_slots_of_a_rank_run_in_this_process(tmp_path):
    with fake_ranks(2, cpu=8):
        results = handoff.execute(many(32), run_dir=tmp_path / "run", isolation="rank")
    assert {results[number] for number in range(32)} == {(1, os.getpid(), threading.get_ident())}


def test_rank_0_computes_where_it_is_alone_or_told_to(tmp_path):
    with fake_ranks(1, cpu=4):
        assert set(handoff.execute(many(4), run_dir=tmp_path / "1").allocations.values()) == {0}
    with fake_ranks(2):
        results = handoff.execute(
            many(8), run_dir=tmp_path / "2", rank0_computes=True, allocation_strategy="load_balanced"
        )
    assert set(results.allocations.values()) == {0, 1}


def test_pins_costs_and_hosts_decide(tmp_path):
    dag = DAG()
    dag.add_function(Function("pin", (), where, node=2))
    dag.add_function(Function("host", (), where, node="host1"))
    dag.add_function(Function("gpu", (), lambda: handoff.current_task().gpus, cost={"gpu": 2}))
    dag.add_function(Function("tape", (), where, cost={"tape": 1}))
    dag.add_function(Function("large", (), where, cost={"memory": "20GB", "cpu": 3}))
    with fake_ranks(6, cpu=[1, 1, 1, 4, 4, 4], memory=["1GB"] * 5 + ["32GB"], gpu=[0, 0, 0, 1, 2, 0], hosts=2, tape=1):
        results = handoff.execute(dag, run_dir=tmp_path / "run")
        assert handoff.discover_nodes()[4] == {"cpu": 4, "memory": 1000, "gpu": 2, "tape": 1}
    assert results.allocations["pin"] == 2
    assert results.allocations["host"] in (3, 4, 5)
    assert (results.allocations["gpu"], results["gpu"]) == (4, (0, 1))
    assert results.allocations["large"] == 5
    assert results.allocations["tape"] != 0


@pytest.mark.parametrize(
    ("declared", "error", "words"),
    [
        ({"node": 7}, handoff.DAGError, "pinned to rank 7"),
        ({"node": "host9"}, handoff.DAGError, "host9"),
        ({"cost": {"gpu": 3}}, handoff.Unsatisfiable, "gpu"),
        ({"cost": {"tape": 1}}, handoff.Unsatisfiable, "tape"),
    ],
)
def test_what_a_real_job_refuses_is_refused(tmp_path, declared, error, words):
    with fake_ranks(3, gpu=2), pytest.raises(error, match=words):
        handoff.execute(many(1, **declared), run_dir=tmp_path / "run")


@pytest.mark.parametrize("pin", ["host9", "host9.site.org", 7])
def test_a_pin_to_what_an_earlier_launch_lost_fails_its_function_alone(tmp_path, monkeypatch, pin):
    monkeypatch.setenv(LOST_HOSTS, "host8,host9")
    dag = many(3)
    dag.add_function(Function("pinned", (), where, node=pin))
    with fake_ranks(3):
        results = handoff.execute(dag, run_dir=tmp_path / "run", check=False)
    assert (results.exit_code, results.counts()["done"], results.errors["pinned"].kind) == (4, 3, "no-room")
    with fake_ranks(3), pytest.raises(handoff.DAGError, match="host7"):
        handoff.execute(many(1, node="host7"), run_dir=tmp_path / "run2")


def test_a_strategy_of_ones_own_chooses(tmp_path):
    class Last:
        def allocate(self, ready, view):
            for group in ready:
                while len(group):
                    fitting = [rank for rank in view.ranks() if view.fits(group.cost, rank)]
                    if not fitting:
                        break
                    yield group[0], max(fitting)

    with fake_ranks(4, cpu=2):
        results = handoff.execute(many(3), run_dir=tmp_path / "run", allocation_strategy=Last())
    assert results.allocations == {0: 3, 1: 3, 2: 2}


def test_large_values_go_from_rank_to_rank_and_through_custom_stores(tmp_path):
    made = []

    class Store(dict):
        def __init__(self, rank):
            made.append(rank)

        put = dict.__setitem__
        get = dict.__getitem__
        has = dict.__contains__

        def delete(self, key):
            self.pop(key, None)

    dag = DAG()
    dag.add_function(Function("make", (), numpy.arange, [100_000], node=1))
    dag.add_function(Function("use", ["make"], lambda array: int(array.sum()), node=2))
    with fake_ranks(3):
        results = handoff.execute(dag, run_dir=tmp_path / "run", result_store=Store)
    assert results["use"] == 4_999_950_000
    assert results.allocations == {"make": 1, "use": 2}


def test_failures_are_retried_on_another_rank(tmp_path):
    def flaky():
        if handoff.current_task().attempt == 1:
            (tmp_path / "first").write_text(str(handoff.current_task().rank))
            raise ValueError("once")
        return handoff.current_task().rank

    dag = DAG()
    dag.add_function(Function("flaky", (), flaky))
    dag.add_function(Function("fails", (), lambda: 1 / 0, max_retries=0))
    with fake_ranks(3), pytest.raises(handoff.DAGFailed, match="division by zero") as caught:
        handoff.execute(dag, run_dir=tmp_path / "run")
    assert {int((tmp_path / "first").read_text()), caught.value.results["flaky"]} == {1, 2}


@pytest.mark.long
def test_a_timeout_and_a_crash_are_those_of_a_child_process(tmp_path):
    import time

    dag = DAG()
    dag.add_function(Function("slow", (), time.sleep, [60], timeout=0.3, max_retries=0))
    dag.add_function(Function("child", (), os.getpid, timeout=60))
    with fake_ranks(2):
        results = handoff.execute(dag, run_dir=tmp_path / "run", check=False)
    assert results["child"] != os.getpid()
    assert results.errors["slow"].kind == "timeout"


def test_setup_is_called_for_each_rank_and_registers(tmp_path):
    dag = DAG()
    dag.add_function(Function("t", (), lambda: handoff.current_task().rank, cost={"tape": 2}))
    with fake_ranks(4):
        results = handoff.execute(dag, run_dir=tmp_path / "run", setup=lambda rank: {"tape": rank % 3})
    assert results["t"] == 2


def test_resources_can_change_during_a_run(tmp_path):
    dag = DAG()
    dag.add_function(Function("a", (), lambda: handoff.update_node_resources(2, {"cpu": 3}), node=1))
    dag.add_function(Function("b", ["a"], lambda _: handoff.current_task().rank, cost={"cpu": 1}))
    with fake_ranks(3):
        results = handoff.execute(dag, run_dir=tmp_path / "run")
        assert handoff.discover_nodes()[2]["cpu"] in (1, 3)
    assert results["b"] in (1, 2)


def test_several_runs_a_cluster_and_a_resume(tmp_path):
    with fake_ranks(3):
        first = handoff.execute(many(4), run_dir=tmp_path / "a")
        again = handoff.execute(many(4), run_dir=tmp_path / "a")
        with handoff.Cluster() as cluster:
            assert cluster
            other = cluster.execute(many(3), run_dir=tmp_path / "b")
        local = handoff.execute_local(many(2), run_dir=tmp_path / "c")
    assert [first[number] for number in range(4)] == [again[number] for number in range(4)]
    assert {*other.allocations.values(), *local.allocations.values()} <= {1, 2}


def test_a_run_without_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fake_ranks(3):
        results = handoff.execute(many(4), run_dir=False)
    assert set(results.allocations.values()) <= {1, 2}
    assert not list(tmp_path.iterdir())


def test_afterwards_nothing_is_left(tmp_path):
    with pytest.raises(ZeroDivisionError), fake_ranks(3):
        1 / 0  # noqa: B018
    assert this_process.of(OwnJobs).current is None
    assert handoff.execute(many(1), run_dir=tmp_path / "run").allocations == {0: 0}


def test_an_interrupt_ends_the_run(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    dag = DAG()
    dag.add_function(Function("a", (), interrupt))
    with fake_ranks(3), pytest.raises(KeyboardInterrupt):
        handoff.execute(dag, run_dir=tmp_path / "run")
    assert handoff.execute(many(1), run_dir=tmp_path / "after")[0][0] == 0


def test_a_run_within_a_function_is_refused(tmp_path):
    dag = DAG()
    dag.add_function(Function("a", (), lambda: handoff.execute(many(1)), max_retries=0))
    with fake_ranks(2), pytest.raises(handoff.DAGFailed, match="this job executes a run"):
        handoff.execute(dag, run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("n", "amounts", "words"),
    [
        (0, {}, "whole number from 1"),
        (True, {}, "whole number from 1"),
        ("3", {}, "whole number from 1"),
        (3, {"cpu": [1, 2]}, "cpu has 2 amounts for 3 ranks"),
        (3, {"hosts": ["a"]}, "hosts names 1 hosts for 3 ranks"),
        (3, {"hosts": 0}, "hosts is a number of hosts"),
        (3, {"hosts": "abc"}, "hosts is a number of hosts"),
        (3, {"hosts": [1, 2, 3]}, "hosts is a number of hosts"),
    ],
)
def test_nonsense_is_refused(n, amounts, words):
    with pytest.raises(handoff.UsageError, match=words), fake_ranks(n, **amounts):
        pass


def test_numbers_may_be_those_of_numpy():
    with fake_ranks(numpy.int64(2), cpu=numpy.array([1, 2]), gpu=numpy.float64(1)):
        assert handoff.discover_nodes()[1] == {"cpu": 2, "memory": 16000, "gpu": 1}


def test_amounts_are_checked():
    with pytest.raises(handoff.DAGError), fake_ranks(2, memory="lots"):
        pass


def test_fake_ranks_do_not_nest():
    with fake_ranks(2), pytest.raises(handoff.UsageError, match="within"), fake_ranks(2):
        pass


def test_the_package_is_imported_without_pytest():
    code = "import handoff_mpi.testing, sys; assert 'pytest' not in sys.modules and '_pytest' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
