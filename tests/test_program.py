"""The command from its first import on: an interrupt ends it by its signal, and without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from handoff_mpi import cli
from handoff_mpi.program import program
from tests.conftest import ROOT


class Killed(BaseException):
    pass


@pytest.fixture
def interrupted(monkeypatch):
    """Interrupt the command; return the signals that the process sends to itself."""
    sent = []

    def kill(pid, number):
        sent.append((pid, number, signal.getsignal(signal.SIGINT)))
        raise Killed

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "program", interrupt)
    monkeypatch.setattr(os, "kill", kill)
    before = signal.getsignal(signal.SIGINT)
    yield sent
    signal.signal(signal.SIGINT, before)


def test_the_command_is_that_of_the_command_line(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda: 7)
    monkeypatch.setattr(cli, "exit_python", lambda code, finalise: sys.exit(code))
    with pytest.raises(SystemExit) as left:
        program()
    assert left.value.code == 7


def test_an_interrupt_ends_the_process_by_its_signal(interrupted, monkeypatch):
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with pytest.raises(Killed):
        program()
    assert interrupted == [(os.getpid(), signal.SIGINT, signal.SIG_DFL)]


def test_a_rank_in_which_mpi_has_started_has_handlers_of_its_own(interrupted, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", sys)
    with pytest.raises(KeyboardInterrupt):
        program()
    assert interrupted == []


def test_a_python_without_what_the_package_needs_is_refused_in_a_line(tmp_path):
    """The package is there by PYTHONPATH alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    python = tmp_path / "bare" / "bin" / "python3"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, "-m", "handoff_mpi", "run", "dag.py"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"handoff: this Python ({python}) has no module ") and ended.stderr.count("\n") == 1
