"""The process that ends stopped ranks of a host once nobody else looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from handoff_mpi.launch.last_watch import LastWatch
from handoff_mpi.process_context import this_process


@pytest.fixture
def watch(monkeypatch):
    """Return what starts the process for some ranks."""
    last_watch = LastWatch()
    monkeypatch.setitem(this_process._pieces, LastWatch, last_watch)

    def start(*pids):
        last_watch.start(pids)
        return psutil.Process(last_watch.pid)

    yield start
    if last_watch.pid is not None and psutil.pid_exists(last_watch.pid):
        os.kill(last_watch.pid, signal.SIGKILL)
        os.waitpid(last_watch.pid, 0)


def test_it_is_not_taken_for_a_rank(watch, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("PMIX_RANK", "0")
    process = watch(os.getpid())
    while not (environment := process.environ()):  # the kernel fills it in a moment later
        time.sleep(0.01)
    assert "PATH" in environment
    assert not [name for name in environment if name.startswith(("OMPI_", "PMIX_"))]


def test_it_ends_a_stopped_rank_when_told_to_look(watch):
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.kill(rank.pid, signal.SIGSTOP)
    process = watch(rank.pid)
    assert process.is_running()
    this_process.of(LastWatch).look_now([rank.pid])
    assert rank.wait(10) == -signal.SIGKILL
    assert process.is_running()  # as long as this process does


LEAVING = """
import os, time
from handoff_mpi.launch.last_watch import LastWatch
LastWatch().look_now([os.getppid()])
print("leaves", flush=True)
time.sleep(60)
"""


def test_it_ends_its_own_rank_if_that_is_stopped_on_its_way_out():
    rank = subprocess.Popen([sys.executable, "-c", LEAVING], stdout=subprocess.PIPE)
    assert rank.stdout.readline() == b"leaves\n"
    os.kill(rank.pid, signal.SIGSTOP)
    assert rank.wait(10) == -signal.SIGKILL
    rank.stdout.close()


STARTING = """
import sys, time
from handoff_mpi.launch.last_watch import LastWatch
watch = LastWatch()
watch.start([int(sys.argv[1])])
print(watch.pid, flush=True)
time.sleep(60)
"""


def ignores_hangups(process):
    (ignored,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigIgn" in line]
    return int(ignored.split()[1], 16) & 1 << signal.SIGHUP - 1


@pytest.mark.long
@pytest.mark.skipif(sys.version_info < (3, 11), reason="subprocess cannot start a process group before Python 3.11")
def test_one_that_was_stopped_looks_once_its_rank_has_died():
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    rank = subprocess.Popen([sys.executable, "-c", STARTING, str(other.pid)], stdout=subprocess.PIPE)
    process = psutil.Process(int(rank.stdout.readline()))
    while not ignores_hangups(process):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    os.kill(other.pid, signal.SIGSTOP)
    rank.kill()
    assert other.wait(10) == -signal.SIGKILL
    rank.wait()
    rank.stdout.close()
    process.wait(10)


def test_one_that_was_stopped_is_continued_when_told_to_look(watch):
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = watch(rank.pid)
    os.kill(rank.pid, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGSTOP)
    this_process.of(LastWatch).look_now([rank.pid])
    assert rank.wait(10) == -signal.SIGKILL
