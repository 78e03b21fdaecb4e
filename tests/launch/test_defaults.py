"""The options that ``dag.py`` sets with ``handoff.start`` hold for the command line's run of it."""

from __future__ import annotations

import json

import pytest

STARTS = """
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.results import MemoryStore

class Tracker:
    def register(self, node, capabilities): print("register", node, flush=True)
    def request(self, node, cost):
        print("request", node, flush=True)
        return True
    def release(self, node, cost): print("release", node, flush=True)

class Store(MemoryStore):
    def __init__(self, rank):
        super().__init__()
        print("store", rank, flush=True)

def fails(): raise ValueError("again")

handoff.start(resource_tracker=Tracker(), result_store=Store)
dag = DAG("starts")
dag.add_function(Function("f", (), abs, [-3], cost={"cpu": 1}))
"""

FAILS = """
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
def build(args):
    handoff.start(max_retries=0, rank0_computes=True)
    dag = DAG("fails")
    def fails():
        print("tried", flush=True)
        raise ValueError("again")
    dag.add_function(Function("f", (), fails))
    return dag
"""


@pytest.mark.long
def test_the_guides_tracker_and_store_serve_the_ranks_of_the_command_line(handoff, tmp_path):
    (tmp_path / "starts.py").write_text(STARTS)
    ended = handoff("run", "-n", "2", "starts.py")
    assert ended.rc == 0, ended.err
    told = ended.out.splitlines()
    assert {"register 0", "register 1", "store 0", "store 1"} <= set(told)
    assert [line for line in told if line[:7] in ("request", "release")] == ["request 1", "release 1"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "env", "tries"),
    [([], {}, 1), (["--max-retries", "1"], {}, 2), ([], {"HANDOFF_MAX_RETRIES": "2"}, 3)],
    ids=["start", "flag", "environment"],
)
def test_flags_and_the_environment_win(handoff, tmp_path, words, env, tries):
    (tmp_path / "fails.py").write_text(FAILS)
    ended = handoff("run", *words, "fails.py", env=env)
    assert ended.rc == 1, ended.err
    assert ended.out.count("tried") == tries


@pytest.mark.long
def test_what_the_environment_denies_is_denied(handoff, tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    ended = handoff("run", "-n", "2", "fails.py", "--run-dir", "run", env={"HANDOFF_RANK0_COMPUTES": "no"})
    assert ended.rc == 1, ended.err
    assert "failed on rank 1" in ended.err
    ended = handoff("run", "-n", "2", "--isolation", "process", "fails.py", "--slots", "1", "--max-concurrency", "1")
    assert "failed on rank 0" in ended.err


@pytest.mark.long
def test_what_must_be_known_before_the_file_is_loaded_is_told_of(handoff, tmp_path):
    text = STARTS + "handoff.start(run_dir='theirs', fresh=True, check=True)\n"
    (tmp_path / "starts.py").write_text(text)
    ended = handoff("run", "starts.py", "--run-dir", "mine")
    assert ended.rc == 0, ended.err
    assert "handoff.start cannot set run_dir, fresh of a run of the command line; --run-dir, --fresh can" in ended.err
    assert not (tmp_path / "theirs").exists()
    assert json.loads((tmp_path / "mine" / "status.json").read_text())["exit_code"] == 0
    ended = handoff("run", "starts.py", "--run-dir", "mine")
    assert "1 of 1 functions are done" in ended.err


@pytest.mark.long
def test_check_heeds_them_too(handoff, tmp_path):
    costly = 'dag.add_function(Function("g", (), abs, [-3], cost={"license": 1}))\n'
    (tmp_path / "starts.py").write_text(STARTS + costly)
    assert handoff("check", "starts.py").rc == 3
    (tmp_path / "starts.py").write_text(STARTS + costly + "handoff.start(resources={'license': 1})\n")
    ended = handoff("check", "starts.py")
    assert ended.rc == 0, ended.err


def test_nonsense_is_refused_with_its_line(handoff, tmp_path):
    (tmp_path / "starts.py").write_text("import handoff_mpi\nhandoff_mpi.start(retries=3)\n")
    ended = handoff("run", "starts.py")
    assert ended.rc == 2, ended.err
    assert "line 2: UsageError: there is no option retries" in ended.err
