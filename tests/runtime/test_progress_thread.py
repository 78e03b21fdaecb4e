"""The second thread of a rank. What it does during a long call is seen where messages, losses and the end are tried."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from handoff_mpi.runtime import progress_thread
from handoff_mpi.runtime.progress_thread import ProgressThread


class Calls:
    """The calls of the main thread: which are short, and follow one another."""

    def __init__(self):
        self.lock = threading.Lock()
        self.is_calling, self.call_serial, self.work = False, 0, None
        self.wakes = 0

    def make(self, thread, count):
        for _ in range(count):
            self.call_serial += 1
            self.is_calling = True
            if thread.is_parked:
                self.wakes += 1
                thread.wake()
            self.is_calling = False


@pytest.fixture
def calls():
    return Calls()


@pytest.fixture
def thread(calls):
    transport = SimpleNamespace(doorbell=None, is_transferring=False, rank=1)
    thread = ProgressThread(calls, transport, lambda: False)
    thread.start()
    wait_until(lambda: thread.is_parked)
    yield thread
    thread.close()
    assert not thread.is_alive()


def wait_until(is_true):
    end = time.monotonic() + 30.0
    while not is_true():
        assert time.monotonic() < end, "that does not happen"
        time.sleep(0.001)


def test_it_is_woken_once_for_many_short_calls(calls, thread, monkeypatch):
    monkeypatch.setattr(progress_thread, "ATTEND_S", 2.0)
    for _ in range(50):
        calls.make(thread, 10)
        time.sleep(0.0005)
    assert calls.wakes == 1


def test_it_is_parked_again_once_no_call_follows(calls, thread):
    calls.make(thread, 10)
    wait_until(lambda: thread.is_parked)
    calls.make(thread, 1)
    assert calls.wakes == 2
