"""The guide, sentence by sentence, in Python over MPI."""

from __future__ import annotations

import json
import textwrap

import networkx
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Argument, Function
from handoff_mpi.results import MemoryStore
from handoff_mpi.testing import settings_restored


@pytest.fixture(autouse=True)
def clean_process():
    """Registrations and defaults of a test end with it."""
    with settings_restored():
        yield


def guide_dag():
    dag = DAG("guide")
    dag.add_function(Function("input_data", (), list, [range(10)]))
    dag.add_function(Function("cpu_intensive", ["input_data"], sum, cost={"cpu": 1, "memory": 100}))
    dag.add_function(Function("gpu_task", ["input_data"], max, cost={"gpu": 1, "memory": 100}))
    dag.add_function(Function("aggregation", ["cpu_intensive", "gpu_task"], lambda a, b: (a, b)))
    return dag


def test_register_the_local_node_with_its_capabilities():
    handoff.register_local_node({"cpu": 8, "memory": 16000, "gpu": 1})
    nodes = handoff.discover_nodes()
    assert {"cpu": 8, "memory": 16000, "gpu": 1}.items() <= nodes[0].items()


@pytest.mark.long
def test_discover_all_nodes_of_the_job(mpirun, tmp_path):
    (tmp_path / "d.py").write_text(
        textwrap.dedent("""
        import json, handoff_mpi as handoff
        from handoff_mpi import DAG, Function
        def setup(rank): return {"tape": rank}
        def build(args):
            open("nodes.json", "w").write(json.dumps(handoff.discover_nodes()))
            dag = DAG()
            dag.add_function(Function("a", (), abs, [-1], cost={"tape": 2}))
            return dag
        """)
    )
    ended = mpirun(3, "-m", "handoff_mpi", "run", "--output", "plain", "d.py")
    assert ended.rc == 0, ended.err
    nodes = json.loads((tmp_path / "nodes.json").read_text())
    assert [nodes[rank].get("tape") for rank in "012"] == [0, 1, 2]
    assert all(node["cpu"] > 0 and node["memory"] > 0 for node in nodes.values())


def test_functions_claim_what_they_cost(tmp_path):
    handoff.register_local_node({"gpu": 1})
    dag = DAG()
    dag.add_function(Function("who", (), lambda: handoff.current_task().gpus, cost={"gpu": 1}))
    assert handoff.execute_local(dag, run_dir=tmp_path)["who"] == (0,)


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "cost_optimized"])
def test_execute_distributed_with_each_strategy(tmp_path, strategy):
    handoff.register_local_node({"gpu": 1})
    dag = guide_dag()
    dag.validate()
    results = handoff.execute_distributed(dag, allocation_strategy=strategy, max_retries=3, run_dir=tmp_path)
    assert results["aggregation"] == (45, 9)


@pytest.mark.long
def test_execute_across_ranks_from_a_script(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import handoff_mpi as handoff
        from handoff_mpi import DAG, Function
        class Box:
            def __init__(self, x): self.x = x
        def square(x): return Box(x * x)
        def total(*boxes): return sum(box.x for box in boxes)
        dag = DAG()
        for k in range(20): dag.add_function(Function(k, (), square, [k], node=1 + k % 2))
        dag.add_function(Function("sum", list(range(20)), total))
        results = handoff.execute(dag, allocation_strategy="load_balanced", results_on="all")
        assert results["sum"] == 2470, results["sum"]
        assert {results.allocations[k] for k in range(20)} == {1, 2}
        print("seen")
        """)
    )
    for ft in (False, True):
        ended = mpirun(3, "script.py", ft=ft)
        assert ended.rc == 0, ended.err
        assert ended.out.count("seen") == 3


def test_task_retry_on_failure(tmp_path):
    def flaky():
        if handoff.current_task().attempt < 3:
            raise RuntimeError("not yet")
        return "worked"

    dag = DAG()
    dag.add_function(Function("flaky", (), flaky))
    assert handoff.execute_local(dag, run_dir=tmp_path / "three")["flaky"] == "worked"
    with pytest.raises(handoff.DAGFailed, match="not yet") as caught:
        handoff.execute_local(dag, max_retries=1, run_dir=tmp_path / "two")
    error = caught.value.results.errors["flaky"]
    assert (error.kind, error.attempts) == ("RuntimeError", 2)
    assert "in flaky" in error.traceback


@pytest.mark.long
def test_results_move_between_nodes(mpirun, tmp_path):
    (tmp_path / "d.py").write_text(
        textwrap.dedent("""
        import numpy as np
        from handoff_mpi import DAG, Function, Argument
        def half(value, source, target): return (value[: len(value) // 2], source, target)
        def whole(payload, source, target): return payload + (source, target)
        dag = DAG()
        dag.add_function(Function("a", (), np.arange, [200_000], node=1))
        dag.add_function(Function("b", ["a"], lambda x: (x.sum(), x.flags.writeable), node=2))
        def took(payload): return [len(payload[0]), *payload[1:]]
        dag.add_function(Function("d", (), np.arange, [200_000], node=1))
        dag.add_function(Function("c", [Argument("d", half, whole)], took, node=2))
        dag.add_function(Function("out", ["b", "c"], lambda b, c: print("GOT", b, c, flush=True)))
        """)
    )
    ended = mpirun(3, "-m", "handoff_mpi", "run", "--output", "plain", "d.py")
    assert ended.rc == 0, ended.err
    assert "GOT (np.int64(19999900000), False) [100000, 1, 2, 1, 2]" in ended.out, ended.out


def test_the_guides_telemetry_handler_is_told(tmp_path):
    told = []

    def handler(name, measurements, metadata, config):
        told.append((name[-1], metadata["function_id"], metadata["node"], config))
        assert measurements["system_time"] > 1e9

    handoff.telemetry.attach("handoff-monitoring", ("handoff", "execution", "function", "start"), handler, "config")
    try:
        dag = DAG()
        dag.add_function(Function("f", (), abs, [-3]))
        handoff.execute_local(dag, run_dir=tmp_path)
    finally:
        handoff.telemetry.detach("handoff-monitoring")
    assert told == [("start", "f", 0, "config")]


class Tracker:
    def __init__(self):
        self.calls = []
        self.refusals = 2

    def register(self, node, capabilities):
        self.calls.append(("register", node))

    def request(self, node, cost):
        self.refusals -= 1
        self.calls.append(("request", node, cost.get("cpu")))
        return self.refusals < 0

    def release(self, node, cost):
        self.calls.append(("release", node, cost.get("cpu")))


class CountingStore(MemoryStore):
    puts: list = []

    def put(self, key, payload):
        self.puts.append(key)
        super().put(key, payload)


def test_custom_resource_tracker_and_result_store(tmp_path):
    tracker = Tracker()
    CountingStore.puts.clear()
    handoff.start(resource_tracker=tracker, result_store=CountingStore)
    dag = DAG()
    dag.add_function(Function("f", (), abs, [-3]))
    assert handoff.execute_local(dag, run_dir=tmp_path)["f"] == 3
    assert tracker.calls == [("register", 0)] + [("request", 0, 1)] * 3 + [("release", 0, 1)]
    assert len(CountingStore.puts) == 1


def test_dynamic_resource_updates_act_during_a_run(tmp_path):
    handoff.register_local_node({"cpu": 8, "license": 0})
    dag = DAG()
    dag.add_function(Function("raise", (), lambda: handoff.update_node_resources(0, {"cpu": 12, "license": 3})))
    dag.add_function(Function("after", ["raise"], lambda _: "ran", cost={"cpu": 1}))
    assert handoff.execute_local(dag, run_dir=tmp_path)["after"] == "ran"


def test_visualizing_distributed_execution(tmp_path):
    dag = guide_dag()
    handoff.register_local_node({"gpu": 1})
    results = handoff.execute_local(dag, run_dir=tmp_path)
    data = handoff.visualization.execution_graph(results)
    graph = networkx.node_link_graph(json.loads(json.dumps(data)), edges="edges")
    assert set(graph.nodes) == {"input_data", "cpu_intensive", "gpu_task", "aggregation"}
    assert graph.nodes["gpu_task"]["rank"] == 0
    assert graph.nodes["gpu_task"]["state"] == "done"


def test_values_that_were_not_kept_say_how_to_keep_them(tmp_path):
    dag = DAG()
    dag.add_function(Function("big", (), bytes, [100_000]))
    dag.add_function(Function("size", ["big"], len))
    results = handoff.execute_local(dag, run_dir=tmp_path / "a", checkpoint="none")
    with pytest.raises(handoff.ValueUnavailable, match="keep"):
        results["big"]
    assert len(handoff.execute_local(dag, keep=["big"], run_dir=tmp_path / "b")["big"]) == 100_000


def test_arguments_encode_and_decode_on_the_same_rank(tmp_path):
    dag = DAG()
    dag.add_function(Function("a", (), abs, [-3]))
    twice = Argument("a", lambda v, s, t: (v, s, t), lambda p, s, t: (*p, s, t))
    dag.add_function(Function("b", [twice], lambda x: x))
    assert handoff.execute_local(dag, run_dir=tmp_path)["b"] == (3, 0, 0, 0, 0)
