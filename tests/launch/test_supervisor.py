"""What `run -n` does about jobs that die."""

from __future__ import annotations

import json
import os
import sys

from handoff_mpi.launch import supervisor
from tests.conftest import run_process

BREAKING = """
import pathlib
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import MPITransport
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
for number in range(20): dag.add_function(Function(number, (), nap, [number]))
"""


def test_a_rank_0_whose_messages_fail_is_launched_again(handoff, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    ended = handoff("run", "-n", "3", "--run-dir", "run", "breaking.py")
    assert ended.rc == 0, ended.err
    assert ended.err.count("on purpose") == 1
    assert "Traceback" not in ended.err
    assert ended.err.count("the job ended without a verdict; it is launched again (1 of at most 3)") == 1
    assert json.loads((tmp_path / "run" / "status.json").read_text())["done"] == 20


def test_a_pulse_stops_when_nothing_has_changed_for_long(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    status = tmp_path / "status.json"
    pulse = supervisor._Pulse(status, 5.0)

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


STUMBLING = """
import os, sys
from handoff_mpi import cli
from handoff_mpi.launch import supervisor
script = 'test -e again || { touch again; exit 213; }; exec "$@"'
supervisor.launcher_command = lambda *_: (["sh", "-c", script, "sh"], dict(os.environ))
sys.exit(cli.main(["run", "-n", "1", "--run-dir", "run", "breaking.py"]))
"""


def test_an_mpirun_that_met_the_remains_of_a_killed_one_is_started_again(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "broken").touch()  # nothing is to break in this test
    ended = run_process([sys.executable, "-c", STUMBLING], tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.err.count("launched again (1 of at most 3)") == 1
