"""Arrays that take elements of windowed ones: dialogues, and random runs compared with what elements would become."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from handoff_mpi.arrays.links import UNKNOWN_COUNT, Link
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import ErrorReport
from handoff_mpi.scheduler import ElementsPulled, Restored, StopRequested, ValueLocation
from tests.scheduler.test_arrays import begin, end_all, error
from tests.scheduler.test_linked_arrays import leased
from tests.scheduler.test_windowed_arrays import windowed
from tests.scheduler.transcript import array, raised, task

EVERY = range(UNKNOWN_COUNT)
FAN_IN = 4


def following(*sources, inputs=(), block=1, max_failures=None, **options):
    links = tuple(Link(source, EVERY, block) for source in sources)
    return task(*inputs, array=ArraySpec(0, None, max_failures, links=links, window=100), **options)


def folding(source, **options):
    link = Link(source, EVERY, FAN_IN)
    return task(array=ArraySpec(0, links=(link,), window=100, fan_in=FAN_IN), **options)


def begun_of(run, known):
    """Array number to its elements that have begun, of the leases that ranks have now."""
    return {number: [*elements] for number, elements in leased(run, known).items()}


def states_of(run):
    return {number: (each.done, each.failed, each.skipped) for number, each in run.scheduler.arrays.of.items()}


def test_an_element_may_run_when_the_one_that_it_takes_has_come_and_is_done():
    run, known = begin(windowed(), following(0), slots=(4,))
    known.tell(ElementsPulled(0, 2))
    assert begun_of(run, known) == {0: [(0, 2)]}
    end_all(run, known)
    assert run.status == "running" and states_of(run) == {0: (2, 0, 0), 1: (2, 0, 0)}
    known.tell(ElementsPulled(0, 3, is_last=True))
    end_all(run, known)
    assert run.status == "done" and states_of(run) == {0: (3, 0, 0), 1: (3, 0, 0)}


def test_elements_that_come_as_the_iterable_raises_reach_what_takes_them_on_two_ways():
    run, known = begin(windowed(), following(0), following(1), following(0, 2), slots=(4,))
    known.tell(ElementsPulled(0, 2))
    end_all(run, known)
    known.tell(ElementsPulled(0, 5, is_last=True, error=ErrorReport("ValueError", "it raised")))
    end_all(run, known)
    assert run.status == "failed" and states_of(run) == dict.fromkeys(range(4), (5, 0, 0))


def test_blocks_are_whole_until_no_more_elements_come():
    run, known = begin(windowed(), following(0, block=3), slots=(4,))
    known.tell(ElementsPulled(0, 5))
    end_all(run, known)
    assert states_of(run)[1] == (1, 0, 0)
    known.tell(ElementsPulled(0, 8, is_last=True))
    end_all(run, known)
    assert run.status == "done" and states_of(run)[1] == (3, 0, 0)


@pytest.mark.parametrize("count", [1, 4, 5, 16, 17, 70])
def test_a_fold_has_its_levels_once_the_number_of_values_is_known(count):
    run, known = begin(windowed(), following(0, block=FAN_IN), folding(1), slots=(4,))
    known.tell(ElementsPulled(0, count - 1))
    end_all(run, known)
    assert run.scheduler.arrays.of[2].count == 0
    known.tell(ElementsPulled(0, count, is_last=True))
    end_all(run, known)
    blocks = -(-count // FAN_IN)
    assert run.status == "done"
    assert states_of(run) == {0: (count, 0, 0), 1: (blocks, 0, 0), 2: (len(Tree(blocks, FAN_IN)), 0, 0)}


def test_there_is_nothing_to_fold_where_nothing_has_come():
    run, known = begin(windowed(), following(0, block=FAN_IN), folding(1))
    known.tell(ElementsPulled(0, 0, is_last=True))
    assert run.status == "failed" and run.states == "DONE DONE FAILED"
    assert run.why(2) == ("nothing-to-fold", "the array whose values it folds has no elements")


@pytest.mark.parametrize("count", [0, 7])
def test_what_takes_elements_of_an_array_whose_iterables_fail_is_skipped_and_computes_what_has_come(count):
    run, known = begin(windowed(), following(0), following(1, block=FAN_IN), folding(2), task(3))
    known.tell(ElementsPulled(0, count, (), True, ErrorReport("OSError", "torn")))
    end_all(run, known)
    assert run.status == "failed" and run.states.startswith("FAILED SKIPPED SKIPPED SKIPPED SKIPPED")
    assert states_of(run)[1] == (count, 0, 0) and states_of(run)[2] == (count // FAN_IN, 0, 0)


def test_an_element_that_fails_takes_along_what_takes_it_alone():
    run, known = begin(windowed(max_retries=0), following(0), following(1, block=2), slots=(1,))
    known.tell(ElementsPulled(0, 1))
    known.tell(known.report(next(iter(known.leases)), failures=[(((0, 1),), error("TypeError"))]))
    known.tell(ElementsPulled(0, 6, is_last=True))
    end_all(run, known)
    assert states_of(run) == {0: (5, 1, 0), 1: (5, 0, 1), 2: (2, 0, 1)}
    assert run.states.startswith("FAILED SKIPPED SKIPPED")


def test_an_array_with_too_many_failures_keeps_its_source_from_nothing():
    run, known = begin(windowed(), following(0, max_failures=0, max_retries=0), following(1), slots=(1,))
    known.tell(ElementsPulled(0, 1))
    known.tell(known.report(next(iter(known.leases))))
    known.tell(known.report(next(iter(known.leases)), failures=[(((0, 1),), error("TypeError"))]))
    assert not run.scheduler.arrays.of[1].is_open and not run.scheduler.arrays.of[2].is_open
    known.tell(ElementsPulled(0, 9, is_last=True))
    end_all(run, known)
    assert run.states.startswith("DONE FAILED SKIPPED") and states_of(run)[0] == (9, 0, 0)


def test_an_array_that_is_skipped_waits_for_no_more_elements_nor_does_what_takes_its():
    run, known = begin(task(max_retries=0), windowed(), following(1, inputs=(0,)), following(2))
    known.tell(ElementsPulled(1, 5))
    known.tell(raised(1, 0))
    end_all(run, known)
    assert not run.scheduler.arrays.of[2].is_open and not run.scheduler.arrays.of[3].is_open
    assert run.states.startswith("FAILED READY SKIPPED SKIPPED")
    known.tell(ElementsPulled(1, 6, is_last=True))
    end_all(run, known)
    assert run.states.startswith("FAILED DONE SKIPPED SKIPPED")


def test_a_source_that_is_skipped_takes_along_what_follows_it():
    run, known = begin(task(max_retries=0), windowed(100, 0), following(1), following(2, block=FAN_IN), folding(3))
    known.tell(raised(1, 0))
    assert run.states == "FAILED SKIPPED SKIPPED SKIPPED SKIPPED"


def test_elements_that_an_earlier_launch_computed_do_not_run_again():
    run, known = begin(windowed(), following(0), following(1, block=2), slots=(1,))
    known.tell(Restored({2: [(0, 2)]}), Restored({1: [(0, 4)]}), ElementsPulled(0, 5, [(0, 4)]))
    end_all(run, known)
    known.tell(ElementsPulled(0, 6, is_last=True))
    end_all(run, known)
    assert run.status == "done" and states_of(run) == {0: (6, 0, 0), 1: (6, 0, 0), 2: (3, 0, 0)}
    assert known.begun == Counter({4: 2, 5: 2, 2: 1})


def test_elements_run_that_take_some_which_an_earlier_launch_computed():
    run, known = begin(windowed(), following(0), slots=(1,))
    known.tell(ElementsPulled(0, 5, [(0, 5)]))
    end_all(run, known)
    known.tell(ElementsPulled(0, 5, is_last=True))
    assert run.status == "done" and states_of(run)[1] == (5, 0, 0)


def test_a_run_that_is_stopped_waits_for_no_elements_that_follow():
    run, known = begin(windowed(), following(0), following(1, block=FAN_IN), folding(2))
    known.tell(ElementsPulled(0, 3))
    known.tell(StopRequested("enough"))
    end_all(run, known)
    assert run.status == "stopped"


@pytest.mark.parametrize("seed", range(20))
def test_each_element_becomes_what_it_should_however_elements_come(seed):
    rng = random.Random(seed)
    count = rng.randrange(1, 200)
    specs = [windowed(max_retries=0), following(0, max_retries=0), following(0, 1), following(1, block=FAN_IN)]
    run, known = begin(*specs, folding(3), slots=(2, 1))
    fails = {array: {each for each in range(count) if rng.random() < share} for array, share in ((0, 0.02), (1, 0.01))}
    come = 0
    while run.status == "running":
        if come <= count and rng.random() < 0.5:
            come = min(count, come + rng.randrange(40))
            known.tell(ElementsPulled(0, come, is_last=come == count))
            come += come == count
        elif known.leases:
            key = rng.choice([*known.leases])
            array = run.scheduler.arrays.leases[key[0]].array
            elements = [each for start, stop in known.leases[key][1] for each in range(start, stop)]
            failed = [each for each in elements if each in fails.get(array, ())]
            failures = [(tuple((each, each + 1) for each in failed), error("TypeError"))] if failed else []
            known.tell(known.report(key, failures=failures, busy_s=rng.random() / 100))
    bad = [fails[0], fails[0] | fails[1], fails[0] | fails[1], {each // FAN_IN for each in fails[0] | fails[1]}]
    found = states_of(run)
    assert [found[array][0] for array in range(4)] == [
        count - len(bad[0]),
        *(count - len(bad[1]),) * 2,
        *[-(-count // FAN_IN) - len(bad[3])],
    ]
    assert found[0][1] == len(bad[0]) and found[1] == (count - len(bad[1]), len(fails[1] - fails[0]), len(fails[0]))
    assert run.status == ("failed" if bad[1] else "done")


def test_a_block_that_was_skipped_stays_so_where_no_more_elements_come_to_fill_it():
    """It counts as one that has ended: the books of arrays agree."""
    run, known = begin(windowed(max_retries=0), following(0, block=FAN_IN), slots=(1,))
    known.tell(ElementsPulled(0, 1))
    known.tell(known.report(next(iter(known.leases)), failures=[(((0, 1),), error("TypeError"))]))
    known.tell(ElementsPulled(0, 3, (), True, ErrorReport("OSError", "torn")))
    assert states_of(run)[1] == (0, 0, 1) and run.scheduler.arrays.of[1].count == 1


def test_arrays_behind_a_fold_are_taken_over_late_together_with_those_whose_elements_they_take():
    """An element that is taken over does not begin because that which it takes is, too, and is named first."""
    linked = task(array=ArraySpec(3, links=(Link(3, range(3)),)))
    late = Restored({3: [(0, 3)], 4: [(0, 3)]}, {3: ValueLocation.HOME, 4: ValueLocation.HOME})
    for more, begun in ([], {3: [(0, 3)]}), ([late], {}):
        run, known = begin(windowed(), following(0, block=FAN_IN), folding(1), array(3, 2), linked, task(4), slots=(4,))
        early = Restored({2: [(0, 1)]}), Restored({1: [(0, 1)]}), ElementsPulled(0, 2, [(0, 2)], is_last=True)
        known.tell(*early, *more)
        assert begun_of(run, known) == begun
    assert run.states == "DONE DONE DONE DONE DONE DISPATCHED"
