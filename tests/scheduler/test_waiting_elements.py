"""Elements that are values of functions, in dialogues: each waits for its function alone."""

from __future__ import annotations

import random

import pytest

from handoff_mpi.arrays.links import Link
from handoff_mpi.dag.selections import Selection
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.membership import RankLost
from handoff_mpi.messages import RAISED
from handoff_mpi.scheduler import Finished, State, ValueLocation
from tests.scheduler.test_arrays import IntervalSet, Ranks, end_all, error
from tests.scheduler.transcript import Dialogue, array, done, made, ranks, task


def of_handles(count, handles, *inputs, max_failures=None, **options):
    return task(*inputs, array=ArraySpec(count, None, max_failures, handles=handles), **options)


def begin(*specs, slots=(2,), **also):
    run = Dialogue(ranks(*slots))
    known = Ranks(run)
    run.submit(*specs, **also)
    return run, known


def raised(rank, number):
    return Finished(rank, [(number, 1, RAISED, error(), 0, 0.0, 1.0, False)])


def state_of(run, number):
    return State(run.scheduler.tasks.state[number]).name


def leased(known):
    intervals = [interval for _, elements in known.leases.values() for interval in elements]
    return sorted(index for low, high in intervals for index in range(low, high))


def test_elements_begin_when_what_they_take_is_there():
    run, known = begin(task(), task(), of_handles(4, {1: (0,), 3: (0, 1)}), slots=(6,))
    assert leased(known) == [0, 2]
    known.tell(done(1, 0))
    assert leased(known) == [0, 1, 2]
    known.tell(done(1, 1))
    assert leased(known) == [0, 1, 2, 3]
    end_all(run, known)
    assert run.status == "done"


def test_an_array_of_handles_alone_is_never_leased_itself():
    run, known = begin(task(), of_handles(3, {0: (0,), 1: (0,), 2: (0,)}))
    assert not known.leases
    known.tell(done(1, 0))
    end_all(run, known)
    assert run.status == "done"
    assert run.scheduler.arrays.of[1].done == 3


def test_a_function_that_failed_skips_its_element_alone():
    run, known = begin(task(max_retries=0), task(), of_handles(4, {1: (0,), 2: (1,)}), task(0), slots=(6,))
    known.tell(raised(1, 0), done(1, 1))
    assert (state_of(run, 2), state_of(run, 3)) == ("READY", "SKIPPED")
    end_all(run, known)
    assert run.scheduler.arrays.of[2].done == 3
    assert state_of(run, 2) in ("FAILED", "SKIPPED") and run.status == "failed"


def test_an_element_waits_for_what_all_take_too():
    run, known = begin(task(), task(), of_handles(2, {1: (0,)}, 1), slots=(6,))
    known.tell(done(1, 0))
    assert not known.leases
    known.tell(done(1, 1))
    assert leased(known) == [0, 1]
    end_all(run, known)
    assert run.status == "done"


def test_an_element_of_another_array_is_an_element():
    selections = [Selection(0, 2)]
    run, known = begin(of_handles(3, {}), of_handles(2, {0: (2,)}), selections=selections, slots=(6,))
    end_all(run, known)
    assert run.status == "done"
    assert known.begun.total() == 5


def test_what_an_earlier_launch_computed_waits_for_nothing():
    run, known = begin(task(), of_handles(3, {1: (0,)}), elements={1: IntervalSet([(1, 2)])}, slots=(6,))
    assert leased(known) == [0, 2]
    end_all(run, known)
    assert run.scheduler.tasks.state[1] == State.DONE


def test_an_element_that_failed_is_tried_again_and_given_back_waits_again():
    run, known = begin(task(), of_handles(2, {1: (0,)}, max_retries=1), slots=(6,))
    known.tell(done(1, 0))
    key = next(key for key, (_, elements) in known.leases.items() if 1 in elements)
    known.tell(known.report(key, failures=[(((1, 2),), error())]))
    key = next(key for key, (_, elements) in known.leases.items() if 1 in elements)
    known.tell(known.report(key, count=0, left=[(1, 2)]))  # it was asked back before it began
    assert leased(known) == [0, 1]
    end_all(run, known)
    assert run.status == "done"


def test_the_loss_of_a_value_makes_elements_wait_again():
    run, known = begin(task(), of_handles(1, {0: (0,)}), task(cost=task().cost), slots=(1, 1))
    known.tell(made(1, 0))
    known.tell(RankLost(1, "it died"))
    known.leases = {key: each for key, each in known.leases.items() if each[0] != 1}
    for _ in range(20):
        if run.status != "running":
            break
        for number in (0, 2):
            if run.scheduler.tasks.state[number] == State.DISPATCHED:
                known.tell(done(2, (number, run.scheduler.tasks.attempts[number])))
        end_all(run, known)
    assert run.status == "done"


def test_too_many_failures_drop_elements_that_wait():
    run, known = begin(task(), of_handles(3, {2: (0,)}, max_failures=0, max_retries=0), slots=(6,))
    key = next(key for key, (_, elements) in known.leases.items() if 0 in elements)
    known.tell(known.report(key, failures=[(((0, 1),), error())]))
    end_all(run, known)
    assert state_of(run, 1) == "FAILED"
    known.tell(done(1, 0))
    assert run.status == "failed"
    assert run.scheduler.arrays.of[1].skipped == 1


def test_an_array_with_too_many_failures_leaves_its_queue_while_elements_of_it_wait():
    run, known = begin(task(), of_handles(9, {8: (0,)}, max_failures=0, max_retries=0), slots=(2,))
    key = next(key for key, (_, elements) in known.leases.items() if 0 in elements)
    known.tell(known.report(key, failures=[(((0, 1),), error())]))
    known.tell(done(1, 0))
    assert not known.leases and run.scheduler.arrays.of[1].skipped == 8


def test_a_value_stays_while_an_element_that_takes_it_waits_for_another_element_too():
    both = task(array=ArraySpec(2, links=[Link(2, range(2))], handles={0: (0,), 1: (0,)}))
    run, known = begin(task(), task(0), array(2), both, slots=(6,))
    known.tell(made(1, 0))
    known.tell(done(1, 1))
    assert run.scheduler.tasks.consumers_left[0] == 2
    end_all(run, known)
    assert run.status == "done" and run.scheduler.tasks.attempts[0] == 1


def test_a_value_is_dropped_when_no_element_is_left_that_might_take_it():
    both = task(array=ArraySpec(1, links=[Link(2, range(1))], handles={0: (0,)}))
    run, known = begin(task(), task(0), array(1, max_retries=0), both, slots=(6,))
    known.tell(made(1, 0))
    known.tell(done(1, 1))
    key = next(iter(known.leases))
    known.tell(known.report(key, failures=[(((0, 1),), error())]))
    assert run.scheduler.tasks.consumers_left[0] == 0 and not run.scheduler.tasks.held[1]
    assert run.status == "failed"


def test_no_element_begins_of_an_array_that_an_earlier_launch_left_as_nobody_needs_it():
    left = {0: ValueLocation.NOWHERE, 1: ValueLocation.NOWHERE}
    run, known = begin(task(), of_handles(3, {1: (0,)}), task(1), restored={**left, 2: ValueLocation.HOME})
    assert not known.leases and run.status == "done"


def test_no_element_begins_of_such_an_array_when_the_elements_that_it_takes_are_computed():
    both = task(array=ArraySpec(1, links=[Link(1, range(1))], handles={0: (0,)}))
    left = {0: ValueLocation.NOWHERE, 2: ValueLocation.NOWHERE}
    run, known = begin(task(), array(1), both, task(2), restored={**left, 3: ValueLocation.HOME})
    end_all(run, known)
    assert run.status == "done" and known.begun == {0: 1}


@pytest.mark.parametrize("seed", range(25))
def test_random_functions_and_elements_end_as_each_one_says(seed):
    rng = random.Random(seed)
    sources, count = rng.randrange(1, 6), rng.randrange(1, 12)
    handles = {
        index: tuple(rng.sample(range(sources), rng.randrange(1, min(3, sources) + 1)))
        for index in range(count)
        if rng.random() < 0.6
    }
    bad = {number for number in range(sources) if rng.random() < 0.3}
    specs = [task(max_retries=0) for _ in range(sources)]
    run, known = begin(*specs, of_handles(count, handles, max_retries=0), slots=(rng.randrange(1, 4),))
    while run.status == "running":
        running = [
            number
            for number in range(sources)
            if run.scheduler.tasks.state[number] == State.DISPATCHED
            and run.scheduler.slots.of_task[number].tasks[0] == number
        ]
        moves = [*running, *known.leases]
        move = rng.choice(moves)
        if move in known.leases:
            known.tell(known.report(move))
        else:
            known.tell(raised(1, move) if move in bad else done(1, move))
    wanted = {index for index in range(count) if not bad & {*handles.get(index, ())}}
    assert set(known.begun) == wanted
    assert max(known.begun.values(), default=1) == 1
    assert run.scheduler.arrays.of[sources].done == len(wanted)
