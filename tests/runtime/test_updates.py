"""Resources that change while a run continues."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import handoff_mpi as handoff
from handoff_mpi.runtime.resource_updates import UpdateTarget
from handoff_mpi.testing import settings_restored

GROWING = """
import os, time
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

def nonsense():
    handoff.update_node_resources(99, {"cpu": 4})

def grow():
    try:
        nonsense()
    except handoff.UsageError as error:
        print(error)
    handoff.update_node_resources(0, {"cpu": 4})
    handoff.update_node_resources(1, {"cpu": 4})
    time.sleep(0.2)

def meet(_, number):
    "Return once all four run at the same time."
    open(f"meet{number}", "w").close()
    end = time.monotonic() + 30
    while sum(os.path.exists(f"meet{each}") for each in range(4)) < 4:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)
    nonsense()

dag = DAG("growing")
dag.add_function(Function("grow", (), grow))
for number in range(4): dag.add_function(Function(number, ["grow"], meet, [number], max_retries=0))
"""


@pytest.mark.long
def test_a_rank_that_is_given_cores_runs_more_calls_and_unknown_ranks_are_told_of(handoff, tmp_path):
    (tmp_path / "growing.py").write_text(GROWING)
    words = ["run", "-n", "2", "--isolation", "rank", "growing.py"]
    ended = handoff(*words, env={"HANDOFF_CORES": "1"})
    assert "there is no rank 99 in this job: name one from 0 to 1" in ended.out, "in a rank"
    assert "update_node_resources(0, ...) changes nothing: rank 0 takes no part in this run" in ended.err
    assert ended.err.count("update_node_resources(99, ...) changes nothing") == 1, "in three child processes"
    assert "TimeoutError" not in ended.err
    assert ended.rc == 1, "in the rank itself it is an error"
    assert "4 done, 1 failed" in ended.err


def test_updates_go_to_the_newest_run_of_a_thread_that_has_not_ended():
    target = UpdateTarget()
    outer, inner, other = object(), object(), object()
    with ThreadPoolExecutor(1) as thread:

        def there(function, *arguments):
            return thread.submit(function, *arguments).result()

        beside = target.taking(other)
        assert target.current is None
        with target.taking(outer):
            there(beside.__enter__)
            with target.taking(inner):
                assert (target.current, there(lambda: target.current)) == (inner, other)
            assert target.current is outer
        assert target.current is other, "of a thread without a run"
        there(beside.__exit__, None, None, None)
    assert target.current is None


@pytest.mark.parametrize("rank", [-1, 1, 99, 0.0, True, "0", None])
def test_ranks_that_are_not_there_are_refused(rank, tmp_path):
    dag = handoff.DAG()
    dag.add_function(handoff.Function("update", (), handoff.update_node_resources, [rank, {"cpu": 2}], max_retries=0))
    results = handoff.execute_local(dag, run_dir=tmp_path, check=False)
    assert results.errors["update"].kind == "UsageError"


INTRODUCING = """
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

def bring():
    handoff.update_node_resources(handoff.current_task().rank, {"licence": 2})

dag = DAG("introducing")
dag.add_function(Function("bring", (), bring))
for number in range(4):
    dag.add_function(Function(number, ["bring"], lambda _: "ran", cost={"licence": 1}))
dag.add_function(Function("alone", (), lambda: "ran", cost={"licence": 2}))
"""


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["--isolation", "process"], ["-n", "3"]], ids=" ".join)
def test_an_update_may_introduce_a_resource(words, handoff, tmp_path):
    (tmp_path / "dag.py").write_text(INTRODUCING)
    ended = handoff("run", *words, "dag.py")
    assert ended.rc == 0, ended.err
    assert "6 done of 6" in ended.err


@pytest.mark.long
def test_check_tells_what_waits_for_an_update(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(INTRODUCING)
    ended = handoff("check", "dag.py")
    assert ended.rc == 0, ended.err
    assert "4 functions with cpu=1, licence=1 fit nowhere yet, and wait for update_node_resources" in ended.out


def dag_that_needs(**cost):
    dag = handoff.DAG()
    dag.add_function(handoff.Function("first", (), abs, [-1]))
    dag.add_function(handoff.Function("needs", ["first"], abs, cost=cost))
    return dag


@pytest.fixture
def nothing_registered():
    with settings_restored():
        yield


@pytest.mark.usefixtures("nothing_registered")
def test_of_a_resource_that_a_handler_brings_0_is_registered_before(tmp_path):
    def bring(event, measurements, metadata, config):
        if metadata["function_id"] == "first":
            handoff.update_node_resources(0, {"licence": 1})

    with pytest.raises(handoff.Unsatisfiable):
        handoff.execute_local(dag_that_needs(licence=1), run_dir=tmp_path / "a")
    handoff.register_local_node({"licence": 0})
    handoff.telemetry.attach("bring", ("handoff", "execution", "function", "stop"), bring)
    try:
        assert handoff.execute_local(dag_that_needs(licence=1), run_dir=tmp_path / "b")["needs"] == 1
    finally:
        handoff.telemetry.detach("bring")


@pytest.mark.usefixtures("nothing_registered")
def test_what_never_comes_fails_what_waits_for_it_once_nothing_runs(tmp_path):
    handoff.register_local_node({"licence": 0, "gpu": 0})
    results = handoff.execute_local(dag_that_needs(licence=1), run_dir=tmp_path / "a", check=False)
    assert results.exit_code == 4
    assert results["first"] == 1
    for cost in ({"gpu": 1}, {"cpu": 10_000}, {"licence": 1, "tape": 1}):
        with pytest.raises(handoff.Unsatisfiable):
            handoff.execute_local(dag_that_needs(**cost), run_dir=tmp_path / "b")


def test_a_pool_of_the_whole_job_is_no_ranks_to_change(tmp_path, capsys):
    dag = handoff.DAG()
    dag.add_function(handoff.Function("more", (), handoff.update_node_resources, [0, {"licence": 5}]))
    handoff.execute_local(dag, resources={"licence": 1}, run_dir=tmp_path)
    said = "update_node_resources(0, ...) changes nothing: licence belongs to the whole job (resources=), not to a rank"
    assert said in capsys.readouterr().err


def test_a_tracker_is_told_what_a_rank_offers_since_an_update(tmp_path):
    registered = []

    class Tracker:
        def register(self, rank, capabilities):
            registered.append((rank, capabilities.get("licence"), capabilities["cpu"]))

        def request(self, rank, cost):
            return True

        def release(self, rank, cost): ...

    dag = handoff.DAG()
    dag.add_function(handoff.Function("more", (), handoff.update_node_resources, [0, {"licence": 5, "cpu": 3}]))
    handoff.execute_local(dag, resource_tracker=Tracker(), run_dir=tmp_path)
    (_, before, _), *rest = registered
    assert before is None
    assert rest == [(0, 5, 3)]
