"""``task_context`` answers ``current_task()`` where no run does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.testing import task_context


def test_the_context_is_what_was_given():
    with task_context(id=("fit", 3), attempt=2, seed=7, rank=5, cores=4, gpus=[1], gpu_uuids=["a"], run="r") as context:
        assert handoff.current_task() is context
        assert (context.id, context.attempt, context.seed, context.rank) == (("fit", 3), 2, 7, 5)
        assert (context.cores, context.gpus, context.gpu_uuids, context.run) == (4, (1,), ("a",), "r")


def test_without_a_seed_it_is_the_one_of_a_run(tmp_path):
    dag = DAG()
    dag.add_function(Function("a", (), lambda: handoff.current_task().seed))
    results = handoff.execute_local(dag, run_dir=tmp_path / "run")
    with task_context("a"):
        assert handoff.current_task().seed == results["a"]


def test_a_seed_of_zero_counts():
    with task_context(seed=0):
        assert handoff.current_task().seed == 0


def test_the_scratch_directory_is_removed():
    with task_context() as context:
        scratch = handoff.current_task().scratch
        (scratch / "file").write_text("x")
        assert context.scratch == scratch
    assert not scratch.exists()


def test_contexts_nest_and_end_with_an_error():
    with task_context("outer"):
        with pytest.raises(ZeroDivisionError), task_context("inner"):
            1 / 0  # noqa: B018
        assert handoff.current_task().id == "outer"
    with pytest.raises(handoff.UsageError, match="current_task"):
        handoff.current_task()


def test_a_thread_that_a_function_starts_is_told_to_get_its_task_from_it():
    def ask_in_a_thread():
        with ThreadPoolExecutor(1) as pool:
            return str(pool.submit(handoff.current_task).exception())

    dag = handoff.DAG("threads")
    dag.add_function(handoff.Function("a", (), ask_in_a_thread))
    results = handoff.execute_local(dag, run_dir=False)
    assert "not in threads that the function starts: ask before, and pass it to them" in results["a"]
