"""Leases that follow others to their slots, as dialogues: which do, and what becomes of them where one breaks off."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import Link
from handoff_mpi.membership import RankLost, RankSuspected
from handoff_mpi.messages import OK, LeaseReport
from handoff_mpi.scheduler import Closed, ElementsEnded, Finished, MemoryTold, Retracted, State, Submitted, Unfetched
from tests.scheduler.test_arrays import Ranks, begin, error
from tests.scheduler.test_linked_arrays import fold, linked
from tests.scheduler.transcript import Dialogue, cpus, ranks, task

COUNT = 2000
SHORT_S = 1e-4


def known_to_take(seconds, spec):
    """The array, of which it is known how long elements take."""
    return replace(spec, array=replace(spec.array, element_s=seconds))


def first(count=COUNT, **options):
    return known_to_take(SHORT_S, linked(count, **options))


def second(count=COUNT, source=0, indices=None, **options):
    return known_to_take(SHORT_S, linked(count, Link(source, indices or range(count)), **options))


def chains(known):
    """The leases at ranks, those that follow others each behind its own: (array, first element, elements) of each."""
    of, leases = {}, known.scheduler.arrays.leases
    for number, _ in known.leases:
        of[number] = of.get(leases[number].follows, [])
        of[number].append((leases[number].array, leases[number].first, len(leases[number].intervals)))
    return [*{id(chain): chain for chain in of.values()}.values()]


def lengths(known):
    return [[array for array, _, _ in chain] for chain in chains(known)]


def finish(known, key, **options):
    """A lease ends, and those that wait for it go back if not all of its elements have values."""
    _, elements = known.leases[key]
    event = known.report(key, **options)
    ended = {index for start, stop in event.entries[0][3].ended for index in range(start, stop)}
    assert ended <= {index for start, stop in elements for index in range(start, stop)} | ended
    known.tell(event)
    known.return_followers(key, ended)


def end_in_order(run, known):
    while known.leases:
        finish(known, known.first_of(next(iter(known.leases))), busy_s=0.01)
    assert run.scheduler.is_over


# -- which leases follow others -----------------------------------------------------------------------------


def test_a_lease_is_sent_with_that_of_the_elements_that_take_its_values():
    run, known = begin(first(), second(), slots=(1,))
    assert lengths(known) == [[0, 1], [0, 1]], "one that runs, and one behind it"
    ((_, start, count), (_, its_start, its_count)), _ = chains(known)
    assert (start, count) == (its_start, its_count) == (0, 400)
    end_in_order(run, known)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(COUNT), 2))


def test_chains_have_as_many_leases_as_arrays_take_elements_of_one_another():
    run, known = begin(first(), second(), second(source=1), fold(2, COUNT, 8), slots=(1,))
    assert lengths(known)[0] == [0, 1, 2], "nobody knows how long it takes to fold"
    end_in_order(run, known)
    assert run.status == "done"


def test_blocks_that_are_folded_follow_whole():
    run, known = begin(first(), known_to_take(SHORT_S, fold(0, COUNT, 64)), slots=(1,))
    (leader, follower), *_ = chains(known)
    blocks = leader[2] // 64
    assert leader == (0, 0, 64 * blocks) and follower == (1, 0, blocks), "the lease ends where a block does"
    end_in_order(run, known)
    assert run.status == "done"
    assert known.begun == Counter([*range(COUNT), *range(len(fold(0, COUNT, 64).array.tree))])


def test_leases_of_a_chain_are_as_long_as_without_it():
    counts = []
    for specs in ([first(10**6)], [first(10**6), second(10**6)]):
        _, known = begin(*specs, slots=(1,))
        counts.append(chains(known)[0][0][2])
    assert counts == [500, 500], "the longest lease lasts 50 ms"


def in_chunks(count, spec):
    """The array, of which at most so many elements are leased at once."""
    return replace(spec, array=replace(spec.array, chunk=count))


def test_the_first_lease_of_a_chain_has_no_more_elements_than_its_array_allows():
    run, known = begin(in_chunks(7, first()), second(), slots=(1,))
    assert chains(known)[0] == [(0, 0, 7), (1, 0, 7)]
    end_in_order(run, known)


def test_long_chains_keep_a_slot_no_longer_than_three_leases():
    steps = [second(10**6, source=number) for number in range(5)]
    _, known = begin(first(10**6), *steps, slots=(1,))
    assert lengths(known)[0] == [0, 1, 2, 3, 4, 5] and chains(known)[0][0][2] == 3 * 500 // 6


def test_a_slice_is_followed_where_it_takes_all_elements_of_a_lease():
    run, known = begin(first(), second(COUNT - 10, indices=range(10, COUNT)), slots=(1,))
    (leader, follower), *_ = chains(known)
    assert leader == (0, 0, 400) and follower == (1, 0, 390)
    end_in_order(run, known)
    assert run.status == "done"


NEITHER = {
    "backwards": lambda: [first(), second(indices=range(COUNT)[::-1])],
    "every other one": lambda: [first(), second(COUNT // 2, indices=range(0, COUNT, 2))],
    "other resources": lambda: [first(), second(cost=cpus(2))],
    "another priority": lambda: [first(), second(priority=1)],
    "chunks": lambda: [first(), in_chunks(7, second())],
    "long elements": lambda: [first(), known_to_take(0.01, second())],
    "an unknown time": lambda: [first(), known_to_take(None, second())],
    "inputs": lambda: [first(), task(priority=-1), second(inputs=(1,))],
    "other arrays": lambda: [first(), first(), known_to_take(SHORT_S, linked(COUNT, *links(0, 1)))],
}


def links(*sources):
    return [Link(each, range(COUNT)) for each in sources]


@pytest.mark.parametrize("why", NEITHER)
def test_leases_do_not_follow_others(why):
    _, known = begin(*NEITHER[why](), slots=(2,))
    assert all(len(chain) == 1 for chain in chains(known)) and known.leases


def test_leases_follow_no_others_where_each_call_is_counted():
    _, known = begin(first(), second(), slots=(1,), window=1)
    assert lengths(known) == [[0]]


def test_a_rank_that_is_short_of_memory_gets_one_lease_where_no_other_is_left():
    _, known = begin(first(), second(), slots=(1,))
    known.tell(MemoryTold(1, True, "so much is in use"))
    end = next(iter(known.leases))
    waiting = [key for key in known.leases if key != end]
    for key in waiting:
        known.leases.pop(key)
    known.tell(Retracted(1, waiting))
    known.tell(known.report(end, busy_s=0.01))
    assert len(known.leases) == 1


def test_suspects_are_followed_by_nothing():
    run = Dialogue(ranks(1))
    known = Ranks(run)
    known.tell(Submitted([first(), second()], suspect_elements={0: [[(0, 50)]], 1: [[(100, 150)]]}), Closed())
    assert lengths(known)[0] == [0] and run.scheduler.is_isolated(next(iter(known.leases))[0])
    end_in_order(run, known)


def test_suspects_that_wait_for_elements_run_in_a_child_once_these_are_done():
    run = Dialogue(ranks(1))
    known = Ranks(run)
    known.tell(Submitted([first(), second(), second()], suspect_elements={1: [[(5, 8)], [(1500, 1520)]]}), Closed())
    isolated = []
    while known.leases:
        key = known.first_of(next(iter(known.leases)))
        if run.scheduler.is_isolated(key[0]):
            isolated.append((run.scheduler.arrays.leases[key[0]].array, known.leases[key][1].intervals()))
        finish(known, key, busy_s=0.01)
    assert isolated == [(1, [(5, 8)]), (1, [(1500, 1520)])] and run.status == "done"


# -- what becomes of them -------------------------------------------------------------------------------------


def leader_and_follower(known):
    leader = next(iter(known.leases))
    return leader, *known.followers(leader)


@pytest.mark.parametrize("count", [50, COUNT])  # in one lease, so that the array has failed before others come back
def test_elements_wait_again_where_one_that_a_lease_takes_has_failed(count):
    run, known = begin(first(count, max_retries=0), second(count), slots=(1,))
    leader, follower = leader_and_follower(known)
    finish(known, leader, failures=[(((3, 4),), error())], busy_s=0.01)
    assert follower not in known.leases
    end_in_order(run, known)
    array = run.scheduler.arrays.of[1]
    assert (array.done, array.failed, array.skipped, array.bereft) == (count - 1, 0, 1, 1)
    assert run.scheduler.tasks.state[1] == State.SKIPPED


def test_elements_wait_again_where_those_that_a_lease_takes_were_recalled():
    run, known = begin(first(), second(), slots=(1,))
    leader, _ = leader_and_follower(known)
    finish(known, leader, left=[(40, 400)], busy_s=0.01)
    end_in_order(run, known)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(COUNT), 2))


def incidents(known, array):
    return {each.incidents for each in known.scheduler.arrays.leases.values() if each.array == array and each.intervals}


def test_a_lease_that_had_not_begun_when_its_rank_was_lost_is_no_incident():
    run, known = begin(first(), second(), slots=(1, 1))
    leader, *_ = known.leases
    rank, _ = known.leases[leader]
    for key in [key for key, (at, _) in known.leases.items() if at == rank]:
        del known.leases[key]
    known.tell(RankLost(rank, "killed", False))
    assert incidents(known, 1) == {0} and incidents(known, 0) == {0, 1}
    end_in_order(run, known)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(COUNT), 2))


def test_elements_that_may_have_ended_their_rank_run_in_a_child_also_where_they_wait_for_others_again():
    run, known = begin(first(), second(), slots=(1, 1))
    leader, follower = leader_and_follower(known)
    rank, _ = known.leases[leader]
    _, elements = known.leases[follower]
    for key in [key for key, (at, _) in known.leases.items() if at == rank]:
        del known.leases[key]
    known.tell(RankLost(rank, "killed", False))
    isolated = IntervalSet()
    while known.leases:
        key = known.first_of(next(iter(known.leases)))
        if run.scheduler.arrays.leases[key[0]].array == 1 and run.scheduler.is_isolated(key[0]):
            isolated.update(known.leases[key][1])
        finish(known, key, busy_s=0.01)
    assert [*elements] == isolated.within(*next(iter(elements))) and run.status == "done"


def test_elements_whose_values_were_reported_do_not_wait_for_the_rest_of_the_lease_that_they_follow():
    run, known = begin(first(), second(), slots=(1, 1))
    while others := [key for key, (rank, _) in known.leases.items() if rank == 2]:
        finish(known, known.first_of(others[0]), busy_s=0.01)
    leader, *_ = [key for key in known.leases if run.scheduler.slots.of_task[key[0]].tasks[0] == key[0]]
    follower, *_ = known.followers(leader)
    low, high = next(iter(known.leases[leader][1]))
    known.tell(ElementsEnded(1, *leader, LeaseReport(((low, high - 1),), None, (), (), 0.01)))
    back = [key for key in known.asked if key in known.chains]
    assert back == [follower]
    del known.leases[follower]
    known.tell(Retracted(1, [follower]))
    leases = [run.scheduler.arrays.leases[number] for (number, _), (rank, _) in known.leases.items() if rank == 2]
    assert {(each.array, each.first) for each in leases} >= {(1, low)}


def test_a_lease_that_ran_when_its_rank_was_lost_runs_again_with_the_values_that_rank_0_has():
    run, known = begin(first(), second(), slots=(1, 1))
    leader, follower = leader_and_follower(known)
    rank, elements = known.leases[follower]
    finish(known, leader, busy_s=0.01)
    for key in [key for key, (at, _) in known.leases.items() if at == rank]:
        del known.leases[key]
    known.tell(RankLost(rank, "killed", False))
    again = [each for each in run.scheduler.arrays.leases.values() if each.intervals == elements]
    assert [(each.array, each.incidents, each.follows) for each in again] == [(1, 1, -1)]
    end_in_order(run, known)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(COUNT), 2))


def test_what_waits_at_a_suspect_waits_again():
    run, known = begin(first(), second(), slots=(1, 1))
    leader, *_ = known.leases
    rank, _ = known.leases[leader]
    known.tell(RankSuspected(rank, "silent"))
    for key in [key for key, (at, _) in known.leases.items() if at == rank and key != leader]:
        del known.leases[key]
    end_in_order(run, known)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(COUNT), 2))


def test_a_lease_without_an_input_ends_where_its_elements_wait_again():
    run, known = begin(task(priority=1), first(), second(source=1, inputs=(0,)), slots=(1,))
    known.tell(Finished(1, [(0, 1, OK, None, 10**6, 0.0, 0.1, False)]))
    _, follower = leader_and_follower(known)
    del known.leases[follower]
    known.tell(Unfetched(1, *follower, [(0, [1])]))
    assert follower[0] not in run.scheduler.arrays.leases or not run.scheduler.arrays.has_work(follower[0])
    while not run.scheduler.is_over:
        if run.scheduler.tasks.state[0] == State.DISPATCHED:
            attempt = run.scheduler.tasks.attempts[0]
            known.tell(Finished(1, [(0, attempt, OK, None, 10**6, 0.0, 0.1, False)]))
        else:
            finish(known, known.first_of(next(iter(known.leases))), busy_s=0.01)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(COUNT), 2))


def test_a_lease_that_is_asked_for_brings_those_back_that_follow_it():
    run, known = begin(first(), second(), slots=(1, 1))
    while others := [key for key, (rank, _) in known.leases.items() if rank == 2]:
        finish(known, known.first_of(others[0]), busy_s=0.01)
    (running, behind), (waiting, follower) = [
        (key, *known.followers(key)) for key in known.leases if key not in known.chains
    ]
    assert sorted(known.asked) == sorted([running, behind, waiting]), "what follows the last one comes back with it"
    for key in (behind, waiting, follower):
        del known.leases[key]
    known.tell(Retracted(1, [behind, waiting, follower]))
    assert 2 in {rank for rank, _ in known.leases.values()}
    end_in_order(run, known)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(COUNT), 2))


def test_an_array_that_has_too_many_failures_skips_what_was_to_follow():
    run, known = begin(first(), second(max_retries=0, max_failures=0), slots=(1,))
    leader, follower = leader_and_follower(known)
    finish(known, leader, busy_s=0.01)
    rest = [key for key in known.leases if key in known.chains and key != follower]
    rank, _ = known.leases.pop(follower)
    report = LeaseReport((), None, ((((0, 1),), error()),), ((1, 400),), 0.01)
    known.tell(Finished(rank, [(*follower, OK, report, 8, 0.0, 0.01, False)]))
    for key in rest:
        del known.leases[key]
    known.tell(Retracted(rank, rest))
    end_in_order(run, known)
    array = run.scheduler.arrays.of[1]
    assert (array.done, array.failed, array.skipped) == (0, 1, COUNT - 1)
