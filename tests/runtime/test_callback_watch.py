"""User code that does not return to the scheduler is reported, with its name and place."""

from __future__ import annotations

import sys
import threading
import time

import pytest

import handoff_mpi
from handoff_mpi import DAG, Function, telemetry
from handoff_mpi.allocation import FirstAvailable
from handoff_mpi.callbacks import call, call_here
from handoff_mpi.runtime import callback_watch
from handoff_mpi.runtime.callback_watch import CallbackWatch, find_callback
from tests.runtime.test_unhappy import PREAMBLE

NAP_S = 0.6


@pytest.fixture
def hasty(monkeypatch):
    """A watch that reports after a tenth of a second."""
    monkeypatch.setattr(
        callback_watch, "CallbackWatch", lambda *who: CallbackWatch(*who, interval_s=0.02, first_report_s=0.1)
    )


class SlowTracker:
    def register(self, rank, capabilities):
        pass

    def request(self, rank, amounts):
        self.ask_server()
        return True

    def ask_server(self):
        time.sleep(NAP_S)

    def release(self, rank, amounts):
        pass


class SlowStrategy(FirstAvailable):
    def allocate(self, ready, view):
        time.sleep(NAP_S)
        yield from super().allocate(ready, view)


class SlowStore:
    def __init__(self, rank=0):
        self.values = {}

    def put(self, key, payload):
        time.sleep(NAP_S)
        self.values[key] = payload

    def get(self, key):
        return self.values[key]

    def delete(self, key):
        self.values.pop(key, None)


def on_start(event, measurements, metadata, config):
    time.sleep(NAP_S)


def naps(seconds=0.0):
    dag = DAG("naps")
    dag.add_function(Function("nap", (), time.sleep, [seconds]))
    return dag


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"resource_tracker": SlowTracker()}, "SlowTracker.request"),
        ({"allocation_strategy": SlowStrategy()}, "SlowStrategy.allocate"),
        ({"result_store": SlowStore}, "SlowStore.put"),
    ],
)
def test_a_plug_that_does_not_return_is_named(options, name, hasty, capfd):
    handoff_mpi.execute_local(naps(), run_dir=False, progress="none", **options)
    err = capfd.readouterr().err
    assert f"until {name} returns ({__file__}, line " in err
    assert "no function is dispatched meanwhile; give what it waits for a timeout" in err
    waits = [line for line in err.splitlines() if "has waited for" in line]
    assert len(waits) <= 4, "each wait is twice as long as the one before"


def test_a_handler_that_does_not_return_is_named(hasty, capfd):
    telemetry.attach("slow", telemetry.FUNCTION_STOP, on_start)
    try:
        handoff_mpi.execute_local(naps(), run_dir=False, progress="none")
    finally:
        telemetry.detach("slow")
    assert "until on_start returns" in capfd.readouterr().err


def test_functions_of_the_dag_may_take_their_time(hasty, capfd):
    telemetry.attach("quick", telemetry.FUNCTION_STOP, lambda *told: None)
    try:
        handoff_mpi.execute_local(naps(NAP_S), run_dir=False, progress="none")
    finally:
        telemetry.detach("quick")
    assert "has waited" not in capfd.readouterr().err


def stack_of(function):
    """Return what ``find_callback`` finds while ``function`` runs, which is given what stops it."""
    found = []

    def look():
        frame = sys._getframe()
        while frame is not None and frame.f_code.co_name != "asked":
            frame = frame.f_back
        found.append(find_callback(frame))

    def asked():
        look()

    function(asked)
    return found[0]


def test_what_counts_as_a_callback():
    outer, inner = stack_of(lambda asked: call(lambda: asked()))
    assert outer.f_code.co_name == "<lambda>" and inner.f_code.co_name == "asked"
    assert stack_of(lambda asked: call_here(lambda: asked(), (), {})) is None
    assert stack_of(lambda asked: call(call_here, asked, (), {})) is None
    assert stack_of(lambda asked: asked()) is None
    assert find_callback(None) is None


def test_a_callback_without_frames_is_reported_too():
    said = []
    watch = CallbackWatch("rank 0", "nothing moves", said.append, 0.02, 0.1)
    watch.start()
    call(time.sleep, NAP_S)
    watch.close()
    assert said and "until a callback returns" in said[0]
    assert not any(each.name == "handoff-callback-watch" for each in threading.enumerate())


@pytest.mark.soak
def test_a_store_that_does_not_return_on_a_worker_is_named_with_its_rank(handoff, tmp_path):
    (tmp_path / "script.py").write_text(
        PREAMBLE
        + """
import time
import handoff_mpi as handoff
class Store(dict):
    def put(self, key, payload):
        time.sleep(13)
        self[key] = payload
    def delete(self, key): self.pop(key, None)
def value(): return b"x" * 1_000_000
def size(given): return len(given)
dag = handoff.DAG("d")
dag.add_function(handoff.Function("a", (), value))
dag.add_function(handoff.Function("b", ["a"], size))
handoff.start(result_store=lambda rank: Store())
"""
    )
    ended = handoff("run", "-n", "2", "script.py", "--progress", "none")
    assert ended.rc == 0, ended.err
    assert ended.err.count("handoff: rank 1 has waited for 10 s until Store.put returns") == 1
    assert "no function runs there" in ended.err
