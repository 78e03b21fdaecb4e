"""Functions that cripple the process they run in: it is ended, and the run continues without it."""

from __future__ import annotations

import json
import os
import time

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function

CRIPPLING = """
import builtins, os
from handoff_mpi import DAG, Function

def once():
    try:
        os.close(os.open("once", os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def replaces_len():
    if once():
        builtins.len = None
    return 1

def finalises():
    from mpi4py import MPI
    MPI.Finalize()

def build(args):
    dag = DAG("crippling")
    dag.add_function(Function("finalises", (), finalises, max_retries=0))
    dag.add_function(Function("replaces len", (), replaces_len))
    for number in range(20):
        dag.add_function(Function(number, (), abs, [number]))
    return dag
"""


@pytest.mark.long
def test_a_rank_whose_loop_a_function_has_broken_is_replaced_by_others(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(CRIPPLING)
    ended = handoff("run", "-n", "3", "--isolation", "rank", "--run-dir", "run", "dag.py")
    assert ended.rc == 1, ended.err
    assert ended.err.count("RuntimeError: MPI_Finalize is refused") >= 1, ended.err
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["done"], status["failed"]) == (21, 1)


def execute_another_program(place):
    try:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "alive"
    return os.execv("/bin/sleep", ["sleep", "60"])


@pytest.mark.long
def test_a_child_that_executes_another_program_has_died(tmp_path):
    dag = DAG("executes")
    dag.add_function(Function("x", (), execute_another_program, [str(tmp_path / "once")]))
    results = handoff.execute_local(dag, isolation="process", run_dir=tmp_path / "run")
    assert results["x"] == "alive"
    assert results.incidents() == {"death": 1}


class HangsWhenUnpickled:
    def __reduce__(self):
        return time.sleep, (60,)


def test_an_input_that_hangs_as_it_is_unpickled_counts_against_the_timeout(tmp_path):
    dag = DAG("hangs")
    dag.add_function(Function("make", (), HangsWhenUnpickled))
    dag.add_function(Function("take", ["make"], id, timeout=0.5, max_retries=0))
    results = handoff.execute_local(dag, run_dir=tmp_path / "run", check=False)
    assert results.errors["take"].kind == "timeout"
