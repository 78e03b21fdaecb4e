"""Resources that change while a run continues."""

from __future__ import annotations

import pytest

import handoff_mpi as handoff

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


@pytest.mark.parametrize("rank", [-1, 1, 99, 0.0, True, "0", None])
def test_ranks_that_are_not_there_are_refused(rank, tmp_path):
    dag = handoff.DAG()
    dag.add_function(handoff.Function("update", (), handoff.update_node_resources, [rank, {"cpu": 2}], max_retries=0))
    results = handoff.execute_local(dag, run_dir=tmp_path, check=False)
    assert results.errors["update"].kind == "UsageError"
