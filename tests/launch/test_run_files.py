"""Runs without files: all is as with them, but nothing is written and nothing can be resumed."""

from __future__ import annotations

import json

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function, UsageError, start
from handoff_mpi.launch.run_files import open_files
from handoff_mpi.results.journal import Journal
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.testing import settings_restored
from tests.conftest import ROOT


def large(nbytes: int) -> bytes:
    return b"x" * nbytes


def both(one: bytes, other: bytes) -> bytes:
    return one + other


def fail() -> None:
    raise ValueError("no luck")


def diamond() -> DAG:
    dag = DAG("diamond")
    dag.add_function(Function("a", (), large, [200_000]))
    dag.add_function(Function("b", (), large, [300_000]))
    dag.add_function(Function("c", ["a", "b"], both))
    return dag


@pytest.fixture
def nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not any(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_values_are_there_without_a_file(isolation, nothing_is_written):
    results = handoff.execute_local(diamond(), run_dir=False, keep=["a"], isolation=isolation)
    assert len(results["a"]) == 200_000 and len(results["c"]) == 500_000
    assert results.run_dir is None and "files:" not in results.summary()
    assert set(results.values) == {"a", "c"}
    with pytest.raises(handoff.ValueUnavailable, match="not kept"):
        results["b"]


def test_a_launch_that_was_superseded_does_not_renew_the_status(tmp_path):
    options = RunOptions(run_dir=tmp_path / "run")
    with open_files(options) as first:
        first.begin()
        first.write_running({"launch": 1})
        first.renew_running({"launch": 1, "beat": 1})
        status = json.loads((tmp_path / "run" / "status.json").read_text())
        assert (status["launch"], status["beat"]) == (1, 1)
        Journal(tmp_path / "run").close()
        first.renew_running({"launch": 1, "beat": 2})
        assert json.loads((tmp_path / "run" / "status.json").read_text()) == status
        first.close()


def test_no_report_comes_behind_the_verdict(tmp_path):
    with open_files(RunOptions(run_dir=tmp_path / "run")) as files:
        files.begin()
        files.renew_running({"beat": 1})
        files.write_verdict(status="done", exit_code=0)
        files.renew_running({"beat": 2})
        assert json.loads((tmp_path / "run" / "status.json").read_text()) == {"status": "done", "exit_code": 0}
        files.close()


def test_a_run_without_files_fails_as_others_do(nothing_is_written):
    dag = diamond()
    dag.add_function(Function("f", (), fail, max_retries=0))
    with pytest.raises(handoff.DAGFailed, match="no luck") as caught:
        handoff.execute_local(dag, run_dir=False)
    assert len(caught.value.results["c"]) == 500_000


def test_a_cluster_has_a_run_dir_for_runs_that_name_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with handoff.Cluster(run_dir=False) as cluster:
        assert cluster.execute(diamond()).run_dir is None
        assert cluster.execute(diamond(), run_dir="mine").run_dir == tmp_path / "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_start_can_say_that_runs_have_no_files(nothing_is_written):
    with settings_restored():
        start(run_dir=False)
        assert handoff.execute_local(diamond()).run_dir is None


def test_what_is_not_kept_cannot_run_again(nothing_is_written):
    with pytest.raises(UsageError, match="rerun is for a run that is resumed, and run_dir=False keeps nothing"):
        handoff.execute_local(diamond(), run_dir=False, rerun=["a"])


@pytest.mark.parametrize("run_dir", [True, 0, 1.5, b"x", ["x"]])
def test_what_is_neither_a_path_nor_false_is_refused(run_dir):
    with pytest.raises(UsageError, match="run_dir is the path of a directory"):
        handoff.Cluster(run_dir=run_dir)


ON_RANKS = """
import os
import handoff_mpi as handoff
from tests.launch.test_run_files import diamond

with handoff.Cluster(run_dir=False) as cluster:
    if cluster:
        for isolation in ("rank", "process"):
            dag = diamond()
            for function, rank in zip(dag, (1, 2, 1)):
                function.node = rank
            results = cluster.execute(dag, keep="all", isolation=isolation)
            print("VALUES", *(len(results[id]) for id in "abc"), results.allocations)
        print("FILES", [name for name in os.listdir() if name != "script.py"])
"""


@pytest.mark.long
def test_values_of_ranks_come_home_where_there_are_no_files(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(ON_RANKS)
    ended = mpirun(3, "script.py", env={"PYTHONPATH": str(ROOT)})
    assert ended.rc == 0, ended.err
    lines = [line for line in ended.out.splitlines() if line.startswith(("VALUES", "FILES"))]
    assert lines == ["VALUES 200000 300000 500000 {'a': 1, 'b': 2, 'c': 1}"] * 2 + ["FILES []"]
