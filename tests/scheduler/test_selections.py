"""Selections in dialogues: a function waits for the elements that it takes, and for no others."""

from __future__ import annotations

import random

import pytest

from handoff_mpi.arrays.links import Link
from handoff_mpi.dag.selections import Selection
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import RAISED
from handoff_mpi.scheduler import Finished, State, Unfetched, ValueLocation
from tests.scheduler.test_arrays import IntervalSet, Ranks, end_all, error
from tests.scheduler.transcript import Dialogue, array, done, ranks, selecting, task

ONE, LIST, PAIRS = Selection(0, 4), Selection(0, range(2, 5)), Selection(0, range(10), True)


def begin(*specs, selections, slots=(2,), **also):
    run = Dialogue(ranks(*slots))
    known = Ranks(run)
    run.submit(*specs, selections=selections, **also)
    return run, known


def lease_of(known, index):
    """The lease that has the element ``index``."""
    return next(key for key, (_, elements) in known.leases.items() if index in elements)


def states_of(run, *numbers):
    return [State(run.scheduler.tasks.state[number]).name for number in numbers]


def end_up_to(run, known, index):
    """End leases until the element ``index`` is leased; return its lease."""
    while not any(index in elements for _, elements in known.leases.values()):
        known.tell(known.report(next(iter(known.leases)), busy_s=1.0))
    return lease_of(known, index)


def test_a_function_that_takes_one_element_runs_while_the_others_do():
    run, known = begin(array(10), selecting([0], 2), selections=[ONE], slots=(3,))
    key = end_up_to(run, known, 4)
    assert states_of(run, 1) == ["WAITING"]
    known.tell(known.report(key, busy_s=1.0))
    assert states_of(run, 0, 1) == ["READY", "DISPATCHED"]
    known.tell(done(1, 1))
    end_all(run, known, busy_s=1.0)
    assert run.status == "done"


def test_a_function_takes_a_whole_array_and_a_slice_and_a_function():
    run, known = begin(array(6), task(priority=1), selecting([0, 1], 0, 3, 1), selections=[LIST], slots=(3,))
    known.tell(done(1, 1))
    end_all(run, known)
    known.tell(done(1, 2))
    assert run.status == "done"


def test_a_function_is_skipped_if_an_element_that_it_takes_failed_and_no_other():
    specs = array(10), selecting([0], 4), selecting([0], 5), task(1)
    run, known = begin(*specs, selections=[LIST, Selection(0, range(5, 10))])
    key = end_up_to(run, known, 4)
    known.tell(known.report(key, failures=[(((4, 5),), error())], busy_s=1.0))
    while known.leases:  # it is tried again
        key = next(iter(known.leases))
        failures = [(((4, 5),), error())] if 4 in known.leases[key][1] else ()
        known.tell(known.report(key, failures=failures, busy_s=1.0))
    assert states_of(run, 0, 1, 2, 3) == ["FAILED", "SKIPPED", "DISPATCHED", "SKIPPED"]
    known.tell(done(1, 2))
    assert run.status == "failed"


def test_pairs_are_taken_of_what_has_values_once_all_have_ended():
    run, known = begin(array(10, max_retries=0), selecting([0], 2), selections=[PAIRS])
    key = end_up_to(run, known, 4)
    known.tell(known.report(key, failures=[(((4, 5),), error())], busy_s=1.0))
    assert states_of(run, 1) == ["WAITING"]
    end_all(run, known)
    assert states_of(run, 0, 1) == ["FAILED", "DISPATCHED"]


def test_pairs_are_taken_though_too_many_elements_failed_for_the_rest_to_begin():
    run, known = begin(array(100, max_retries=0, max_failures=0), selecting([0], 2), selections=[PAIRS])
    key = lease_of(known, 0)
    known.tell(known.report(key, failures=[(((0, 1),), error())]))
    end_all(run, known)
    assert states_of(run, 0, 1) == ["FAILED", "DISPATCHED"]


def test_what_takes_elements_of_an_array_that_never_began_is_skipped():
    run, known = begin(
        task(max_retries=0), array(10, 0), selecting([1], 4), task(2), selections=[Selection(1, range(3))]
    )
    known.tell(_raised(1, 0))
    assert states_of(run, 1, 2, 3, 4) == ["SKIPPED"] * 4
    assert run.status == "failed"


def test_what_leaves_out_missing_elements_runs_though_the_array_never_began():
    specs = task(max_retries=0), array(10, 0), selecting([1], 4), selecting([1], 4, 1)
    run, known = begin(*specs, selections=[Selection(1, range(3), True)])
    known.tell(_raised(1, 0))
    assert states_of(run, 1, 2, 3, 4) == ["SKIPPED", "DISPATCHED", "SKIPPED", "DONE"]
    known.tell(done(1, 2))
    assert run.status == "failed"


def test_an_array_that_leaves_out_missing_elements_of_one_that_never_began_runs():
    specs = task(max_retries=0), array(10, 0), array(2, 1, takes=(4,)), selecting([2], 5)
    run, known = begin(*specs, selections=[Selection(1, range(3), True), Selection(2, range(2), True)])
    known.tell(_raised(1, 0))
    end_all(run, known)
    assert states_of(run, 1, 2, 3) == ["SKIPPED", "DONE", "DISPATCHED"]


def _raised(rank, number):
    return Finished(rank, [(number, 1, RAISED, error(), 0, 0.0, 1.0, False)])


def test_an_empty_slice_is_there_at_once():
    run, _ = begin(array(10), selecting([0], 2), selections=[Selection(0, range(3, 3))], slots=(3,))
    assert states_of(run, 1) == ["DISPATCHED"]


def test_an_array_takes_an_element_of_another_one():
    selections = [ONE]
    run, known = begin(array(10), array(5, 0, takes=(2,)), selections=selections)
    end_all(run, known)
    assert run.status == "done"


def test_what_an_earlier_launch_computed_need_not_be_waited_for():
    run, _ = begin(array(10), selecting([0], 2), selections=[ONE], slots=(3,), elements={0: IntervalSet([(4, 5)])})
    assert states_of(run, 0, 1) == ["READY", "DISPATCHED"]


def test_a_value_whose_file_is_lost_is_made_again_with_elements_that_nobody_needed_before():
    """An earlier launch has done the function, not all of the array."""
    restored = {0: ValueLocation.NOWHERE, 1: ValueLocation.FILE}
    run, known = begin(array(6), selecting([0], 3), task(1), selections=[LIST], restored=restored)
    assert states_of(run, 0, 1, 2, 3) == ["DONE", "DONE", "DISPATCHED", "DONE"]
    known.tell(Unfetched(1, 2, 1, [(1, ())]))
    assert states_of(run, 0, 1, 2, 3) == ["READY", "WAITING", "WAITING", "WAITING"]
    end_all(run, known)
    assert states_of(run, 0, 1, 3) == ["DONE", "DISPATCHED", "DONE"]
    known.tell(done(1, 1))
    known.tell(done(1, (2, 2)))
    assert run.status == "done"


def test_a_waiting_function_tells_which_elements_it_waits_for():
    run, _ = begin(array(10), selecting([0], 2, 3), selections=[ONE, LIST])
    told = run.scheduler.explain(1, lambda number: ["xs", "report"][number])
    (reason,) = told["reasons"]
    assert [each["id"] for each in reason["inputs"]] == ["xs[4]", "xs[2:5]"]
    assert [each["id"] for each in reason["chains"][0]] == ["xs[4]", "xs"]


@pytest.mark.parametrize("seed", range(30))
def test_selections_end_as_a_look_at_each_element_says(seed):
    """A dumb twin looks at all elements of each selection after each report."""
    rng = random.Random(seed)
    count = rng.randrange(1, 60)
    selections = [_selection(rng, count) for _ in range(rng.randrange(1, 12))]
    consumers = [selecting([0], 1 + len(selections) + number, max_retries=0) for number in range(len(selections))]
    run, known = begin(array(count, max_retries=0, chunk=rng.randrange(1, 9)), *consumers, selections=selections)
    values, failed = set(), set()
    while len(values) + len(failed) < count:
        if not known.leases:
            known.tell(*_running(run, len(selections)))
            continue
        key = rng.choice([*known.leases])
        elements = [index for low, high in known.leases[key][1] for index in range(low, high)]
        bad = [index for index in elements if rng.random() < 0.1]
        failures = [(tuple((index, index + 1) for index in bad), error())] if bad else []
        values.update(set(elements) - set(bad))
        failed.update(bad)
        for event in _running(run, len(selections)):
            known.tell(event)
        known.tell(known.report(key, failures=failures, busy_s=rng.choice([0.001, 1.0])))
        for number, selection in enumerate(selections, 1):
            _compare(State(run.scheduler.tasks.state[number]), set(selection.indices), values, failed, selection)
    while events := _running(run, len(selections)):
        known.tell(*events)
    assert run.status == ("failed" if failed else "done")


def _running(run, count):
    state = run.scheduler.tasks.state
    numbers = [number for number in range(1, 1 + count) if state[number] == State.DISPATCHED]
    return [done(1, number) for number in numbers if run.scheduler.slots.of_task[number].tasks[0] == number]


def _compare(state, wanted, values, failed, selection):
    if not wanted <= values | failed:
        assert state in (State.WAITING, State.SKIPPED)
        assert state == State.WAITING or (wanted & failed and not selection.skips_missing)
    elif wanted & failed and not selection.skips_missing:
        assert state == State.SKIPPED
    else:
        assert state in (State.READY, State.DISPATCHED, State.DONE)


def _selection(rng, count):
    low, high = sorted(rng.choices(range(count + 1), k=2))
    elements = range(low, high, rng.randrange(1, 5))
    if rng.random() < 0.3:
        elements = elements[::-1]
    return Selection(0, rng.randrange(count)) if rng.random() < 0.3 else Selection(0, elements, rng.random() < 0.3)


def test_a_skip_that_spreads_from_an_element_over_a_function_to_an_array_reaches_what_takes_its_elements():
    failing, free = array(4, max_retries=0, max_failures=0), ArraySpec(6, links=(Link(0, range(4)),))
    behind = task(array=ArraySpec(3, links=(Link(3, range(3)),)))
    specs = failing, task(array=free), selecting([1], 5), array(3, 2), behind
    run, known = begin(*specs, selections=[Selection(1, 3)], slots=(2,))
    key = next(key for key in known.leases if run.scheduler.arrays.leases[key[0]].array == 0)
    known.tell(known.report(key, failures=[((next(iter(known.leases[key][1])),), error())]))
    assert states_of(run, 2, 3, 4) == ["SKIPPED", "SKIPPED", "SKIPPED"]
    assert states_of(run, 0, 1) == ["READY", "READY"], "some of their elements have not ended"
    end_all(run, known)
    assert run.status == "failed"
