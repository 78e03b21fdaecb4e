"""Two launches on one run-dir: the older one leaves, and writes nothing any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import handoff_mpi as handoff
from handoff_mpi import UsageError
from handoff_mpi.errors import Superseded
from handoff_mpi.process_context import this_process
from handoff_mpi.results import supervision
from handoff_mpi.results.journal import Journal
from handoff_mpi.results.journal_reader import has_successor
from handoff_mpi.results.lease import Lease
from handoff_mpi.results.run_lock import lock_run_dir, lock_run_dir_soon
from handoff_mpi.results.secure_files import open_directory
from handoff_mpi.results.status_file import write_status
from handoff_mpi.results.supervision import LAUNCHED_BY, OwnSupervisor, SupervisorLink, own_supervisor

NAPS = """
import pathlib, time
from handoff_mpi import DAG, Function
def nap(number):
    time.sleep(0.1)
    with open("log", "a") as file: file.write(f"{number}\\n")
    return number
dag = DAG("naps")
for number in range(12): dag.add_function(Function(number, (), nap, [number]))
dag.add_function(Function("sum", list(range(12)), lambda *parts: sum(parts)))
"""


def test_a_lease_ends_with_the_next_launch(tmp_path):
    with open_directory(tmp_path) as directory, Journal(directory) as first:
        lease = Lease(directory, first)
        write_status(tmp_path, status="running")
        os.utime(tmp_path / "status.json", (0, 0))
        lease.confirm()
        assert (tmp_path / "status.json").stat().st_mtime > 0, "it shows that it lives"
        with Journal(tmp_path) as second:
            assert has_successor(tmp_path, first.epoch)
            with pytest.raises(Superseded, match="a newer launch"):
                lease.confirm()
            Lease(directory, second).confirm()


def test_only_the_same_supervisor_takes_a_lock_away(tmp_path):
    ours = SupervisorLink("this one")
    with lock_run_dir(tmp_path, ours):
        for mark in "another", "":
            with pytest.raises(UsageError, match="in use by process"):
                lock_run_dir_soon(tmp_path, SupervisorLink(mark), 0.2)
        with lock_run_dir_soon(tmp_path, ours, 0.2), pytest.raises(UsageError, match="in use by process"):
            lock_run_dir(tmp_path, ours)


def test_what_a_run_launches_itself_is_not_its_supervisors(monkeypatch):
    monkeypatch.setattr(this_process.of(OwnSupervisor), "link", SupervisorLink())
    monkeypatch.setenv(LAUNCHED_BY, "this one")
    supervision.take_mark()
    assert (own_supervisor().fields(), os.environ.get(LAUNCHED_BY)) == ({LAUNCHED_BY: "this one"}, None)


def start(tmp_path, words, mark):
    command = [sys.executable, "-m", "handoff_mpi", "run", *words, "--run-dir", "run", "naps.py"]
    env = {**os.environ, LAUNCHED_BY: mark}
    return subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_calls(tmp_path, count):
    end = time.monotonic() + 30
    log = tmp_path / "log"
    while time.monotonic() < end and not (log.exists() and len(log.read_text().split()) >= count):
        time.sleep(0.05)


@pytest.mark.soak
def test_a_suspended_launch_finds_that_it_was_superseded_and_leaves(tmp_path):
    (tmp_path / "naps.py").write_text(NAPS)
    first = start(tmp_path, [], "one supervisor")
    try:
        wait_for_calls(tmp_path, 3)
        os.kill(first.pid, signal.SIGSTOP)
        before = {path: path.read_bytes() for path in (tmp_path / "run" / "journal").iterdir()}
        second = start(tmp_path, [], "one supervisor")
        _, err = second.communicate(timeout=60)
        assert second.returncode == 0, err
        status = (tmp_path / "run" / "status.json").read_bytes()
        os.kill(first.pid, signal.SIGCONT)
        _, err = first.communicate(timeout=30)
    finally:
        for process in (first,):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert first.returncode == 75, err
    assert "launch 1 of" in err
    assert "a newer launch has taken the run over" in err
    assert (tmp_path / "run" / "status.json").read_bytes() == status
    assert json.loads(status)["launch"] == 2
    for path, content in before.items():
        assert path.read_bytes().startswith(content)
    assert handoff.load(tmp_path / "run")["sum"] == sum(range(12))
    assert len((tmp_path / "log").read_text().split()) <= 12 + 2, "what the first had begun may run twice"
