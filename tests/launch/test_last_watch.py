"""The process that ends stopped ranks of a host once nobody else looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from handoff_mpi.launch import last_watch


@pytest.fixture
def watch(monkeypatch):
    """Return what starts the process for some ranks."""
    monkeypatch.setattr(last_watch, "_watch", None)

    def start(*pids):
        last_watch.start(pids)
        return psutil.Process(last_watch._watch.pid)

    yield start
    if last_watch._watch is not None and psutil.pid_exists(last_watch._watch.pid):
        os.kill(last_watch._watch.pid, signal.SIGKILL)
        os.waitpid(last_watch._watch.pid, 0)


def test_it_is_not_taken_for_a_rank(watch, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("PMIX_RANK", "0")
    environment = watch(os.getpid()).environ()
    assert "PATH" in environment
    assert not [name for name in environment if name.startswith(("OMPI_", "PMIX_"))]


def test_it_ends_a_stopped_rank_when_told_to_look(watch):
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.kill(rank.pid, signal.SIGSTOP)
    process = watch(rank.pid)
    assert process.is_running()
    last_watch.look_now([rank.pid])
    assert rank.wait(10) == -signal.SIGKILL
    assert process.is_running()  # as long as this process does


LEAVING = """
import os, time
from handoff_mpi.launch import last_watch
last_watch.look_now([os.getppid()])
print("leaves", flush=True)
time.sleep(60)
"""


def test_it_ends_its_own_rank_if_that_is_stopped_on_its_way_out():
    rank = subprocess.Popen([sys.executable, "-c", LEAVING], stdout=subprocess.PIPE)
    assert rank.stdout.readline() == b"leaves\n"
    os.kill(rank.pid, signal.SIGSTOP)
    assert rank.wait(10) == -signal.SIGKILL
    rank.stdout.close()
