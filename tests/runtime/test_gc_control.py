"""The collector is left as it was found, and what it would have collected is collected."""

from __future__ import annotations

import gc
import weakref

import pytest

from handoff_mpi.process_context import this_process
from handoff_mpi.runtime import gc_control
from handoff_mpi.runtime.gc_control import SkippedCollections


class Cyclic:
    """Only a collection frees it."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def collector(monkeypatch):
    """A collector as Python starts it, and small DAGs that count as large."""
    monkeypatch.setattr(gc_control, "FREEZE_FROM_FUNCTIONS", 10)
    monkeypatch.setitem(this_process._pieces, SkippedCollections, SkippedCollections())
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
    gc.enable()


@pytest.mark.parametrize("was_enabled", [True, False])
def test_what_the_user_has_set_is_set_again_even_after_an_error(was_enabled):
    (gc.enable if was_enabled else gc.disable)()
    gc.set_threshold(500, 5, 5)
    with pytest.raises(ValueError), gc_control.paused(), gc_control.frozen(10):
        assert not gc.isenabled()
        assert gc.get_freeze_count()
        raise ValueError
    assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == (was_enabled, (500, 5, 5), 0)


def test_what_the_program_has_frozen_stays_frozen():
    gc.freeze()
    count = gc.get_freeze_count()
    with gc_control.frozen(10):
        assert gc.get_freeze_count() == count
    assert gc.get_freeze_count() >= count - 10


def test_what_a_function_freezes_stays_frozen():
    with gc_control.frozen(10):
        more = [Cyclic() for _ in range(1000)]
        gc.freeze()
    assert gc.get_freeze_count() >= len(more)


def test_a_small_run_does_not_touch_the_collector():
    before = gc.get_count()[1:]
    with gc_control.frozen(9):
        assert not gc.get_freeze_count()
    assert gc.get_count()[1:] >= before


def collected_after(runs, between=lambda: None):
    """Return whether what only a collection frees is freed within so many runs, the collector's counts being reset."""
    lost = Cyclic()
    is_freed = weakref.ref(lost)
    del lost
    for _ in range(runs):
        between()
        with gc_control.frozen(10):
            garbage_of_the_run = [[] for _ in range(5 * gc.get_threshold()[0])]
            del garbage_of_the_run
        if is_freed() is None:
            return True
    return False


def make_objects():
    """Have the collector look at young objects a few times, as a script does that makes a DAG."""
    return [[] for _ in range(5 * gc.get_threshold()[0])]


def test_in_a_loop_of_large_runs_the_oldest_objects_are_visited_too():
    gc.collect()
    assert collected_after(2000, make_objects)


@pytest.mark.soak
def test_where_the_user_has_disabled_the_collector_nothing_is_collected():
    gc.collect()
    gc.disable()
    assert not collected_after(300, make_objects)
