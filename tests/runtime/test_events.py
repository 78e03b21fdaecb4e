"""The records that runs keep of themselves: events.jsonl, summary.json, samples of hosts' use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import handoff_mpi
from handoff_mpi import DAG, Function
from handoff_mpi.dag import Plan
from handoff_mpi.messages import DEATH, DIED, ErrorReport
from handoff_mpi.results.event_log import EVENT_FIELDS
from handoff_mpi.runtime.host_usage import USAGE_INTERVAL_S, HostUsage, interval_s
from handoff_mpi.runtime.loss_printer import MAX_LINES_OF_LOSSES
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.scheduler import Cause
from handoff_mpi.scheduler.transitions import FailedAttempt, Lost, MemoryHigh, MemoryNormal, NotUpdated, Returned
from tests.processes import descendants, environment
from tests.runtime.test_unhappy import PREAMBLE

ALWAYS = {"event", "time_s", "launch"}

FAILING = (
    PREAMBLE
    + """
import os, time
from handoff_mpi import DAG, Function
TRIED = "tried"
def nap(seconds=None): time.sleep(seconds or 0.0)
def boom(): raise ValueError("no luck")
def twice():
    if not os.path.exists(TRIED):
        open(TRIED, "w").close()
        raise OSError("try again")
dag = DAG("events")
for n in range(4):
    dag.add_function(Function(n, (), nap, [1.0]))
dag.add_function(Function("boom", (), boom, max_retries=0))
dag.add_function(Function("after", ["boom"], nap))
dag.add_function(Function("twice", (), twice))
"""
)


def events_in(directory):
    return [json.loads(line) for line in (Path(directory) / "events.jsonl").read_text().splitlines()]


def check_fields(told):
    for each in told:
        assert set(each) - ALWAYS <= set(EVENT_FIELDS[each["event"]]), each
        assert set(each) >= ALWAYS


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["-n", "3"]])
def test_a_run_tells_what_happened_to_it(handoff, tmp_path, words):
    (tmp_path / "dag.py").write_text(FAILING)
    ended = handoff("run", *words, "--run-dir", "run", "dag.py")
    assert ended.rc == 1, ended.err
    told = events_in(tmp_path / "run")
    check_fields(told)
    names = [each["event"] for each in told]
    assert names[0] == "run.start" and names[-1] == "run.stop"
    assert names.count("rank.joined") == (3 if words else 1)
    assert {"function.retry", "function.failed", "function.skipped"} <= set(names)
    (failed,) = [each for each in told if each["event"] == "function.failed"]
    assert failed["id"] == "boom" and failed["place"].endswith("dag.py:10") and "no luck" in failed["traceback"]
    assert told[-1]["status"] == "failed" and told[-1]["failed"] == 1 and told[-1]["done"] == 5
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["schema"], summary["exit_code"], summary["counts"]["done"]) == (1, 1, 5)
    assert summary["failures"][0]["first"] == "boom" and summary["failed_attempts"] == {"ValueError": 1, "OSError": 1}


@pytest.mark.long
def test_the_use_of_the_host_is_sampled(tmp_path):
    dag = DAG("naps")
    dag.add_function(Function("nap", (), time.sleep, [4.5]))
    handoff_mpi.execute_local(dag, run_dir=tmp_path / "run")
    told = [each for each in events_in(tmp_path / "run") if each["event"] == "host.usage"]
    assert told and 0 <= told[0]["cpu_percent"] <= 100 and told[0]["memory_used_mb"] > 0
    check_fields(told)
    (host,) = json.loads((tmp_path / "run" / "status.json").read_text())["hosts"].values()
    assert host["memory_mb"] > 0 and "memory_used_mb" not in host, "the use at its end is not that of a run"


@pytest.mark.long
@pytest.mark.parametrize(("record", "has_events"), [("summary", True), ("none", False)])
def test_less_can_be_recorded(handoff, tmp_path, record, has_events):
    (tmp_path / "dag.py").write_text(FAILING)
    assert handoff("run", "--record", record, "--run-dir", "run", "dag.py").rc == 1
    for name in ("events.jsonl", "summary.json"):
        assert (tmp_path / "run" / name).exists() == has_events
    if has_events:
        assert not [each for each in events_in(tmp_path / "run") if each["event"].startswith("function.")]


@pytest.mark.soak
def test_both_launches_of_a_killed_run_tell_their_story(tmp_path, handoff):
    (tmp_path / "dag.py").write_text(FAILING.replace("[1.0]", "[3.0]"))
    command = [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "run", "dag.py"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while not (tmp_path / "run" / "events.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)
    first.kill()
    first.wait()
    assert "rank.joined" in {each["event"] for each in events_in(tmp_path / "run")}
    assert handoff("run", "--run-dir", "run", "dag.py").rc == 1
    told = events_in(tmp_path / "run")
    check_fields(told)
    starts = [each["launch"] for each in told if each["event"] == "run.start"]
    assert starts == [1, 2] and [each["launch"] for each in told if each["event"] == "run.stop"] == [2]


@pytest.mark.long
def test_a_killed_rank_is_said_and_recorded_at_once(tmp_path):
    (tmp_path / "dag.py").write_text(FAILING.replace("[1.0]", "[6.0]"))
    command = [sys.executable, "-m", "handoff_mpi", "run", "-n", "3", "--run-dir", "run", "dag.py"]
    with (tmp_path / "err").open("wb") as err:
        run = subprocess.Popen(command, cwd=tmp_path, stderr=err)
    status = tmp_path / "run" / "status.json"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (status.exists() and json.loads(status.read_text()).get("longest")):
        time.sleep(0.1)
    ranks = {}
    for each in descendants(psutil.Process(run.pid)):
        rank, parent = environment(each).get("OMPI_COMM_WORLD_RANK"), each.parent()
        if rank is not None and parent and "OMPI_COMM_WORLD_RANK" not in environment(parent):
            ranks[int(rank)] = each.pid
    os.kill(ranks[1], signal.SIGKILL)
    end = time.monotonic() + 20
    while time.monotonic() < end and "rank 1 (" not in (tmp_path / "err").read_text():
        time.sleep(0.05)
    said = (tmp_path / "err").read_text()
    assert "rank 1 (" in said and "is lost" in said, said
    assert "rank.lost" in {each["event"] for each in events_in(tmp_path / "run")}
    run.wait(60)


@pytest.mark.soak
def test_json_is_all_that_stdout_has(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(FAILING.replace('raise ValueError("no luck")', 'print("noise")'))
    for words in ([], ["-n", "2"]):
        ended = handoff("run", "--json", *words, "dag.py")
        assert json.loads(ended.out)["exit_code"] == ended.rc == 0, ended.err
    (tmp_path / "loud.py").write_text("print('loading')\n" + (tmp_path / "dag.py").read_text())
    for words in ([], ["-n", "2"]):
        ended = handoff("run", "--json", *words, "loud.py")
        assert json.loads(ended.out)["exit_code"] == 0 and "loading" in ended.err
        ended = handoff("run", "--json", *words, "missing.py")
        assert json.loads(ended.out) == {"schema": 1, "status": "refused", "exit_code": 2}
    checked = handoff("check", "--json", "dag.py")
    assert json.loads(checked.out)["fits"] == [{"count": 7, "cost": {"cpu": 1}, "ranks": [0]}]
    (tmp_path / "bad.py").write_text(
        "from handoff_mpi import DAG, Function\ndag = DAG()\ndag.add_function(Function(1, [2], len))\n"
    )
    checked = handoff("check", "--json", "bad.py")
    told = json.loads(checked.out)
    assert told["exit_code"] == checked.rc == 2 and "there is no function 2" in told["problem"]
    ended = handoff("run", "--json", "--record", "none", "dag.py")
    assert ended.rc == 2 and "--json prints the summary, and --record none makes none" in ended.err


def test_samples_are_fewer_on_many_hosts_and_in_long_runs():
    assert interval_s(1) == USAGE_INTERVAL_S
    assert interval_s(10_000) == 500.0
    assert interval_s(1, 86_400.0) == 86.4
    sample = HostUsage(has_gpus=True).sample()
    assert set(sample) >= {"cores", "cpu_percent", "memory_used_mb"}


class Log(list):
    """Stands for a scheduler and its table of tasks: a test writes its log."""

    @property
    def tasks(self):
        return self

    def take_log(self):
        return list(self)


@pytest.fixture
def tell(capsys):
    """Return what has a recorder take in changes of ranks, each (rank, record); it returns what is said."""
    dag = DAG("d")
    dag.add_function(Function("fit", (), len))
    plan = Plan()
    plan.add(dag)
    recorder = Recorder(plan, "d", {rank: f"n{rank // 4}" for rank in range(200)})
    recorder.grow()

    def say(*changes, tasks=()):
        log = Log([*((-1, 0, 0, 0, rank, record) for rank, record in changes), *tasks])
        recorder.transitions(SimpleNamespace(tasks=log))
        return capsys.readouterr().err.splitlines()

    return say


def test_lost_ranks_are_said_by_host_and_cause(tell):
    again = (0, 0, Cause.RANK_LOST, 1, 1, "rank 1 is lost")
    said = tell((1, Lost("killed")), (2, Lost("killed")), (3, Lost("silent")), tasks=[again])
    assert said == [
        "handoff: 2 ranks of n0 (1, 2) are lost: killed",
        "handoff: rank 3 (n0) is lost: silent",
        "handoff: calls that ran there are repeated on other ranks: 'fit'",
    ]
    assert tell((1, Returned()), (5, Lost("killed"))) == [
        "handoff: rank 1 (n0) has returned",
        "handoff: rank 5 (n1) is lost: killed",
    ]


def test_very_many_lost_ranks_are_few_lines(tell):
    said = [line for rank in range(200) for line in tell((rank, Lost("killed")))]
    assert len(said) == MAX_LINES_OF_LOSSES


def test_a_failure_that_is_undecided_is_said_in_the_words_with_which_it_ends():
    dag = DAG("d")
    dag.add_function(Function("fit", (), len))
    plan = Plan()
    plan.add(dag)
    recorder = Recorder(plan, "d", {1: "n0"})
    recorder.grow()
    said = []
    recorder.announcer = SimpleNamespace(attempt_failed=lambda *told: said.append(told))
    recorder.finished(1, [(0, 3, DIED, ErrorReport(DEATH, "its process was killed"), 0, 0.0, 1.0, False)])
    told = "its process died 3 times (crash_limit is 3), last on rank 1: its process was killed"
    log = Log([(0, 0, Cause.UNDECIDED, 3, 1, FailedAttempt(DEATH, told))])
    recorder.transitions(SimpleNamespace(tasks=log))
    assert said == [(0, 3, 1, ErrorReport(DEATH, told), None)]


def test_an_update_of_a_rank_that_does_not_exist_is_said_once(tell):
    said = "rank 99 takes no part in this run, so its resources cannot be updated"
    assert tell((99, NotUpdated(said)), (99, NotUpdated(said))) == [
        f"handoff: update_node_resources(99, ...) changes nothing: {said}"
    ]


def test_a_rank_short_of_memory_is_said_once(tell):
    assert tell((1, MemoryHigh("91 % of 2 GB"))) == [
        "handoff: rank 1 (n0) is short of memory: 91 % of 2 GB; it gets no new functions meanwhile"
    ]
    assert tell((1, MemoryNormal("")), (1, MemoryHigh("92 % of 2 GB"))) == []
