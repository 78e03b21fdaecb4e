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


def test_it_ends_a_stopped_rank_when_told_to_look_and_then_itself(watch):
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.kill(rank.pid, signal.SIGSTOP)
    process = watch(rank.pid)
    assert process.is_running()
    last_watch.look_now([rank.pid])
    assert rank.wait(10) == -signal.SIGKILL
    assert os.waitpid(process.pid, 0)[1] == 0
