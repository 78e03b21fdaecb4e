"""`run -n` launches jobs that die again."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

import handoff_mpi
from handoff_mpi.launch import supervisor
from handoff_mpi.results.secure_files import open_directory
from tests.conftest import run_process
from tests.faults.launching import launch

BREAKING = """
import pathlib
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi_transport import MPITransport
from handoff_mpi.errors import TransportError

def poll(self, whole=MPITransport.poll):
    if pathlib.Path("begun").exists() and not pathlib.Path("broken").exists():
        pathlib.Path("broken").touch()
        raise TransportError("MPI failed while receiving: on purpose")
    return whole(self)

MPITransport.poll = poll  # on rank 0 alone, which alone loads this file

def nap(number):
    import time
    pathlib.Path("begun").touch()
    time.sleep(0.1)
    return number
dag = DAG("breaking")
for number in range(10): dag.add_function(Function(number, (), nap, [number]))
"""


@pytest.mark.long
def test_a_rank_0_whose_messages_fail_is_launched_again(handoff, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    ended = handoff("run", "-n", "3", "--run-dir", "run", "breaking.py")
    assert ended.rc == 0, ended.err
    assert ended.err.count("on purpose") == 1
    assert "Traceback" not in ended.err
    assert ended.err.count("the job has died before the run ended; it is launched again (1 of at most 3)") == 1
    assert json.loads((tmp_path / "run" / "status.json").read_text())["done"] == 10


def test_a_pulse_stops_when_nothing_has_changed_for_long(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    status = tmp_path / "status.json"
    run_dir = open_directory(tmp_path)
    pulse = supervisor._Pulse(run_dir, 5.0)

    def has_stopped(seconds):
        now[0] += seconds
        return pulse.has_stopped()

    assert not any(has_stopped(1.0) for _ in range(20)), "it has not begun"
    status.touch()
    assert [has_stopped(1.0) for _ in range(7)] == [False] * 6 + [True]
    os.utime(status, (1, 1))  # an older time is a change too: clocks differ
    assert not has_stopped(1.0)
    assert not has_stopped(1000.0), "the supervisor was suspended itself"
    pulse.reset()
    assert not has_stopped(1.0)
    run_dir.close()


STUMBLING = """
import os, sys
from handoff_mpi import cli
from handoff_mpi.launch import start_watch, supervisor
first_limit_s = 90.0
script = 'test -e again || { touch again; exit 213; }; exec "$@"'
def command(*_):
    limit_s = start_watch.FIRST_ARRIVAL_S = 90.0 if os.path.exists("again") else first_limit_s
    supervisor.StartWatch = lambda run_dir, pid, _: start_watch.StartWatch(run_dir, pid, limit_s)
    return ["sh", "-c", script, "sh"], dict(os.environ)
supervisor.launcher_command = command
sys.exit(cli.main(["run", "-n", "1", "--run-dir", "run", "breaking.py"]))
"""


@pytest.mark.long
def test_an_mpirun_that_met_the_remains_of_a_killed_one_is_started_again(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "broken").touch()  # nothing is to break in this test
    ended = run_process([sys.executable, "-c", STUMBLING], tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.err.count("launched again (1 of at most 3)") == 1


WAITING = STUMBLING.replace("exit 213", "sleep 60").replace("first_limit_s = 90.0", "first_limit_s = 0.5")


@pytest.mark.long
def test_an_mpirun_that_is_killed_before_the_run_begins_is_started_again(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "broken").touch()
    killed = STUMBLING.replace("exit 213", "kill -9 $$")
    ended = run_process([sys.executable, "-c", killed], tmp_path, 60.0)
    assert ended.rc == 0, ended.err
    assert ended.err.count("launched again") == 1


def test_an_mpirun_that_is_killed_each_time_is_told(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    killed = STUMBLING.replace("test -e again || { touch again; exit 213; }", "kill -9 $$")
    ended = run_process([sys.executable, "-c", killed], tmp_path, 60.0)
    assert ended.rc == 1
    assert "mpirun was killed by signal 9 before the run had begun" in ended.err


@pytest.mark.long
def test_ranks_that_do_not_come_together_are_ended_and_launched_again(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "broken").touch()
    ended = run_process([sys.executable, "-c", WAITING], tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.err.count("its ranks have not joined within 0.5 s") == 1
    assert ended.err.count("launched again (1 of at most 3)") == 1


def test_an_mpirun_that_cannot_begin_is_told_of(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    failing = STUMBLING.replace("test -e again || { touch again; exit 213; }", "exit 77")
    ended = run_process([sys.executable, "-c", failing], tmp_path, 60.0)
    assert (ended.rc, ended.err) == (77, "handoff: mpirun ended with status 77 before the run had begun\n")


def test_what_an_earlier_launch_left_and_cannot_be_removed_gets_one_line(handoff, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "run" / ".joined").mkdir(parents=True)
    ended = handoff("run", "-n", "2", "--run-dir", "run", "breaking.py")
    assert ended.rc == 2, ended.err
    assert ".joined of an earlier launch cannot be removed" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.long
def test_a_reader_that_leaves_ends_no_run(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "broken").touch()
    line = f"{sys.executable} -m handoff_mpi run --run-dir run breaking.py 2>&1 | true; exit ${{PIPESTATUS[0]}}"
    ended = run_process(["bash", "-c", line], tmp_path)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 0
    assert ended.rc == 0, ended.err


def test_a_killed_supervisor_takes_its_job_along(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING.replace("time.sleep(0.1)", "time.sleep(30)"))
    (tmp_path / "broken").touch()
    launched = launch([sys.executable, "-m", "handoff_mpi", "run", "-n", "2", "breaking.py"], tmp_path)
    end = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert len(launched.processes()) > 2
    launched.process.kill()
    assert launched.leftovers(15.0) == []


NESTED = """
import subprocess, sys
from handoff_mpi import DAG, Function

def other():
    words = [sys.executable, "-m", "handoff_mpi", "run", "-n", "2", "--run-dir", "inner", "breaking.py"]
    return subprocess.run(words, timeout=50).returncode

dag = DAG("nested")
dag.add_function(Function("other", (), other))
"""


@pytest.mark.long
def test_a_function_in_a_rank_may_launch_a_run_of_its_own(handoff, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "broken").touch()
    (tmp_path / "nested.py").write_text(NESTED)
    ended = handoff("run", "-n", "2", "--isolation", "rank", "--run-dir", "outer", "nested.py")
    assert ended.rc == 0, ended.err
    assert handoff_mpi.load(tmp_path / "outer")["other"] == 0
