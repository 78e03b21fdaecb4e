"""The other ranks of a host are found by the variables that the launcher gave them, and stopped ones are ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid

import pytest

from tests.conftest import command_environment, run_process

SLEEP = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
LOOK = """
import json, sys
from handoff_mpi.launch import local_ranks
print(json.dumps([getattr(local_ranks, sys.argv[1])()]))
"""


@pytest.fixture
def job():
    """Start processes as a launcher does: with the variables of a job and a rank, or with others."""
    name = f"job-{uuid.uuid4()}"
    started = []

    def start(**variables):
        environment = {**command_environment(), "PMIX_NAMESPACE": name, **variables}
        started.append(subprocess.Popen(SLEEP, env=environment, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline()
        return started[-1]

    start.name = name
    yield start
    for each in started:
        each.kill()
        each.communicate()


def look(what, tmp_path, job):
    """Call a function of the module in rank 0 of the job."""
    variables = {"PMIX_NAMESPACE": job.name, "PMIX_RANK": "0"}
    ended = run_process([sys.executable, "-c", LOOK, what], tmp_path, env=variables)
    (found,) = json.loads(ended.out)
    return found


def test_ranks_of_the_same_job_are_found_and_no_other_processes(job, tmp_path):
    first, second = job(PMIX_RANK="1"), job(PMIX_RANK="2")
    job(PMIX_RANK="1", PMIX_NAMESPACE="another")
    job()  # what a function has started knows of no rank
    job(PMIX_RANK="0")  # what rank 0 has started
    assert sorted(look("other_ranks", tmp_path, job)) == sorted([first.pid, second.pid])


def test_ranks_that_are_stopped_are_ended_and_others_live(job, tmp_path):
    stopped, running = job(PMIX_RANK="1"), job(PMIX_RANK="2")
    os.kill(stopped.pid, signal.SIGSTOP)
    os.waitpid(stopped.pid, os.WUNTRACED)
    assert look("kill_stopped_ranks", tmp_path, job) == [stopped.pid]
    assert stopped.wait(10) == -signal.SIGKILL
    assert look("kill_other_ranks", tmp_path, job) == [running.pid]
    assert running.wait(10) == -signal.SIGKILL


def test_without_a_launcher_there_are_no_others(tmp_path):
    ended = run_process([sys.executable, "-c", LOOK, "other_ranks"], tmp_path)
    assert json.loads(ended.out) == [[]]
