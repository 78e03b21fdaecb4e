"""The user's resource tracker answers rightly, wrongly, or raises."""

from __future__ import annotations

import os

import numpy as np
import pytest

from handoff_mpi.dag import TaskSpec
from handoff_mpi.runtime.tracker_adapter import TrackerAdapter
from handoff_mpi.scheduler import Dispatch


class Tracker:
    def __init__(self, answer):
        self.answer = answer

    def request(self, rank, cost):
        return self.answer() if callable(self.answer) else self.answer

    release = request


def ask(tracker_adapter):
    command = Dispatch(1, 0, None, [(0, 1)])
    refused = tracker_adapter.request(command, [TaskSpec((), {"cpu": 10_000})])
    return bool(command.tasks), refused


@pytest.mark.parametrize("answer", [True, np.True_, np.bool_(1)])
def test_true_grants(answer):
    assert ask(TrackerAdapter(Tracker(answer))) == (True, [])


@pytest.mark.parametrize("answer", [False, None, 0, np.False_, "", [], 0.0])
def test_what_is_false_refuses(answer, capsys):
    is_granted, (refused,) = ask(TrackerAdapter(Tracker(answer)))
    assert not is_granted
    assert not refused.is_error
    assert capsys.readouterr().err == ""


class Odd:
    def __bool__(self):
        raise RuntimeError("neither")

    __repr__ = __bool__


def leave():
    raise SystemExit(7)


RUBBISH = {
    "a word": ("no", "returned 'no', which is neither True nor False"),
    "a number": (1, "returned 1, which is neither"),
    "an array": (np.ones(3), "ValueError"),
    "what has no truth": (Odd(), "request failed: RuntimeError: neither"),
    "what raises": (lambda: 1 // 0, "request failed: ZeroDivisionError"),
    "what leaves": (leave, "request failed: SystemExit: it called sys.exit(7)"),
}


@pytest.mark.parametrize("case", RUBBISH)
def test_any_other_answer_is_an_error_and_told_once(case, capsys):
    answer, says = RUBBISH[case]
    tracker_adapter = TrackerAdapter(Tracker(answer))
    for _ in range(3):
        is_granted, (refused,) = ask(tracker_adapter)
        assert not is_granted
        assert refused.is_error
        assert says in refused.reason
    assert capsys.readouterr().err.count(says) == 1


def test_a_process_that_a_tracker_forks_ends_where_it_returns():
    forked = []
    tracker_adapter = TrackerAdapter(Tracker(lambda: bool(forked.append(os.fork())) or True))
    assert ask(tracker_adapter) == (True, []), "only one process comes here"
    assert os.waitpid(forked[0], 0)[1] == 0


WAITING = """
import pathlib
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

class Licences:
    def register(self, rank, capabilities): pass
    def request(self, rank, cost): return "licence" not in cost or pathlib.Path("free").exists()
    def release(self, rank, cost): pass

refused = []
handoff.telemetry.attach("r", handoff.telemetry.RESOURCE_REFUSED, lambda *about: refused.append(about[2]))
handoff.telemetry.attach("s", handoff.telemetry.DAG_STOP, lambda *_: print(refused[0], flush=True))
handoff.start(resource_tracker=Licences(), resources={"licence": 9})
dag = DAG("waiting")
for number in range(3): dag.add_function(Function(number, (), abs, [-number], cost={"licence": 1, "cpu": 1}))
dag.add_function(Function("free", (), lambda: pathlib.Path("free").touch(), cost={"cpu": 1}))
"""


@pytest.mark.long
@pytest.mark.parametrize("words", [(), ("-n", "3")], ids=["one process", "ranks"])
def test_what_waits_for_a_licence_runs_once_there_is_one_and_others_run_meanwhile(words, handoff, tmp_path):
    (tmp_path / "dag.py").write_text(WAITING)
    ended = handoff("run", *words, "dag.py")
    assert ended.rc == 0, ended.err
    assert "4 done of 4" in ended.err
    assert "'function_id': 0, 'reason': 'it said no'" in ended.out


@pytest.mark.long
def test_a_limit_to_waiting_on_the_command_line(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(WAITING.replace('"free").touch()', '"other").touch()'))
    ended = handoff("run", "--tracker-timeout", "0.3", "dag.py")
    assert ended.rc == 1, ended.err
    assert "1 done, 3 failed" in ended.err
    assert "refused: the resource tracker has refused it for 0." in ended.err
    assert "(tracker_timeout), last on rank 0: it said no" in ended.err


def test_what_is_still_granted_at_the_end_is_released_once():
    released = []

    class Noting(Tracker):
        def release(self, rank, cost):
            released.append((rank, cost))

    tracker_adapter = TrackerAdapter(Noting(True))
    ask(tracker_adapter)
    tracker_adapter.close()
    tracker_adapter.close()
    assert released == [(1, {"cpu": 1})]


CUT_OFF = """
import time
import handoff_mpi as handoff

class Tracker:
    def register(self, rank, capabilities): ...
    def request(self, rank, cost): print("granted", rank, flush=True); return True
    def release(self, rank, cost): print("released", rank, flush=True)

handoff.start(resource_tracker=Tracker())
dag = handoff.DAG()
dag.add_function(handoff.Function("a", (), time.sleep, [60]))
"""


@pytest.mark.long
def test_a_call_that_a_stopped_run_does_not_wait_for_is_released_too(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(CUT_OFF)
    ended = handoff("run", "-n", "2", "--deadline", "1.5", "--grace-period", "0.2", "dag.py")
    assert ended.rc == 75, ended.err
    assert ended.out.split() == ["granted", "1", "released", "1"]
