"""Windowed arrays in the scheduler: elements come while the run continues, until there are no more, or none can."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import ErrorReport
from handoff_mpi.scheduler import ElementsPulled, StopRequested
from handoff_mpi.scheduler.array_state import Array
from tests.scheduler.test_arrays import begin, end_all, error
from tests.scheduler.transcript import done, task


def windowed(window=100, *inputs, **options):
    return task(*inputs, array=ArraySpec(0, window=window), **options)


def test_elements_are_leased_as_they_come_and_the_last_one_ends_the_array():
    run, known = begin(windowed())
    assert run.states == "READY" and not known.leases
    known.tell(ElementsPulled(0, 2))
    assert [list(elements) for _, elements in known.leases.values()] == [[(0, 1)], [(1, 2)]]
    end_all(run, known)
    assert run.status == "running"
    known.tell(ElementsPulled(0, 50))
    end_all(run, known)
    known.tell(ElementsPulled(0, 50, is_last=True))
    assert run.status == "done"
    assert known.begun == Counter(range(50))


def test_an_array_whose_iterables_give_nothing_is_done():
    run, known = begin(windowed(), task(0))
    known.tell(ElementsPulled(0, 0, is_last=True))
    assert run.states == "DONE DISPATCHED"


def test_elements_that_an_earlier_launch_computed_are_not_leased():
    run, known = begin(windowed())
    known.tell(ElementsPulled(0, 10, [(2, 5), (9, 10)], is_last=True))
    end_all(run, known)
    assert run.status == "done"
    assert known.begun == Counter([0, 1, 5, 6, 7, 8])
    assert run.scheduler.arrays.of[0].done == 10


def test_iterables_that_fail_fail_the_array_when_what_has_come_has_ended():
    run, known = begin(windowed())
    known.tell(ElementsPulled(0, 5, (), True, ErrorReport("OSError", "torn", "Traceback: torn")))
    assert run.status == "running"
    end_all(run, known)
    assert run.status == "failed"
    assert run.why(0) == ("OSError", "torn")
    assert known.begun == Counter(range(5))


def test_elements_wait_for_the_inputs_of_the_array():
    run, known = begin(task(), windowed(100, 0))
    known.tell(ElementsPulled(1, 3))
    assert run.states == "DISPATCHED WAITING"
    known.tell(done(1, 0))
    known.tell(ElementsPulled(1, 4, is_last=True))
    known.number = 1
    end_all(run, known)
    assert run.status == "done"


def test_a_run_that_is_stopped_waits_for_no_elements():
    run, known = begin(windowed())
    known.tell(ElementsPulled(0, 1))
    known.tell(StopRequested("enough"))
    end_all(run, known)
    assert run.status == "stopped"
    known.tell(ElementsPulled(0, 9, is_last=True))


def test_too_many_failures_end_the_array_and_what_comes_later_does_not_count():
    run, known = begin(windowed(max_retries=0), slots=(1,))
    run.scheduler.arrays.of[0].spec = ArraySpec(0, None, 0, 100)
    known.tell(ElementsPulled(0, 1))
    known.tell(known.report(next(iter(known.leases)), failures=[(((0, 1),), error("TypeError"))]))
    assert run.status == "failed"
    assert not run.scheduler.arrays.of[0].is_open
    known.tell(ElementsPulled(0, 100))
    assert not known.leases


def test_leases_are_as_large_as_a_share_of_the_window():
    few = Array(ArraySpec(0, window=1000), task(), IntervalSet([(0, 10)]), is_open=True)
    few.learn(1000, 0.05)
    assert few.lease_count(5) == 100
    few.is_open = False
    assert few.lease_count(5) == 2


@pytest.mark.parametrize("seed", range(10))
def test_each_element_runs_once_however_elements_come(seed):
    rng = random.Random(seed)
    run, known = begin(windowed(), slots=(2, 1))
    count, total, restored = 0, rng.randrange(1, 300), Counter()
    while run.status == "running":
        if count <= total and rng.random() < 0.5:
            new = min(total, count + rng.randrange(40))
            taken = [(count, count + (new - count) // 3)] if rng.random() < 0.3 and new - count > 3 else []
            restored.update(index for start, stop in taken for index in range(start, stop))
            count = new
            known.tell(ElementsPulled(0, count, taken, is_last=count == total))
            count += count == total
        elif known.leases:
            known.tell(known.report(rng.choice([*known.leases]), busy_s=rng.random() / 100))
    assert run.status == "done"
    assert known.begun + restored == Counter(range(total))
