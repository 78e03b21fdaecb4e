"""Children between two runs: what a run finds in them is what it would find in new ones."""

from __future__ import annotations

import os
import threading

import pytest

from handoff_mpi.serialization import decode, encode_code
from handoff_mpi.worker.calls import CallSpec
from handoff_mpi.worker.runners import Child, frame_ahead
from handoff_mpi.worker.spares import Spares
from tests.worker.test_child import end


@pytest.fixture
def spares():
    spares = Spares()
    yield spares
    spares.close()


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


def test_a_child_serves_the_next_run_as_a_new_one_would(spares):
    child = Child(3, "first")
    child.learn([(0, encode_code(_other))])
    child.call(CallSpec("id", 1, ((0,), 0, None, ()), [], 1.0, ()))
    assert decode(end(child)) == "other"
    spares.keep([child])
    assert spares.pids() == [child.pid]
    assert spares.take("second") is child
    assert child.knows == set()
    assert run_of_a_call(child) == "second"
    assert spares.take("second") is None
    child.close()


def test_a_value_of_the_run_before_is_not_there_to_be_taken(spares):
    child = Child(3, "first")
    run_of_a_call(child)
    spares.keep([child])
    assert spares.take("second") is child
    child.learn([(0, encode_code(_other))])
    child.call_ahead([frame_ahead(CallSpec("id", 1, ((0,), 0, None, ()), [(None, None, -1)], 1.0, ()))])
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
def test_one_that_a_new_one_would_differ_from_is_not_used(spares, monkeypatch, happens, when):
    monkeypatch.setenv("HANDOFF_SOMETHING", "old")
    child = Child(3, "first")
    if when == "before":
        happens(child)
        spares.keep([child])
        assert spares.pids() == []
    else:
        spares.keep([child])
        assert spares.pids() == [child.pid]
        happens(child)
        assert spares.take("second") is None
    spares.close()
    assert not lives(child.pid)


def test_one_that_was_set_up_for_its_run_is_not_kept(spares):
    child = Child(3, "first", encode_code(_prepare))
    spares.keep([child])
    assert spares.pids() == []
    spares.close()
    assert not lives(child.pid)


def test_one_that_ends_with_another_thread_is_not_kept(spares):
    """The kernel ends a child with the thread that has started it."""
    started = []
    done = threading.Event()

    def start():
        started.append(Child(3, "first"))
        done.wait(30)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        while not started:
            done.wait(0.01)
        spares.keep(started)
        assert spares.pids() == []
    finally:
        done.set()
        thread.join()
        started[0].close()


def test_none_outlives_the_spares(spares):
    children = [Child(3, "first") for _ in range(2)]
    spares.keep(children)
    spares.close()
    assert spares.pids() == []
    assert not any(lives(child.pid) for child in children)
