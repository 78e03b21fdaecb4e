"""Code that the user plugs in and that exits, interrupts or forks: one clear line, the right exit code, one rank 0."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from handoff_mpi import callbacks

PLUGGED = """
import os, sys
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.results import MemoryStore

where, how = os.environ["PLUG"].split("-")
calls = []

def act(here):
    if here != where or calls:
        return
    calls.append(here)
    if how == "exit": sys.exit(0)
    if how == "odd": raise type("Odd", (BaseException,), {})("no Exception")
    if how == "interrupt": raise KeyboardInterrupt
    if how == "fork": os.fork()

class Strategy:
    def allocate(self, ready, view):
        act("strategy")
        for group in ready:
            for rank in view.ranks():
                while len(group) and view.fits(group.cost, rank):
                    yield group[0], rank

class Tracker:
    def register(self, rank, capabilities): act("register")
    def request(self, rank, cost):
        act("request")
        return True
    def release(self, rank, cost): act("release")

class Store(MemoryStore):
    def put(self, key, payload):
        act("put")
        super().put(key, payload)

def make(rank):
    act("factory")
    return Store()

handoff.telemetry.attach("t", handoff.telemetry.FUNCTION_STOP, lambda *_: act("handler"))
handoff.start(allocation_strategy=Strategy(), resource_tracker=Tracker(), result_store=make)
dag = DAG("plugged")
for number in range(3): dag.add_function(Function(number, (), abs, [-number]))
"""

ENDS_THE_RUN = {
    "strategy-exit": "the strategy failed: SystemExit: it called sys.exit(0)",
    "strategy-odd": "the strategy failed: Odd: no Exception",
    "strategy-interrupt": "the strategy failed: KeyboardInterrupt",
    "register-exit": "resource_tracker.register failed: SystemExit",
    "factory-exit": "result_store(0) failed: SystemExit",
}
GOES_ON = {
    "handler-exit": "telemetry handler 't' is detached",
    "handler-odd": ".Odd: no Exception",
    "request-exit": "resource_tracker.request failed: SystemExit: it called sys.exit(0)",
    "release-interrupt": "resource_tracker.release failed: KeyboardInterrupt",
    "put-exit": "result_store.put failed: SystemExit",
}
FORKS = ["handler-fork", "strategy-fork", "request-fork", "put-fork", "factory-fork"]


def look_at(ended, case):
    """With any callback, one rank 0 gives one verdict, and nobody sees a traceback."""
    assert "Traceback" not in ended.err
    verdicts = ended.err.count("handoff: DAG 'plugged'")
    if case in ENDS_THE_RUN:
        assert (ended.rc, verdicts) == (2, 0), ended.err
        assert ended.err.count(ENDS_THE_RUN[case]) == 1
    else:
        assert (ended.rc, verdicts) == (0, 1), ended.err
        assert "3 done of 3" in ended.err
        assert GOES_ON.get(case, "") in ended.err


@pytest.mark.long
@pytest.mark.parametrize("case", [*ENDS_THE_RUN, *GOES_ON, *FORKS][2:])
def test_in_one_process(case, handoff, tmp_path):
    (tmp_path / "dag.py").write_text(PLUGGED)
    look_at(handoff("run", "dag.py", env={"PLUG": case}), case)


@pytest.mark.long
@pytest.mark.parametrize("case", ["strategy-exit", "strategy-fork"])
def test_on_ranks_that_were_launched(case, handoff, tmp_path):
    (tmp_path / "dag.py").write_text(PLUGGED)
    look_at(handoff("run", "-n", "3", "dag.py", env={"PLUG": case}), case)


@pytest.mark.long
@pytest.mark.parametrize("case", ["strategy-odd"])
def test_under_mpirun(case, mpirun, tmp_path):
    (tmp_path / "dag.py").write_text(PLUGGED)
    look_at(mpirun(3, "-m", "handoff_mpi", "run", "dag.py", env={"PLUG": case}), case)


class Unspeakable(Exception):
    def __str__(self):
        raise SystemExit(1)


def test_what_a_callback_raises_is_told_in_one_short_line():
    def fail(error):
        raise error

    with pytest.raises(callbacks.CallbackFailed, match=r"^Unspeakable: \(its message cannot be shown\)$"):
        callbacks.call(fail, Unspeakable())
    with pytest.raises(callbacks.CallbackFailed) as caught:
        callbacks.call(fail, ValueError("a\nb" + "c" * 10_000))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_the_interrupt_of_a_user_at_the_terminal_interrupts():
    def fail():
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        callbacks.call(fail)


@pytest.mark.parametrize(("how", "status"), [("sys.exit(7)", 7), ("1 / 0", 1), ("0", 0), ("sys.exit('x')", 1)])
def test_a_forked_process_ends_with_a_status_of_its_own(how, status):
    def fork():
        forked = os.fork()
        return forked or eval(how, {"sys": sys})

    forked = callbacks.call(fork)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == status


ROUNDABOUT = """
import os
from handoff_mpi import DAG, Argument, Function

def fork(value=None, *ranks):
    os.fork()
    return value

dag = DAG("plugged")
dag.add_function(Function("a", (), abs, [-1]))
dag.add_function(Function("b", [Argument("a", fork, fork)], abs))
dag.add_function(Function("inline", ["a"], fork, type="inline"))
dag.add_function(Function("c", ["inline"], abs))
"""


def test_codecs_and_inline_functions_that_fork(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(ROUNDABOUT)
    ended = handoff("run", "dag.py")
    assert ended.rc == 0, ended.err
    assert ended.err.count("3 done of 3") == 1
