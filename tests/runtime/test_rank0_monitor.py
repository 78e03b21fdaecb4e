"""Between two runs rank 0 may be silent for hours, so a worker asks whether it lives; its host is played by a shell."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from handoff_mpi import Cluster, UsageError
from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.serving import serve
from handoff_mpi.messages import ASKED, BYE, SHUTDOWN
from handoff_mpi.resources import Capability
from handoff_mpi.runtime import rank0_monitor as between_runs
from handoff_mpi.runtime.host_probe import GONE, LIVES, NOT_ASKED, PROBE, SILENT, HostProbe
from handoff_mpi.runtime.rank0_monitor import (
    FIRST_QUESTION_S,
    HOST_QUESTION_INTERVAL_S,
    MAX_QUESTION_INTERVAL_S,
    REPEAT_QUESTION_S,
    UNANSWERED,
    Rank0Monitor,
)

# Notes each question, and answers as long as its host is not cut off.
AGENT = """#!/bin/sh
echo "$1" >> "$0.asked"
[ -e "$0.cut" ] && exit 255
shift
exec sh -c "$*"
"""
NOBODY = 2**22 + 1  # no process has this number


class Host:
    """Rank 0's host; ranks 1 and 2 are on another, rank 3 on a third."""

    def __init__(self, directory):
        self.agent = directory / "agent"
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)
        self.pid = os.getpid()
        self.network = MemoryNetwork(4)

    def rank0_monitor(self, rank=1, host_probe=True, limit_s=1e9):
        places = zip(range(4), ("first", "second", "second", "third"), strict=True)
        capabilities = [Capability(rank, host, {}, pid=self.pid) for rank, host in places]
        asks = HostProbe([str(self.agent), "{host}"], ["first", "second", "third"]) if host_probe else None
        return Rank0Monitor(self.network.transport(rank), capabilities, asks, limit_s, 0.0)

    def cut(self):
        Path(f"{self.agent}.cut").touch()

    def mend(self):
        Path(f"{self.agent}.cut").unlink()

    @property
    def questions(self):
        asked = Path(f"{self.agent}.asked")
        return asked.read_text().split() if asked.exists() else []


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def wait(rank0_monitor, since, until, has_heard=False):
    """Let time pass, by seconds; what is asked is answered before time continues."""
    for now in range(int(since), int(until)):
        rank0_monitor.look(has_heard, float(now))
        end = time.monotonic() + 30
        while rank0_monitor._question is not None:
            assert time.monotonic() < end
            rank0_monitor.look(has_heard, float(now) + 0.5)
            rank0_monitor._next_look = 0.0
            time.sleep(0.001)


def test_a_rank_0_that_lives_is_waited_for_and_asked_ever_more_rarely(host):
    wait(host.rank0_monitor(), 0, 20_000)
    assert host.questions[0] == "first"
    assert 20_000 / MAX_QUESTION_INTERVAL_S < len(host.questions) < 20_000 / MAX_QUESTION_INTERVAL_S + 6


def test_a_host_that_was_cut_off_ends_its_ranks(host):
    rank0_monitor = host.rank0_monitor()
    wait(rank0_monitor, 0, 2 * FIRST_QUESTION_S)
    assert len(host.questions) == 1
    host.cut()
    with pytest.raises(ConnectionError, match=f"has not answered {UNANSWERED} questions in succession"):
        wait(rank0_monitor, 2 * FIRST_QUESTION_S, 10_000)
    assert len(host.questions) == 1 + UNANSWERED


def test_a_cut_that_was_mended_costs_nothing(host):
    rank0_monitor = host.rank0_monitor()
    wait(rank0_monitor, 0, 2 * FIRST_QUESTION_S)
    now = 2 * FIRST_QUESTION_S
    for _ in range(4):
        host.cut()
        before = len(host.questions)
        while len(host.questions) < before + UNANSWERED - 1:
            wait(rank0_monitor, now, now + 1)
            now += 1
        host.mend()
        while len(host.questions) < before + UNANSWERED:
            wait(rank0_monitor, now, now + 1)
            now += 1
    assert len(host.questions) == 1 + 4 * UNANSWERED > 2 * UNANSWERED, "more were not answered than end a rank"


def test_no_answer_proves_nothing_where_there_never_was_one(host):
    host.cut()
    rank0_monitor = host.rank0_monitor()
    wait(rank0_monitor, 0, 30 * REPEAT_QUESTION_S)
    assert len(host.questions) > 2 * UNANSWERED


def test_a_rank_0_whose_process_is_gone_ends_its_ranks(host):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host.pid = child.pid
    rank0_monitor = host.rank0_monitor()
    wait(rank0_monitor, 0, 2 * FIRST_QUESTION_S)
    child.communicate(b"\n")
    with pytest.raises(ConnectionError, match="the process of rank 0 no longer exists"):
        wait(rank0_monitor, 2 * FIRST_QUESTION_S, 10_000)


def test_a_process_that_cannot_be_seen_there_proves_nothing(host):
    """Rank 0 may be in a container, whose processes have numbers of their own."""
    host.pid = NOBODY
    wait(host.rank0_monitor(), 0, 30 * REPEAT_QUESTION_S)
    assert host.questions


def test_one_rank_of_a_host_asks_and_tells_the_others(host):
    first, second = host.rank0_monitor(1), host.rank0_monitor(2)
    now = 0

    def pass_time(until):
        nonlocal now
        while now < until:
            wait(first, now, now + 1)
            for each in host.network.transport(2).poll():
                assert each.message[0] == ASKED
                second.take(each.message[2], float(now))
            wait(second, now, now + 1)
            now += 1

    pass_time(10_000)
    assert len(host.questions) < 10_000 / MAX_QUESTION_INTERVAL_S + 6
    host.cut()
    with pytest.raises(ConnectionError, match="has not answered"):
        pass_time(20_000)
    for each in host.network.transport(2).poll():
        with pytest.raises(ConnectionError, match="has not answered"):
            second.take(each.message[2], float(now))
    assert not host.network.transport(3).poll(), "ranks of other hosts see for themselves"


def test_the_next_rank_of_a_host_asks_where_the_first_does_not(host):
    rank0_monitor = host.rank0_monitor(2)
    wait(rank0_monitor, 0, FIRST_QUESTION_S + REPEAT_QUESTION_S)
    assert not host.questions
    wait(rank0_monitor, FIRST_QUESTION_S + REPEAT_QUESTION_S, FIRST_QUESTION_S + REPEAT_QUESTION_S + 2)
    assert len(host.questions) == 1


def test_hosts_ask_one_after_the_other(host):
    second, third = host.rank0_monitor(1), host.rank0_monitor(3)
    assert third._next_question - second._next_question == pytest.approx(HOST_QUESTION_INTERVAL_S)


def test_where_nobody_can_be_asked_there_is_a_generous_limit(host):
    rank0_monitor = host.rank0_monitor(host_probe=False, limit_s=5000.0)
    wait(rank0_monitor, 0, 4999)
    wait(rank0_monitor, 4999, 5000, has_heard=True)
    wait(rank0_monitor, 5000, 9999)
    with pytest.raises(ConnectionError, match=r"silent for 500\d s between two runs, and could not be asked"):
        wait(rank0_monitor, 9999, 10_010)
    assert not host.questions


def test_who_can_be_asked_has_no_limit(host):
    wait(host.rank0_monitor(limit_s=2 * MAX_QUESTION_INTERVAL_S), 0, 10 * MAX_QUESTION_INTERVAL_S)
    assert len(host.questions) >= 9


def test_a_run_between_ends_the_counting(host):
    rank0_monitor = host.rank0_monitor(host_probe=False, limit_s=100.0)
    wait(rank0_monitor, 0, 90)
    rank0_monitor.begin(90.0)
    wait(rank0_monitor, 90, 180)
    with pytest.raises(ConnectionError, match="between two runs, and could not be asked"):
        wait(rank0_monitor, 180, 200)


def test_a_question_is_given_up_when_a_run_begins(host):
    host.agent.write_text("#!/bin/sh\nexec sleep 60\n")
    rank0_monitor = host.rank0_monitor()
    rank0_monitor.look(False, FIRST_QUESTION_S + 1)
    process = rank0_monitor._question._process
    rank0_monitor.end()
    assert process.returncode == -9


@pytest.mark.parametrize("answer", [SILENT, GONE])
def test_an_answer_to_another_rank_counts_as_ones_own(host, answer):
    rank0_monitor = host.rank0_monitor()
    rank0_monitor.take(answer, 1.0)
    rank0_monitor.take(LIVES, 2.0)
    with pytest.raises(ConnectionError):
        for now in range(UNANSWERED):
            rank0_monitor.take(answer, 3.0 + now)


def test_questions_that_slurm_does_not_pass_on_are_not_counted(host):
    rank0_monitor = host.rank0_monitor()
    rank0_monitor.take(LIVES, 1.0)
    for now in range(2 * UNANSWERED):
        rank0_monitor.take(NOT_ASKED, 2.0 + now)
    for now in range(UNANSWERED - 1):
        rank0_monitor.take(SILENT, 20.0 + now)
    with pytest.raises(ConnectionError, match=f"has not answered {UNANSWERED} questions in succession"):
        rank0_monitor.take(SILENT, 30.0)


# -- a rank that waits --------------------------------------------------------------------------------


def serving(job):
    """Serve in a thread; return it and what came of it."""
    outcome = []

    def serve_job():
        try:
            outcome.append(serve(job))
        except ConnectionError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=serve_job, daemon=True)
    thread.start()
    return thread, outcome


def job_of(network, host, pid):
    capabilities = [Capability(0, host, {}, pid=pid), Capability(1, "here", {}, pid=os.getpid())]
    return Job(network.transport(1), capabilities, is_mpi=False)


def test_rank_0s_process_is_looked_at_on_its_own_host(monkeypatch):
    monkeypatch.setattr(between_runs, "RANK0_CHECK_INTERVAL_S", 0.01)
    child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    child.stdout.readline()
    thread, outcome = serving(job_of(MemoryNetwork(2), "here", child.pid))
    thread.join(0.2)
    assert not outcome
    child.communicate(b"\n")
    thread.join(30)
    assert outcome == ["rank 0 is lost: its process no longer exists"]


def test_a_rank_that_waits_for_a_run_asks_rank_0s_host(monkeypatch, host):
    for name, seconds in {
        "RANK0_CHECK_INTERVAL_S": 0.0,
        "FIRST_QUESTION_S": 0.0,
        "REPEAT_QUESTION_S": 0.0,
        "MAX_QUESTION_INTERVAL_S": 0.02,
        "HOST_QUESTION_INTERVAL_S": 0.0,
    }.items():
        monkeypatch.setattr(between_runs, name, seconds)
    monkeypatch.setenv(PROBE, HostProbe([str(host.agent), "{host}"], ["there"]).to_environment())
    network = MemoryNetwork(2)
    thread, outcome = serving(job_of(network, "there", os.getpid()))
    end = time.monotonic() + 30
    while len(host.questions) < 3:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert not outcome
    host.cut()
    thread.join(30)
    assert outcome == [f"the host of rank 0 has not answered {UNANSWERED} questions in succession"]
    assert network.transport(0).poll() == []


def test_a_rank_whose_rank_0_lives_leaves_when_it_is_told(monkeypatch):
    monkeypatch.setattr(between_runs, "RANK0_CHECK_INTERVAL_S", 0.0)
    network = MemoryNetwork(2)
    thread, outcome = serving(job_of(network, "here", os.getpid()))
    thread.join(0.1)
    assert not outcome
    network.transport(0).send(1, (SHUTDOWN, 0))
    thread.join(30)
    assert outcome == [None]
    assert [each.message for each in network.transport(0).poll()] == [(BYE, 0)]


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), "a day", True, None])
def test_an_idle_limit_is_a_positive_number(limit):
    with pytest.raises(UsageError, match="idle_limit must be a positive number of seconds"):
        Cluster(idle_limit=limit)
