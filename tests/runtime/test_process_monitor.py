"""Looking at processes: which have ended, which were stopped for long, which are merely busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.runtime import presence
from handoff_mpi.runtime.process_monitor import GONE, LIVES, STOPPED, UNSEEN, ProcessMonitor, Stops, look_at
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.worker_driver import WorkerDriver


@pytest.fixture
def process():
    process = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_process_is_lost_once_it_was_found_stopped_at_every_look_for_long(process):
    neighbours = ProcessMonitor(1, {1: os.getpid(), 2: process.pid}, stopped_s=3.0)
    assert neighbours.examine(2, 0.0)[0] == LIVES
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    for now in (1.0, 2.0, 3.0):
        assert neighbours.examine(2, now)[0] == LIVES
    os.kill(process.pid, signal.SIGCONT)
    while look_at(process.pid)[0] == "T":
        pass
    assert neighbours.examine(2, 4.0)[0] == LIVES
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    assert [neighbours.examine(2, now)[0] for now in (5.0, 6.0, 7.0, 8.0)] == [LIVES, LIVES, LIVES, STOPPED]
    assert process.wait(10) == -signal.SIGKILL
    assert neighbours.examine(2, 9.0)[0] == GONE


def test_looks_that_are_far_apart_tell_that_the_looking_was_suspended():
    stops = Stops(3.0)
    assert [stops.look(7, "T", now) for now in (0.0, 2.0, 60.0, 62.0)] == [0.0, 2.0, 0.0, 2.0]
    assert stops.look(7, "S", 63.0) is None


def test_a_process_in_a_debugger_is_not_stopped():
    stops = Stops(3.0)
    assert [stops.look(7, "t", now) for now in (0.0, 2.0, 4.0)] == [None, None, None]


def test_a_process_number_that_came_again_is_somebody_else(process):
    neighbours = ProcessMonitor(1, {2: process.pid})
    neighbours._born[2] = "another time"
    assert neighbours.examine(2, 0.0)[0] == GONE
    assert not neighbours.fence(2)
    assert process.poll() is None


def test_a_rank_that_was_found_gone_is_passed_over(process):
    """Rank 0, who would say that the rank is lost, may be the next one."""
    neighbours = ProcessMonitor(1, {0: os.getpid(), 1: 4_000_000, 2: process.pid})
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert neighbours.look_around(1.0) == (2, "its process no longer exists")
    assert neighbours.look_around(3.0) is None
    assert neighbours._born.keys() == {0}


def test_what_cannot_be_seen_is_not_judged():
    assert ProcessMonitor(1, {2: 4_000_000}).examine(2, 0.0)[0] == UNSEEN


def test_a_process_that_is_looked_at_lives_until_it_is_gone(process):
    neighbours = ProcessMonitor(1, {0: process.pid, 1: os.getpid()}, stopped_s=0.0)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    assert neighbours.lives(0), "nobody is fenced for being looked at"
    assert neighbours.lives(0)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert neighbours.lives(0) is False, "it is dead, though not reaped"
    assert neighbours.lives(1) is neighbours.lives(2) is None


def test_every_rank_of_its_host_sees_that_rank_0_is_gone(process):
    """In the ring the last rank alone looks at it, and there may be nobody who would pass that on."""
    pids = {0: process.pid, 1: os.getpid(), 2: os.getpid()}
    setup = RunSetup("now", 1, 1, "rank", 60.0, 1 << 40, None, None, [], pids=pids)
    driver = WorkerDriver(MemoryNetwork(3).transport(1), setup)
    driver.turn()
    process.kill()
    process.wait()
    driver._process_monitor.next_look = 0.0
    with pytest.raises(ConnectionError, match="rank 0 is lost: its process no longer exists"):
        driver.turn()
    driver.close()


EXECUTING = """
import os, sys
from handoff_mpi.runtime.presence import Presence
Presence().show()
print(flush=True)
input()
{ending}
"""


@pytest.mark.parametrize("ending", ["os.execv('/bin/sleep', ['sleep', '60'])", "os.closerange(3, 4096); input()"])
def test_a_rank_that_runs_another_program_or_has_closed_its_descriptors_is_ended(ending):
    words = [sys.executable, "-c", EXECUTING.format(ending=ending)]
    with subprocess.Popen(words, stdin=-1, stdout=-1) as rank:
        rank.stdout.readline()
        neighbours = ProcessMonitor(1, {2: rank.pid})
        assert neighbours.examine(2, 0.0)[0] == LIVES
        rank.stdin.write(b"\n")
        rank.stdin.flush()
        while presence.is_shown(rank.pid):
            pass
        assert neighbours.examine(2, 1.0)[0] == LIVES, "it may be about to end"
        assert neighbours.examine(2, 2.0)[0] == STOPPED
        assert rank.wait(10) == -signal.SIGKILL


RANK = """
import subprocess, sys
from handoff_mpi.descendants import mark_descendants
mark_descendants()
left = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(left.pid, flush=True)
left.wait()
"""


@pytest.mark.parametrize(("own", "is_ended"), [(1, True), (3, False)])
def test_the_rank_before_a_dead_one_ends_what_that_has_left_running(own, is_ended):
    rank = subprocess.Popen([sys.executable, "-c", RANK], stdout=subprocess.PIPE)
    left = int(rank.stdout.readline())
    born = look_at(left)[1]
    os.kill(left, signal.SIGSTOP)
    try:
        neighbours = ProcessMonitor(own, {own: os.getpid(), 0: os.getppid(), 2: rank.pid})
        rank.kill()
        neighbours.forget(2)
        end = time.monotonic() + 5
        while is_ended and look_at(left)[1] == born and look_at(left)[0] != "Z" and time.monotonic() < end:
            time.sleep(0.01)
        assert (look_at(left)[1] != born or look_at(left)[0] == "Z") == is_ended
    finally:
        rank.wait()
        rank.stdout.close()
        if not is_ended:
            os.kill(left, signal.SIGKILL)


def test_what_a_living_rank_has_started_is_left_alone():
    rank = subprocess.Popen([sys.executable, "-c", RANK], stdout=subprocess.PIPE)
    left = int(rank.stdout.readline())
    ProcessMonitor(1, {1: os.getpid(), 2: rank.pid}).forget(2)
    assert look_at(left)[0] == "S"
    os.kill(left, signal.SIGKILL)
    rank.wait()
    rank.stdout.close()
