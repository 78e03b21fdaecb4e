"""Children between two runs: what a run finds in them is what it would find in new ones."""

from __future__ import annotations

import os
import threading

import pytest

from handoff_mpi.serialization import decode, encode_code
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.child_process import ChildProcess, frame_ahead
from handoff_mpi.worker.events import QueuedCall
from tests.worker.test_child_process import end


@pytest.fixture
def child_pool():
    child_pool = ChildPool()
    yield child_pool
    child_pool.close()


def run_of_a_call(child):
    """Call a function that tells the run it is of; its code is number 0 in every run."""
    child.learn([(0, encode_code(_run))])
    child.call(CallSpec("id", 1, ((0,), 0, None, ()), [], 1.0, ()))
    return decode(end(child))


def _run():
    from handoff_mpi import current_task

    return current_task().run


def _other():
    return "other"


def _prepare(rank):
    pass


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
def test_a_child_serves_the_next_run_as_a_new_one_would(child_pool):
    child = ChildProcess(3, "first")
    child.learn([(0, encode_code(_other))])
    child.call(CallSpec("id", 1, ((0,), 0, None, ()), [], 1.0, ()))
    assert decode(end(child)) == "other"
    child_pool.keep([child])
    assert child_pool.pids() == [child.pid]
    assert child_pool.take("second") is child
    assert child.knows == set()
    assert run_of_a_call(child) == "second"
    assert child_pool.take("second") is None
    child.close()


@pytest.mark.long
def test_a_value_of_the_run_before_is_not_there_to_be_taken(child_pool):
    child = ChildProcess(3, "first")
    run_of_a_call(child)
    child_pool.keep([child])
    assert child_pool.take("second") is child
    child.learn([(0, encode_code(_other))])
    work = QueuedCall(0, 1, "id", ((0,), 0, None, ()), (), None, 0, 0, (1.0, ()))
    child.call_ahead([frame_ahead(work, [None])])
    frame = None
    while frame is None:
        frame = child.poll()
    assert frame[0] == ("void",)
    child.close()


def _end(child):
    child.kill()
    child._process.wait(10)


def _change_environment(child):
    os.environ["HANDOFF_SOMETHING"] = "new"


@pytest.mark.parametrize("happens", [_end, _change_environment])
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_that_a_new_one_would_differ_from_is_not_used(child_pool, monkeypatch, happens, when):
    monkeypatch.setenv("HANDOFF_SOMETHING", "old")
    child = ChildProcess(3, "first")
    if when == "before":
        happens(child)
        child_pool.keep([child])
        assert child_pool.pids() == []
    else:
        child_pool.keep([child])
        assert child_pool.pids() == [child.pid]
        happens(child)
        assert child_pool.take("second") is None
    child_pool.close()
    assert not lives(child.pid)


def test_one_that_was_set_up_for_its_run_is_not_kept(child_pool):
    child = ChildProcess(3, "first", encode_code(_prepare))
    child_pool.keep([child])
    assert child_pool.pids() == []
    child_pool.close()
    assert not lives(child.pid)


def test_one_that_ends_with_another_thread_is_not_kept(child_pool):
    """The kernel ends a child with the thread that has started it."""
    started = []
    done = threading.Event()

    def start():
        started.append(ChildProcess(3, "first"))
        done.wait(30)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        while not started:
            done.wait(0.01)
        child_pool.keep(started)
        assert child_pool.pids() == []
    finally:
        done.set()
        thread.join()
        started[0].close()


def test_none_outlives_the_child_pool(child_pool):
    children = [ChildProcess(3, "first") for _ in range(2)]
    child_pool.keep(children)
    child_pool.close()
    assert child_pool.pids() == []
    assert not any(lives(child.pid) for child in children)
