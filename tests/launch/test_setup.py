"""``setup(rank)`` given to ``execute``, from a script of one's own, a test, or a Cluster."""

from __future__ import annotations

import os

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function

SCRIPT = """
import os, sys
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world

PREPARED = None

def setup(rank):
    global PREPARED
    PREPARED = rank
    os.environ["PREPARED_FOR"] = str(rank)
    return {"tape": rank}

def prepared_for():
    return handoff.current_task().rank, os.environ.get("PREPARED_FOR"), PREPARED

dag = DAG("setup")
for rank in (1, 2):
    dag.add_function(Function(rank, (), prepared_for, node=rank, cost={"tape": rank}))
options = {"isolation": sys.argv[2]}
if sys.argv[1] == "cluster":
    with handoff.Cluster() as cluster:
        results = cluster.execute(dag, setup=setup, **options) if cluster else None
else:
    results = handoff.execute(dag, setup=setup if world().rank == 0 else None, **options)
if results is not None:
    print([results[rank] for rank in (1, 2)])
"""


def prepared(monkeypatch):
    monkeypatch.setenv("PREPARED_FOR", "nobody")  # so that it is restored
    monkeypatch.delenv("PREPARED_FOR")

    def setup(rank):
        os.environ["PREPARED_FOR"] = str(rank)
        return {"tape": 2}

    dag = DAG()
    dag.add_function(Function("env", (), os.environ.get, ["PREPARED_FOR"], cost={"tape": 2}))
    return setup, dag


@pytest.mark.parametrize("isolation", ["auto", "process"])
def test_execute_local_honours_it(monkeypatch, tmp_path, isolation):
    setup, dag = prepared(monkeypatch)
    results = handoff.execute_local(dag, setup=setup, isolation=isolation, run_dir=tmp_path / "run")
    assert results["env"] == "0"
    with pytest.raises(handoff.Unsatisfiable):
        handoff.execute_local(dag, run_dir=tmp_path / "without")


def test_execute_and_a_cluster_in_one_process_honour_it(monkeypatch, tmp_path):
    setup, dag = prepared(monkeypatch)
    assert handoff.execute(dag, setup=setup, run_dir=tmp_path / "run")["env"] == "0"
    with handoff.Cluster() as cluster:
        assert cluster.execute(dag, setup=setup, run_dir=tmp_path / "cluster")["env"] == "0"


def fails(rank):
    raise ValueError("no licence")


@pytest.mark.parametrize(
    ("setup", "words"), [(fails, r"setup\(0\) failed: ValueError: no licence"), (7, "setup must be a function")]
)
def test_one_that_fails_ends_the_run_before_it_starts(tmp_path, setup, words):
    dag = DAG()
    dag.add_function(Function("a", (), abs, [1]))
    with pytest.raises(handoff.UsageError, match=words):
        handoff.execute_local(dag, setup=setup, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize(("how", "isolation"), [("execute", "rank"), ("cluster", "process")])
def test_ranks_of_a_script_are_set_up(mpirun, tmp_path, how, isolation):
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = mpirun(3, "script.py", how, isolation)
    assert ended.rc == 0, ended.err
    assert ended.out.strip() == "[(1, '1', 1), (2, '2', 2)]"
