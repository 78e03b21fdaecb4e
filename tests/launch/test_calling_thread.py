"""Calls of runs and maps of several threads: only one thread calls functions here, unless all that do so map."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from handoff_mpi.launch.calling_thread import CallingThread


@pytest.fixture
def calling():
    return CallingThread()


@pytest.fixture
def in_another_thread():
    """Call a function in another thread, which is the same one each time."""
    with ThreadPoolExecutor(1) as thread:
        yield lambda function: thread.submit(function).result()


def is_beside(context):
    with context() as found:
        return found


@pytest.mark.parametrize(
    ("what", "run_is_beside", "map_is_beside"), [("running", True, True), ("mapping", True, False)]
)
def test_a_thread_that_calls_functions_has_others_call_theirs_elsewhere(
    calling, in_another_thread, what, run_is_beside, map_is_beside
):
    for _ in range(2):
        with getattr(calling, what)() as found:
            assert not found
            assert in_another_thread(lambda: is_beside(calling.running)) == run_is_beside
            assert in_another_thread(lambda: is_beside(calling.mapping)) == map_is_beside
            assert not is_beside(calling.running) and not is_beside(calling.mapping), "within its own"
            assert in_another_thread(lambda: is_beside(calling.running)) == run_is_beside, "it still calls"
        assert not in_another_thread(lambda: is_beside(calling.running))


def test_a_run_beside_another_leaves_it_where_it_is_and_may_end_after_it(calling, in_another_thread):
    first, second = ExitStack(), ExitStack()
    assert not first.enter_context(calling.running())
    assert in_another_thread(lambda: second.enter_context(calling.running()))
    first.close()
    assert not is_beside(calling.running)
    in_another_thread(second.close)
    assert not in_another_thread(lambda: is_beside(calling.running))
