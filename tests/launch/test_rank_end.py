"""A rank that cannot continue says why, and ends in the way that tells the launcher most."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import pytest

import handoff_mpi.comm
from handoff_mpi.errors import EXIT_STOPPED, TransportError
from handoff_mpi.launch import rank_end


class Left(BaseException):
    """The process would have ended."""


@pytest.fixture
def left(monkeypatch):
    """Have this process outlive its end; return how it would have ended, in order."""
    ways = []

    def leave(*way):
        ways.append(way)
        raise Left

    mpi = SimpleNamespace(has_fault_tolerance=lambda: False, abort=lambda code: ways.append(("abort", code)))
    monkeypatch.setitem(sys.modules, "handoff_mpi.comm.mpi", mpi)
    monkeypatch.setattr(handoff_mpi.comm, "mpi", mpi, raising=False)
    monkeypatch.setattr(os, "kill", lambda pid, number: leave("kill", pid, number))
    monkeypatch.setattr(os, "_exit", lambda code: leave("exit", code))
    monkeypatch.setattr(rank_end.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(signal, "alarm", lambda seconds: ways.append(("alarm", seconds)))
    monkeypatch.setattr(rank_end, "end_descendants", lambda: ways.append(("descendants",)))
    monkeypatch.setattr(rank_end, "kill_stopped_ranks", lambda: ways.append(("stopped ranks",)))
    before = signal.getsignal(signal.SIGALRM)
    yield SimpleNamespace(ways=ways, mpi=mpi)
    signal.signal(signal.SIGALRM, before)


def end(left, error):
    with pytest.raises(Left):
        rank_end.end_rank(error)
    alarm, *ways = left.ways
    assert alarm == ("alarm", rank_end.JOB_END_TIMEOUT_S), "the kernel ends it where all else hangs"
    return ways


KILLED = ("kill", os.getpid(), signal.SIGKILL)


def test_without_fault_tolerance_mpi_aborts_the_job(left, capsys):
    assert end(left, ValueError("odd")) == [("descendants",), ("abort", 70), ("exit", 70), KILLED]
    assert "ValueError: odd" in capsys.readouterr().err


def test_with_fault_tolerance_it_is_killed_alone(left):
    left.mpi.has_fault_tolerance = lambda: True
    assert end(left, ValueError("odd")) == [("descendants",), KILLED]


@pytest.mark.parametrize("is_fault_tolerant", [True, False])
def test_a_lost_connection_ends_the_ranks_that_are_stopped_too(left, capsys, is_fault_tolerant):
    left.mpi.has_fault_tolerance = lambda: is_fault_tolerant
    last = [("exit", EXIT_STOPPED)] if is_fault_tolerant else []
    assert end(left, ConnectionError("rank 0 has ended")) == [("descendants",), ("stopped ranks",), *last, KILLED]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"handoff: a rank (process {os.getpid()} on ") and line.endswith("ends: rank 0 has ended")


def test_it_ends_though_nobody_reads_why_and_python_is_broken(left, monkeypatch):
    def fail(*_):
        raise OSError("its reader has ended")

    monkeypatch.setattr(rank_end, "print_message", fail)
    assert end(left, TransportError("lost"))[-1] == KILLED
    left.ways.clear()
    monkeypatch.setattr(rank_end, "restore_output", fail)
    assert end(left, ValueError("odd")) == [KILLED]
