"""Asking hosts past MPI, with shells that play them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.runtime import host_probe as probing
from handoff_mpi.runtime import worker_loop
from handoff_mpi.runtime.host_monitor import HostGuard
from handoff_mpi.runtime.host_probe import GONE, LIVES, NOT_ASKED, PROBE, SILENT, HostProbe
from handoff_mpi.scheduler import HostFailureDetector
from handoff_mpi.worker.silence_timer import SilenceTimer

# Who is "down" refuses, "slow" refuses in the end, "mute" never answers; "full", "busy" and "left" are nodes on which
# srun makes no step; all others run the command.
AGENT = """#!/bin/sh
said() { echo "srun: $1" >&2; }
case $1 in
    full*) said "error: Unable to create step for job 1: Memory required by task is not available"; exit 1 ;;
    busy*) said "Job 1 step creation temporarily disabled, retrying (Requested nodes are busy)"; exec sleep 60 ;;
    late*) said "Job 1 step creation temporarily disabled, retrying (Requested nodes are busy)"
           said "Step created for job 1"; exit 1 ;;
    left*) said "error: Unable to create step for job 1: Requested node configuration is not available"; exit 1 ;;
    down*) exit 255 ;;
    slow*) until [ -e "$0.end" ]; do sleep 0.01; done; exit 255 ;;
    mute*) exec sleep 60 ;;
esac
shift
exec sh -c "$*"
"""


@pytest.fixture
def agent(tmp_path):
    path = tmp_path / "agent"
    path.write_text(AGENT)
    path.chmod(0o755)
    return [str(path), "{host}"]


def test_what_hosts_answer(agent, monkeypatch):
    monkeypatch.setattr(probing, "HOST_PROBE_TIMEOUT_S", 0.5)
    host_probe = HostProbe(agent, ["up.site.org", "down", "mute"])
    assert host_probe.ask("up.site.org") == LIVES
    assert host_probe.ask("up.site.org", os.getpid()) == LIVES
    assert host_probe.ask("up.site.org", 2**22 + 1) == GONE
    assert host_probe.ask("down") == host_probe.ask("mute") == SILENT
    assert HostProbe(["/no/such/agent"], []).ask("up") == SILENT


def test_a_question_that_slurm_does_not_pass_on_is_no_silence(agent, monkeypatch):
    """A step on a node whose memory another one holds is refused; a node that has left the job is lost."""
    monkeypatch.setattr(probing, "HOST_PROBE_TIMEOUT_S", 0.5)
    host_probe = HostProbe(agent, [])
    assert host_probe.ask("full") == host_probe.ask("busy") == NOT_ASKED
    assert host_probe.ask("late") == host_probe.ask("left") == SILENT


def test_an_answer_can_be_read_twice(agent):
    """The one to the control comes first, and is read again until the host's own is there."""
    question = probing.Question(HostProbe(agent, []), "up", None, 0.0)
    question._process.wait(10.0)
    assert question.answer(1.0) == question.answer(2.0) == LIVES


def test_hosts_go_by_the_launchers_names():
    host_probe = HostProbe([], ["up.site.org", "n2"])
    assert (host_probe.name_of("up"), host_probe.name_of("n2.site.org"), host_probe.name_of("n3")) == (
        "up.site.org",
        "n2",
        None,
    )


def test_ranks_are_told_how_to_ask(monkeypatch):
    monkeypatch.delenv(PROBE, raising=False)
    assert probing.from_environment() is None
    monkeypatch.setenv(PROBE, "{nonsense")
    assert probing.from_environment() is None
    monkeypatch.setenv(PROBE, HostProbe(["ssh", "{host}"], ["a", "b"]).to_environment())
    assert probing.from_environment() == HostProbe(["ssh", "{host}"], ["a", "b"])


def test_a_question_that_was_given_up_is_not_waited_for_without_end(agent, monkeypatch):
    """It may hang in the kernel, in a file system that went with the network."""
    host_probe = HostProbe(agent, [])
    process = host_probe.start("mute")
    waits = []

    def hang(timeout=None):
        waits.append(timeout)
        raise subprocess.TimeoutExpired("ssh", timeout)

    with monkeypatch.context() as patch:
        patch.setattr(process, "wait", hang)
        probing.end(process)
    assert waits == [probing.PROBE_END_TIMEOUT_S]
    assert process.wait(10) == -9


def losses(agent, hosts, heard, seconds=3.0):
    """Return what a guard finds while nothing more is heard of the silent ranks."""
    guard = HostGuard(HostFailureDetector(hosts, 1.0), HostProbe(agent, list(hosts)))
    lost = []
    end = time.monotonic() + seconds
    now = 10.0
    while not lost and time.monotonic() < end:
        lost = guard.look({rank: now if when is None else when for rank, when in heard.items()}, (), now)
        now += 0.05
        time.sleep(0.05)
    guard.close()
    return lost


def test_a_silent_host_that_does_not_answer_is_lost(agent):
    hosts = {"own": [0, 1], "down": [2, 3], "up": [4]}
    why = "its host down no longer answers"
    assert losses(agent, hosts, {1: None, 2: 0.0, 3: 0.0, 4: None}) == [(2, why), (3, why)]


def test_a_silent_host_that_answers_is_left_alone(agent):
    assert losses(agent, {"own": [0], "up": [1]}, {1: 0.0}, 1.5) == []


def test_a_silent_host_that_slurm_makes_no_step_on_is_left_alone(agent):
    assert losses(agent, {"own": [0], "full": [1]}, {1: 0.0}, 0.5) == []
    assert losses(agent, {"full-own": [0], "down": [1]}, {1: 0.0}, 0.5) == []


@pytest.mark.long
def test_no_answer_proves_nothing_where_asking_does_not_work(agent):
    """The control does not answer either."""
    assert losses(agent, {"down-own": [0], "down": [1]}, {1: 0.0}, 1.5) == []


def test_a_host_heard_of_while_it_is_asked_is_not_lost(agent):
    guard = HostGuard(HostFailureDetector({"own": [0], "slow": [1]}, 1.0), HostProbe(agent, ["own", "slow"]))
    assert guard.look({1: 0.0}, (), 5.0) == []
    Path(f"{agent[0]}.end").touch()
    for question in guard._open["slow"]._questions:
        question._process.wait(10.0)
    assert guard.look({1: 5.5}, (), 6.0) == []
    assert not guard._open
    guard.close()


def test_a_host_the_launcher_does_not_know_is_left_to_the_heartbeat_timeout(agent):
    guard = HostGuard(HostFailureDetector({"own": [0], "elsewhere": [1]}, 1.0), HostProbe(agent, ["own"]))
    assert guard.look({1: 0.0}, (), 5.0) == guard.look({1: 0.0}, (), 15.0) == []


@pytest.fixture
def impatient():
    """Whose rank 0 has been silent for six seconds of five."""
    silence_timer = SilenceTimer(5.0, 0.0)
    silence_timer.silence_s = 6.0
    return silence_timer


def look(monkeypatch, host_probe, silence_timer, host="up", pid=None):
    monkeypatch.setattr(worker_loop, "from_environment", lambda: host_probe)
    worker_loop._look_at_rank_0(SimpleNamespace(rank0=(host, pid or os.getpid()), silence_timeout_s=5.0), silence_timer)


def test_a_rank_0_that_is_busy_is_waited_for(monkeypatch, agent, impatient):
    look(monkeypatch, HostProbe(agent, ["up"]), impatient)
    assert impatient.silence_s == 0.0


@pytest.mark.parametrize(("host", "pid"), [("down", 1), ("up", 2**22 + 1)])
def test_a_rank_0_that_does_not_live_or_answer_ends_its_workers(monkeypatch, agent, impatient, host, pid):
    with pytest.raises(ConnectionError, match="silent for 6 s"):
        look(monkeypatch, HostProbe(agent, ["up", "down"]), impatient, host, pid)


@pytest.mark.parametrize("can_ask", [False, True], ids=["nobody", "no step"])
def test_where_nobody_can_be_asked_rank_0_gets_twice_as_long(monkeypatch, agent, impatient, can_ask):
    host_probe = HostProbe(agent, ["full"]) if can_ask else None
    look(monkeypatch, host_probe, impatient, "full")
    impatient.silence_s = 10.0
    with pytest.raises(ConnectionError, match="silent for 10 s"):
        look(monkeypatch, host_probe, impatient, "full")


class Silent:
    """A run in which rank 0 of another host says nothing."""

    def __init__(self, has_left):
        self.setup = SimpleNamespace(rank0=("up", os.getpid()), silence_timeout_s=5.0)
        self.transport = MemoryNetwork(2).transport(1)
        self.has_left = has_left

    def turn(self, arrived):
        return False


def listen(monkeypatch, has_left, seconds):
    now = [0.0]
    monkeypatch.setattr(worker_loop, "clock", lambda: now[0])
    monkeypatch.setattr(worker_loop, "from_environment", lambda: None)
    poller = worker_loop._Poller(Silent(has_left), None)
    for second in range(seconds):
        now[0] = float(second)
        poller.poll()


def test_silence_counts_until_the_run_is_over_though_a_call_of_it_goes_on(monkeypatch):
    """After it the user's own code runs in rank 0, which greets nobody."""
    listen(monkeypatch, True, 100)
    with pytest.raises(ConnectionError, match="silent for"):
        listen(monkeypatch, False, 100)
