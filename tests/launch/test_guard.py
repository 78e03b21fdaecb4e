"""A rank of a script ends with rank 0, unless rank 0 has released it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

import pytest

from handoff_mpi.launch.guard import EXIT_LOST, LEAVES, RELEASED, Guard, tell_guards
from tests.conftest import command_environment

#: A rank that would compute for a minute; it is the only one of its job.
RANK = """
import sys, time
from handoff_mpi.launch.guard import OwnGuard
OwnGuard().watch(int(sys.argv[1]))
print("watches", flush=True)
time.sleep(60)
"""


@pytest.fixture
def rank_0():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def rank(rank_0):
    job = {"PMIX_NAMESPACE": f"job-{uuid.uuid4()}", "PMIX_RANK": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, str(rank_0.pid)],
        env={**command_environment(), **job},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "watches\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.long
def test_a_rank_whose_rank_0_was_killed_ends(rank_0, rank):
    rank_0.kill()
    rank_0.wait()
    _, err = rank.communicate(timeout=30)
    assert rank.returncode == EXIT_LOST
    assert err.startswith(f"handoff: a rank (process {rank.pid}) ends, since rank 0 has ended: ")


def test_a_rank_whose_rank_0_leaves_with_a_status_of_its_own_adds_none(rank_0, rank):
    tell_guards([rank.pid], LEAVES)
    rank_0.kill()
    rank_0.wait()
    rank.communicate(timeout=30)
    assert rank.returncode == -signal.SIGKILL


def test_a_guard_that_was_released_ends_alone(rank_0):
    guard = Guard(rank_0.pid)
    guard.start()
    tell_guards([os.getpid(), 2**22 + 1], RELEASED)  # there is no such process
    guard.join(30)
    rank_0.kill()
    rank_0.wait()
    assert not guard.is_alive() and guard.told() == RELEASED


def test_what_others_send_does_not_count():
    guard = Guard.__new__(Guard)
    guard._told = b""
    guard._take(RELEASED, [])
    assert guard._told == b"", "without credentials nobody knows who has sent it"
