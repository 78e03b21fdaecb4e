"""Whole hosts fail: cut off, killed, suspended; the run finishes on the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults.hosts import CUT, KILL, Run
from tests.faults.namespaces import wait_for

ASKED = ["sh", "-c", 'exec timeout 3 "$0" h2 hostname']


def ask_h2(hosts):
    ended = subprocess.run(
        hosts["h1"].enter(*ASKED, hosts.agent), env=hosts.environment(), capture_output=True, text=True, timeout=20
    )
    return ended.returncode, ended.stdout


def test_hosts_have_names_links_and_processes_of_their_own(three_hosts):
    hosts = three_hosts
    assert ask_h2(hosts) == (0, "h2\n")
    hosts.cut("h2")
    assert ask_h2(hosts)[0] == 124
    hosts.mend("h2")
    assert ask_h2(hosts) == (0, "h2\n")
    sleeper = subprocess.Popen(hosts["h2"].enter("sleep", "77"), env=hosts.environment())
    assert wait_for(lambda: hosts["h2"].processes("sleep 77"), 10)
    assert not hosts["h3"].processes("sleep 77")
    hosts.kill("h2")
    assert sleeper.wait(10)
    assert ask_h2(hosts)[0] != 0


@pytest.mark.soak
def test_nothing_of_the_hosts_is_left(three_hosts):
    hosts = three_hosts
    there = [subprocess.Popen(host.enter("sleep", "78"), env=hosts.environment()) for host in hosts.hosts]
    hosts.close()
    assert all(each.wait(10) for each in there)
    assert not hosts.directory.exists()
    inits = [host.init for host in hosts.hosts]
    assert not psutil.wait_procs(inits, timeout=10)[1]


@pytest.mark.soak
def test_a_host_is_cut_off_and_its_ranks_end_themselves(three_hosts, tmp_path):
    words = ["-n", "6", "--hosts", "h1:2,h2:2,h3:2", "--heartbeat-timeout", "10"]
    run = Run(three_hosts, tmp_path, words=words).start()
    run.fail(CUT)
    ending = run.end()
    assert (ending.code, ending.is_right) == (0, True), ending.said
    assert {*ending.status["lost_ranks"]} == {"2", "3"}
    assert ending.status["launch"] == 1, "nobody else was disturbed"
    assert ending.noticed_s["h2"] < 30
    assert ending.calls <= 80 + 4, "what the two lost ranks had done and nobody had heard of is done again"
    assert ending.said.count("its host h2 no longer answers") == 3, "one line at once, and one a rank in the summary"
    h2 = three_hosts["h2"]
    assert h2.processes("-m handoff_mpi"), "they have not heard of it"
    assert wait_for(lambda: not h2.processes("handoff_mpi"), 60)


@pytest.mark.soak
def test_one_host_is_cut_off_and_one_is_killed(three_hosts, tmp_path):
    run = Run(three_hosts, tmp_path).start()
    run.fail(CUT)
    run.fail(KILL)
    ending = run.end()
    assert (ending.code, ending.is_right) == (0, True), ending.said
    assert (ending.status["launch"], ending.status["ranks"]) == (2, 2)
    assert "h2, h3 no longer answer;" in ending.said


@pytest.mark.soak
def test_the_host_of_rank_0_is_killed(three_hosts, tmp_path):
    run = Run(three_hosts, tmp_path, words=["-n", "4", "--hosts", "h2:2,h3:2"]).start()
    run.fail((0.2, "kill", "h2"))
    ending = run.end()
    assert (ending.code, ending.is_right) == (0, True), ending.said
    assert (ending.status["launch"], ending.status["ranks"], ending.status["host"]) == (2, 2, "h3")
    assert ending.said.count("and h2 no longer answers; it is launched again on the other hosts") == 1


@pytest.mark.long
def test_a_short_cut_costs_nothing(three_hosts, tmp_path):
    run = Run(three_hosts, tmp_path).start()
    run.fail((0.2, "cut", "h2"))
    three_hosts.mend("h2")
    ending = run.end()
    assert (ending.code, ending.is_right, ending.status["lost_ranks"]) == (0, True, {}), ending.said


# Started with every Python of the job: nobody waits half an hour for a test.
IMPATIENT = """
import socket
from handoff_mpi.runtime import rank0_monitor

def note(self, answer, now):
    with open("answers", "a") as file:
        print(socket.gethostname(), answer, file=file)
    take(self, answer, now)

take, rank0_monitor.Rank0Monitor.take = rank0_monitor.Rank0Monitor.take, note
rank0_monitor.FIRST_QUESTION_S = rank0_monitor.REPEAT_QUESTION_S = rank0_monitor.MAX_QUESTION_INTERVAL_S = 1.0
"""
LONG_BUILD = """
import time
from pathlib import Path
from handoff_mpi import DAG, Function

def build(args):
    Path("building").touch()
    while not Path("continue").exists():
        time.sleep(0.05)
    dag = DAG("d")
    for number in range(8):
        dag.add_function(Function(number, (), abs, [-number]))
    return dag
"""


@pytest.mark.soak
def test_a_host_is_cut_off_while_rank_0_does_something_else(three_hosts, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT)
    (tmp_path / "dag.py").write_text(LONG_BUILD)
    command = [sys.executable, "-m", "handoff_mpi", "run", "-n", "4", "--hosts", "h1:1,h2:2,h3:1", "--run-dir", "run"]
    environment = {**three_hosts.environment(), "PYTHONPATH": str(tmp_path)}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            three_hosts["h1"].enter(*command, "dag.py", cwd=tmp_path), env=environment, stdout=said, stderr=said
        )
    try:
        assert wait_for(lambda: (tmp_path / "building").exists(), 60)
        h2, h3 = three_hosts["h2"], three_hosts["h3"]
        answers = tmp_path / "answers"
        assert wait_for(lambda: answers.exists() and answers.read_text().count("h2 lives\n") >= 4, 60)
        three_hosts.cut("h2")
        assert wait_for(lambda: not h2.processes("-m handoff_mpi"), 120)
        assert h3.processes("-m handoff_mpi"), "it can ask"
        (tmp_path / "continue").touch()
        assert process.wait(120) == 0, (tmp_path / "said").read_text()
        status = json.loads((tmp_path / "run" / "status.json").read_text())
        assert (status["status"], {*status["lost_ranks"]}) == ("done", {"1", "2"})
    finally:
        process.kill()


@pytest.mark.soak
def test_a_host_comes_back_after_it_was_given_up(three_hosts, tmp_path):
    words = ["-n", "6", "--hosts", "h1:2,h2:2,h3:2", "--heartbeat-timeout", "10"]
    run = Run(three_hosts, tmp_path, pairs=200, words=words).start()
    run.fail((0.1, "cut", "h2"))
    assert wait_for(lambda: (tmp_path / "losses").exists(), 60), run.said
    three_hosts.mend("h2")
    ending = run.end()
    assert (ending.code, ending.is_right) == (0, True), ending.said
    assert {*ending.status["lost_ranks"]} == {"2", "3"}
    assert ending.calls <= 400 + 4, "their late reports were dropped, and nothing else ran twice"


@pytest.mark.soak
def test_rank_0_is_suspended_on_a_host_that_was_cut_off(three_hosts, tmp_path):
    """As if its file system had ended, too: it shows no sign of life, and comes back when its run is over elsewhere."""
    words = ["-n", "4", "--hosts", "h2:2,h3:2", "--heartbeat-timeout", "5"]
    run = Run(three_hosts, tmp_path, words=words).start()
    run.fail((0.2, "cut", "h2"))
    status = run.status()
    assert status["host"] == "h2"
    ranks = three_hosts["h2"].processes("-m handoff_mpi")
    (rank_0,) = [each for each in ranks if inner_pid(each) == status["pid"]]
    for each in ranks:  # its neighbour would end it
        each.suspend()
    ending = run.end()
    assert (ending.code, ending.is_right) == (0, True), ending.said
    assert "rank 0 on h2 was lost" in ending.said
    assert (ending.status["host"], ending.status["launch"]) == ("h3", 2)
    before = (tmp_path / "run" / "status.json").read_bytes()
    rank_0.resume()
    assert not psutil.wait_procs([rank_0], timeout=90)[1], "it left"
    assert (tmp_path / "run" / "status.json").read_bytes() == before


def inner_pid(process) -> int:
    """Return a process's number in its own namespace."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


@pytest.mark.soak
def test_no_answer_of_any_host_ends_it(three_hosts, tmp_path):
    run = Run(three_hosts, tmp_path, words=["-n", "4", "--hosts", "h2:2,h3:2"]).start()
    run.fail((0.1, "kill", "h2"))
    three_hosts.kill("h3")
    ending = run.end()
    assert ending.code == 75, ending.said
    assert ending.said.count("none of its hosts answers any more") == 1
    assert "the same command resumes" in ending.said
    assert (tmp_path / "run" / "journal").exists()
