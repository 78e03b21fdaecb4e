"""Encoding of values for other ranks: user code that may never return, or may end the process that runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from handoff_mpi.runtime import encoders as encoding_children
from handoff_mpi.runtime.encoders import MAX_CHILDREN, Encoders
from handoff_mpi.serialization import PLAIN
from handoff_mpi.worker.events import Serve
from handoff_mpi.worker.fetching import LONG_ENCODING_S
from tests.faults.namespaces import wait_for

PREAMBLE = """
import os, signal, time
from handoff_mpi import Argument, DAG, Function

def hangs(value, source, target): time.sleep(1000)
def dies(value, source, target): os.kill(os.getpid(), signal.SIGKILL)
def raises(value, source, target): raise ValueError("not today")
def leaves(value, source, target): os._exit(3)
class Hangs:
    def __init__(self, *values): self.values = values
    def __reduce__(self): return Hangs.load, self.values
    @staticmethod
    def load(*values): time.sleep(1000)
def whole(value, source, target): return [value, source, target]
def size(value, *more): return len(value[0])

dag = DAG("encoders")
dag.add_function(Function("made", (), list, ["some text"], node=1))
dag.add_function(Function("odd", (), Hangs, node=1))
def take(id, how, value="made", node=2, **options):
    dag.add_function(Function(id, [Argument(value, how)], lambda value: value, node=node, max_retries=0, **options))
"""
OTHERS = """
take("whole", whole, timeout=60)
take("plain whole", whole)
for number in range(6):
    dag.add_function(Function(number, ["made"], len))
"""
FAILURES = """
take("hangs", hangs, timeout=2)
take("unpickling", whole, "odd", timeout=2)
take("dies", dies, timeout=60)
take("leaves", leaves, timeout=60)
take("raises", raises, timeout=60)
"""


@pytest.fixture
def dag(tmp_path):
    def write(*parts) -> None:
        (tmp_path / "dag.py").write_text("".join((PREAMBLE, *parts)))

    return write


def failures(err):
    return {line.split("'")[1]: line for line in err.splitlines() if line.startswith("handoff: function ")}


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_an_encoding_that_hangs_or_crashes_fails_the_call_it_is_for_and_nothing_else(handoff, dag, isolation):
    dag(FAILURES, OTHERS)
    ended = handoff("run", "-n", "3", "--isolation", isolation, "--slots", "4", "--crash-limit", "1", "dag.py")
    assert ended.rc == 1, ended.err
    told = failures(ended.err)
    for id in "hangs", "unpickling":
        assert "encoding one of its inputs on rank 1 took longer than its timeout of 2 s" in told.pop(id)
    assert "while one of its inputs was encoded on rank 1: its process was killed by SIGKILL" in told.pop("dies")
    assert "while one of its inputs was encoded on rank 1: its process ended with exit status 3" in told.pop("leaves")
    assert "ValueError: not today" in told.pop("raises")
    assert not told, told
    assert "10 done, 5 failed of 15 functions" in ended.err
    assert "was lost" not in ended.err


@pytest.mark.long
def test_one_rank_at_most_dies_of_an_encoding(handoff, dag):
    dag('take("dies", dies, node=None)\n', OTHERS)
    ended = handoff("run", "-n", "5", "--isolation", "rank", "--slots", "1", "dag.py")
    assert ended.rc == 1, ended.err
    assert "its process died 3 times" in failures(ended.err)["dies"]
    assert ended.err.count("was lost") <= 1, ended.err
    assert "10 done, 1 failed of 11 functions" in ended.err


@pytest.mark.long
def test_a_stopped_run_says_which_rank_encodes_what_for_whom(dag, tmp_path):
    dag('def hangs(*_):\n    open("begun", "w").close()\n    time.sleep(1000)\n', 'take("hangs", hangs)\n')
    command = [sys.executable, "-m", "handoff_mpi", "run", "-n", "3", "--isolation", "rank", "--grace-period", "1"]
    process = subprocess.Popen(
        [*command, "--run-dir", "run", "dag.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert wait_for((tmp_path / "begun").exists, 40)
        time.sleep(2 * LONG_ENCODING_S)
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 75, err
    ran = "('odd', )?'hangs'"  # rank 1 encodes in the thread that calls its functions, before or after it calls `odd`
    assert re.search(f"while {ran} ran \\({ran} did not end; rank 1 has been encoding 'made' for 'hangs' for ", err), (
        err
    )


class Children:
    """Stands for child processes: each takes an encoding, and answers when a test says so."""

    def __init__(self):
        self.busy = {}
        self.answers = {}

    def start(self):
        return ChildProcess(self)


class ChildProcess:
    is_preparing = False
    pid = 2**22 + 1

    def __init__(self, children):
        self.knows = set()
        self.children = children

    def learn(self, news):
        self.knows.update(number for number, _ in news)

    def encode(self, codec, dest, payload):
        self.children.busy[dest] = self
        self.dest = dest

    def poll(self):
        return None

    def bury(self):
        pass


@pytest.fixture
def encoders(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(encoding_children, "clock", lambda: clock.now)
    children = Children()
    made = Encoders(1, children.start, lambda task: (PLAIN, task), lambda command, outcome: None)
    return made, children, clock


def asked(dest, limit_s=None):
    return Serve(dest, 0, 7, (0, None), [(0, b"")], limit_s)


def test_an_encoding_waits_a_second_for_others_before_it_has_a_child_of_its_own(encoders):
    made, children, clock = encoders
    made.serve(asked(2))
    made.serve(asked(3))
    assert list(children.busy) == [2]
    clock.now += 1.1
    made.turn()
    assert list(children.busy) == [2, 3]


def test_encodings_that_never_end_keep_none_with_a_limit_from_its_turn(encoders):
    made, children, clock = encoders
    for dest in range(20):
        made.serve(asked(dest))
        clock.now += 1.1
        made.turn()
    assert len(children.busy) == MAX_CHILDREN
    made.serve(asked(50, 3.0))
    clock.now += 1.1
    made.turn()
    assert 50 in children.busy
