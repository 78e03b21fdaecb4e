"""Values that travel, stay and outlast the run; and what telemetry tells of them."""

from __future__ import annotations

import json

import pytest

SCRIPT = """
import json, sys
import numpy
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world
from handoff_mpi.runtime import value_store

if "blind" in sys.argv and world().Get_rank():
    value_store.read_status = lambda run_dir: {}  # as on a host that does not see rank 0's run-dir

told = []
def tell(event, measurements, metadata, config): told.append([event[1:], measurements, metadata])
handoff.telemetry.attach_many("t", handoff.telemetry.EVENTS, tell)

dag = DAG("values")
dag.add_function(Function("make", (), numpy.arange, [1_000_000], node=1))
dag.add_function(Function("sum", ["make"], lambda array: int(array.sum()), node=2))
results = handoff.execute(dag, keep=["make"], run_dir="run", isolation="rank")
if results is not None:
    assert results["make"].tolist() == list(range(1_000_000))
    assert results["sum"] == 499_999_500_000
    print("TOLD", json.dumps(told, default=repr))
"""


@pytest.mark.long
@pytest.mark.parametrize("sight", ["sees", "blind"])
def test_kept_values_outlast_the_run_wherever_they_were_made_and_it_is_told(mpirun, tmp_path, sight):
    (tmp_path / "values.py").write_text(SCRIPT)
    ended = mpirun(3, "values.py", sight)
    assert ended.rc == 0, ended.err
    assert len(list((tmp_path / "run" / "values").glob("*.value"))) == 1
    (line,) = [line for line in ended.out.splitlines() if line.startswith("TOLD ")]
    told = [(tuple(event), measurements, about) for event, measurements, about in json.loads(line[5:])]
    claims = [(event[1], about["node"], about["function_id"]) for event, _, about in told if event[0] == "resource"]
    assert claims == [("claimed", 1, "make"), ("released", 1, None), ("claimed", 2, "sum"), ("released", 2, None)]
    ((measured, about),) = [(measured, about) for event, measured, about in told if event == ("transfer", "stop")]
    assert measured["nbytes"] > 8_000_000
    assert measured["duration"] > 0
    assert (about["function_id"], about["source"], about["target"]) == ("make", 1, 2)
    assert all("system_time" in measured or "duration" in measured for _, measured, _ in told)


ENCODED = """
import handoff_mpi as handoff
from handoff_mpi import Argument, DAG, Function

def encode(value, source, target): return ("encoded", value)
def decode(payload, source, target): return payload[1]

dag = DAG("encoded")
dag.add_function(Function("make", (), abs, [-7], node=0))
dag.add_function(Function("take", [Argument("make", encode, decode)], str, node=1))
results = handoff.execute(dag, keep="all", run_dir="run", rank0_computes=True, checkpoint="all")
if results is not None:
    print("TAKEN", results["take"])
"""


@pytest.mark.long
def test_a_value_of_rank_0_that_lies_in_a_file_too_is_encoded_for_who_takes_it(mpirun, tmp_path):
    (tmp_path / "encoded.py").write_text(ENCODED)
    ended = mpirun(2, "encoded.py")
    assert ended.rc == 0, ended.err
    assert "TAKEN 7" in ended.out


SETUP = """
from handoff_mpi import DAG, current_task, task
base = None
calls = []
def helper(x): return base + x
def setup(rank):
    global base
    if FAILS and not os.environ.get("OMPI_COMM_WORLD_RANK"): raise OSError("no licence server")
    base = 1000 * rank
    return {"license": 2}
@task(cost={"license": 1})
def use(x):
    calls.append(x)
    return helper(x) - 1000 * current_task().rank, len(calls)
@task
def check(parts):
    assert sorted(part[0] for part in parts) == list(range(20)), parts
    print("USED", max(part[1] for part in parts), flush=True)
with DAG("set up") as dag:
    check([use(k) for k in range(20)])
"""


@pytest.mark.long
@pytest.mark.sample("1-process", "3-rank")
@pytest.mark.parametrize("isolation", ["rank", "process"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_what_setup_prepares_is_there_for_functions(handoff, tmp_path, ranks, isolation):
    (tmp_path / "s.py").write_text("import os\nFAILS = False\n" + SETUP)
    words = ["-n", str(ranks)] if ranks > 1 else []
    ended = handoff("run", *words, "--isolation", isolation, "s.py")
    assert ended.rc == 0, ended.err
    (used,) = [int(line.split()[1]) for line in ended.out.splitlines() if line.startswith("USED")]
    assert used >= 20 // max(1, ranks - 1) / 2, "globals are not shared between calls of one process"


@pytest.mark.long
def test_a_timeout_is_for_the_call_not_for_the_setup_before_it(handoff, tmp_path):
    (tmp_path / "dag.py").write_text("""
import time
from handoff_mpi import DAG, Function
def setup(rank): time.sleep(0.6)
dag = DAG("x")
dag.add_function(Function("f", (), abs, [-1], timeout=0.5, max_retries=0))
""")
    assert handoff("run", "dag.py").rc == 0


@pytest.mark.long
def test_a_setup_that_fails_in_a_child_is_told(handoff, tmp_path):
    (tmp_path / "s.py").write_text("import os\nFAILS = True\n" + SETUP)
    ended = handoff("run", "-n", "2", "--isolation", "process", "--max-retries", "0", "s.py")
    assert ended.rc == 1, ended.err
    assert "setup(1) failed in a child process: no licence server" in ended.err
