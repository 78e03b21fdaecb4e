"""Younger functions use what a waiting one leaves, and never starve it: makespans in virtual time against the ideal."""

from __future__ import annotations

import random

import pytest

from handoff_mpi.allocation import CostOptimized, FirstAvailable, LoadBalanced
from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import RankLost, ResourcesUpdated
from tests.scheduler.makespan import Timeline, amounts, hosts

STRATEGIES = [FirstAvailable, LoadBalanced, CostOptimized]
CPU = amounts(cpu=1)
SMALL, LARGE = 1, 2  # numbers of codes


def tasks(count, seconds, cost=CPU, code=SMALL, **options):
    """Tasks that need the same."""
    return [(TaskSpec((), cost, code=code, **options), seconds) for _ in range(count)]


def run(ledger, *groups, strategy=FirstAvailable, **options):
    """Run groups of tasks; return for each group when its first task began and its last one ended."""
    timeline = Timeline(ledger, strategy() if isinstance(strategy, type) else strategy, checked=True, **options)
    timeline.submit(*[task for group in groups for task in group])
    timeline.run()
    spans, first = [], 0
    for group in groups:
        numbers = range(first, first + len(group))
        spans.append((min(timeline.began[each] for each in numbers), max(timeline.ended[each] for each in numbers)))
        first += len(group)
    return spans


# -- what is scarce holds up nobody else ----------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_functions_that_wait_for_what_one_rank_registered_leave_the_others_busy(strategy):
    """Four ranks, one of which has the unit: 3 functions of 15 s need it, and 400 short ones do not."""
    ledger = hosts(amounts(cpu=16), ranks_a_host=4, registered={1: amounts(tpu=1)})
    scarce, small = run(ledger, tasks(3, 15.0, amounts(tpu=1), LARGE), tasks(400, 0.1, {}), strategy=strategy)
    assert scarce[1] == pytest.approx(45.0)
    assert small[1] <= 1.1 * 400 * 0.1 / 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_functions_that_wait_for_devices_leave_the_cores_of_other_hosts_busy(strategy):
    """32 hosts of one core, two of them with a device: 22 calls of 50 s on devices, 1,980 of 1 s on cores."""
    ledger = hosts(*[CPU] * 32, gpus={0: 1, 1: 1})
    scarce, small = run(ledger, tasks(22, 50.0, amounts(cpu=1, gpu=1), LARGE), tasks(1980, 1.0), strategy=strategy)
    assert scarce[1] == pytest.approx(550.0)
    assert small[1] <= 1.1 * 66


def test_functions_that_wait_for_a_licence_of_the_job_leave_the_cores_busy():
    ledger = hosts(*[amounts(cpu=4)] * 4, ranks_a_host=4, job=amounts(license=2))
    scarce, small = run(ledger, tasks(6, 40.0, amounts(cpu=1, license=1), LARGE), tasks(1400, 1.0))
    assert scarce[1] == pytest.approx(120.0)
    assert small[1] <= 1.1 * 100


def test_functions_that_wait_for_the_large_host_leave_the_small_ones_busy():
    ledger = hosts(amounts(cpu=4, memory=1000), *[amounts(cpu=4, memory=100)] * 3, ranks_a_host=4)
    large = tasks(4, 50.0, amounts(cpu=1, memory=600), LARGE)
    scarce, small = run(ledger, large, tasks(1500, 1.0, amounts(cpu=1, memory=10)))
    assert scarce[1] == pytest.approx(200.0)
    assert small[1] <= 1.1 * 100


@pytest.mark.parametrize("pin", [1, "h0"])
def test_functions_bound_to_a_rank_or_host_leave_the_others_busy(pin):
    ledger = hosts(*[CPU] * 4)
    bound, small = run(ledger, tasks(4, 20.0, CPU, LARGE, pin=pin), tasks(300, 0.5))
    assert bound[1] == pytest.approx(80.0)
    assert small[1] <= 1.1 * 50


def test_what_a_large_function_will_give_back_is_not_kept_from_small_ones():
    """One host of 16 ranks: three calls take 60 of its 100 units of memory for 50 s, 1,600 take one of them for 1 s."""
    ledger = hosts(amounts(cpu=16, memory=100), ranks_a_host=16)
    large, small = run(
        ledger, tasks(3, 50.0, amounts(cpu=1, memory=60), LARGE), tasks(1600, 1.0, amounts(cpu=1, memory=1))
    )
    assert large[1] == pytest.approx(150.0)
    assert small[1] <= 1.05 * 107


def test_several_scarce_resources_at_once_leave_the_cores_busy():
    ledger = hosts(*[amounts(cpu=4, memory=100)] * 4, ranks_a_host=4, gpus={0: 1}, job=amounts(license=1))
    spans = run(
        ledger,
        tasks(3, 30.0, amounts(cpu=1, gpu=1), 2),
        tasks(3, 30.0, amounts(cpu=1, license=1), 3),
        tasks(3, 30.0, amounts(cpu=1, memory=90), 4, pin="h2"),
        tasks(1170, 1.0, amounts(cpu=1, memory=1)),
    )
    assert [end for _, end in spans[:3]] == [pytest.approx(90.0)] * 3
    assert spans[3][1] <= 1.1 * 90


# -- many priorities, many costs ------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "ranks"), [(192, 8), (2000, 128)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_priority_each_keeps_all_ranks_busy(count, ranks, strategy):
    ledger = hosts(amounts(cpu=ranks), ranks_a_host=ranks)
    one_each = [task for number in range(count) for task in tasks(1, 1.0, priority=number)]
    timeline = Timeline(ledger, strategy())
    timeline.submit(*one_each)
    assert timeline.run() == -(-count // ranks)
    assert sorted(timeline.began, key=timeline.began.get)[:ranks] == [*range(count - 1, count - 1 - ranks, -1)]


@pytest.mark.parametrize("ranks_a_host", [1, 8])
def test_a_cost_each_keeps_all_ranks_busy(ranks_a_host):
    ledger = hosts(*[amounts(cpu=8, memory=4000)] * (8 // ranks_a_host), ranks_a_host=ranks_a_host)
    one_each = [task for number in range(400) for task in tasks(1, 1.0, amounts(memory=1 + number))]
    assert run(ledger, one_each) == [(0.0, 50.0)]


@pytest.mark.parametrize("seed", range(3))
def test_a_cost_each_fills_what_is_scarce(seed):
    """Random amounts of memory, which are what there is too little of: packed as well as cores would be."""
    rng = random.Random(seed)
    sizes = [rng.randint(1, 500) for _ in range(600)]
    ledger = hosts(amounts(cpu=64, memory=2000), ranks_a_host=64)
    one_each = [task for size in sizes for task in tasks(1, 1.0, amounts(memory=size))]
    assert run(ledger, one_each)[0][1] <= 1.15 * sum(sizes) / 2000 + 1


def test_many_large_ones_do_not_hide_the_small_one_that_fits():
    """Hundreds of costs that differ and find no room come first; those that do find some are sizes like theirs."""
    ledger = hosts(amounts(cpu=4, memory=1000), ranks_a_host=4)
    hog = tasks(1, 100.0, amounts(memory=400), LARGE)
    large = [task for size in range(601, 901) for task in tasks(1, 1.0, amounts(memory=size))]
    assert run(ledger, hog, large, tasks(1, 1.0, amounts(memory=530)))[2] == (0.0, 1.0)


# -- nobody starves -------------------------------------------------------------------------------------


def waiting_s(ledger, large, small, before=(), **options):
    """How long a function waits that is older than a stream of small ones."""
    return run(ledger, list(before), large, small, **options)[1][0] if before else run(ledger, large, small)[0][0]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ranks", [4, 16])
def test_a_function_that_needs_a_whole_host_starts_among_small_ones(ranks, strategy):
    ledger = hosts(amounts(cpu=ranks), ranks_a_host=ranks)
    first = [task for number in range(ranks) for task in tasks(1, 1.0 + 0.01 * number)]
    large = tasks(1, 5.0, amounts(cpu=ranks), LARGE)
    assert waiting_s(ledger, large, tasks(60 * ranks, 1.0), first, strategy=strategy) <= 9.0


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0.001, 0.1])
def test_a_function_that_needs_a_whole_host_starts_among_batches(seconds):
    ledger = hosts(amounts(cpu=4), ranks_a_host=4)
    large = tasks(1, 5.0, amounts(cpu=4), LARGE)
    assert waiting_s(ledger, large, tasks(4000, seconds), tasks(4, seconds)) <= 60 * seconds


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_function_that_needs_half_of_a_host_takes_the_cores_that_fall_free_first(strategy):
    """A call that lasts long holds a core of each host: what is kept must not wait for it."""
    ledger = hosts(*[amounts(cpu=4)] * 3, ranks_a_host=4)
    first = [*tasks(3, 5000.0), *tasks(9, 1.0)]
    large = tasks(1, 5.0, amounts(cpu=3), LARGE)
    assert waiting_s(ledger, large, tasks(3000, 1.0), first, strategy=strategy) <= 15.0


@pytest.mark.long
def test_the_group_that_is_kept_is_not_the_one_with_the_longest_call():
    """One of eight hosts runs a call that lasts for ever, and looks like the others when something is reserved."""
    ledger = hosts(*[amounts(cpu=4)] * 8, ranks_a_host=4)
    first = [*tasks(1, 5000.0), *tasks(31, 1.0)]
    assert waiting_s(ledger, tasks(1, 5.0, amounts(cpu=4), LARGE), tasks(6000, 1.0), first) <= 30.0


@pytest.mark.long
def test_a_function_that_needs_two_licences_is_not_starved_by_those_that_need_one():
    ledger = hosts(*[amounts(cpu=4)] * 4, ranks_a_host=4, job=amounts(license=2))
    first = [*tasks(1, 1.0, amounts(license=1)), *tasks(1, 1.5, amounts(license=1))]
    pair = tasks(1, 5.0, amounts(license=2), LARGE)
    small = tasks(500, 1.0, amounts(license=1))
    timeline = Timeline(ledger, checked=True)
    timeline.submit(*first, *pair, *small, *tasks(2000, 1.0, CPU, 5))
    timeline.run()
    assert timeline.began[2] <= 15.0
    assert max(timeline.ended[each] for each in range(503, 2503)) <= 1.1 * 2000 / 14


def test_a_function_bound_to_a_host_gets_its_licence_from_those_that_take_it_elsewhere():
    ledger = hosts(*[amounts(cpu=4)] * 2, ranks_a_host=4, job=amounts(license=2))
    first = [*tasks(1, 1.0, amounts(license=1)), *tasks(1, 1.5, amounts(license=1)), *tasks(6, 1.0)]
    bound = tasks(1, 5.0, amounts(cpu=1, license=2), LARGE, pin="h1")
    small = [*tasks(300, 1.0, amounts(license=1)), *tasks(900, 1.0)]
    random.Random(1).shuffle(small)
    assert waiting_s(ledger, bound, small, first) <= 40.0


def test_the_device_that_is_kept_is_not_the_one_that_a_long_call_holds():
    ledger = hosts(amounts(cpu=8), ranks_a_host=8, gpus={0: 2})
    first = [
        *tasks(1, 5000.0, amounts(gpu=1), LARGE),
        *tasks(1, 1.0, amounts(gpu=0.5)),
        *tasks(1, 1.5, amounts(gpu=0.5)),
    ]
    assert waiting_s(ledger, tasks(1, 5.0, amounts(gpu=1), 3), tasks(300, 1.0, amounts(gpu=0.5)), first) <= 30.0


@pytest.mark.parametrize(("large", "small"), [(1.0, 0.5), (2.0, 1.0), (0.7, 0.4)])
def test_a_function_that_needs_devices_is_not_starved_by_those_that_need_less(large, small):
    ledger = hosts(amounts(cpu=8), ranks_a_host=8, gpus={0: 2})
    first = [task for number in range(4) for task in tasks(1, 1.0 + 0.2 * number, amounts(gpu=small))]
    wide = tasks(1, 5.0, amounts(gpu=large), LARGE)
    assert waiting_s(ledger, wide, tasks(400, 1.0, amounts(gpu=small)), first) <= 25.0


@pytest.mark.parametrize("pin", [1, "h0"])
def test_a_function_bound_to_a_rank_or_host_is_not_starved_there(pin):
    ledger = hosts(*[amounts(cpu=4, memory=100)] * 2, ranks_a_host=4)
    first = [task for number in range(8) for task in tasks(1, 1.0 + 0.1 * number, amounts(cpu=1, memory=20))]
    large = tasks(1, 5.0, amounts(cpu=1, memory=80), LARGE, pin=pin)
    assert waiting_s(ledger, large, tasks(600, 1.0, amounts(cpu=1, memory=20)), first) <= 20.0


def test_a_function_of_the_highest_priority_starts_as_soon_as_it_fits_beside_any_reservations():
    ledger = hosts(amounts(cpu=4), ranks_a_host=4)
    timeline = Timeline(ledger, checked=True)
    first = [task for number in range(4) for task in tasks(1, 1.0 + 0.01 * number)]
    timeline.submit(*first, *tasks(1, 5.0, amounts(cpu=4), LARGE), *tasks(400, 1.0))
    ledger = timeline.scheduler.ledger
    timeline.run(until=lambda: ledger.reservations.all and ledger.idle_slots == 2)
    begun = timeline.now
    timeline.submit(*tasks(1, 1.0, amounts(cpu=2), 3, priority=9), at=begun)
    timeline.run()
    assert timeline.began[405] == begun
    assert begun < timeline.began[4] <= begun + 1.1


def test_waiters_of_several_classes_all_start_while_small_ones_go_on():
    ledger = hosts(*[amounts(cpu=8, memory=100)] * 2, ranks_a_host=8)
    first = [task for number in range(16) for task in tasks(1, 1.0 + 0.01 * number, amounts(cpu=1, memory=10))]
    waiters = [
        *tasks(2, 3.0, amounts(cpu=8), 2),
        *tasks(2, 3.0, amounts(cpu=1, memory=90), 3),
        *tasks(2, 3.0, amounts(cpu=5, memory=50), 4),
    ]
    _, large, small = run(ledger, first, waiters, tasks(1500, 1.0, amounts(cpu=1, memory=10)))
    assert large[1] <= 60.0
    assert small[1] <= 1.25 * (1516 + 2 * 3 * 16 + 2 * 3 * 9 + 2 * 3 * 5) / 16


def test_starts_before_a_function_was_ready_are_no_skips():
    """Hundreds of small ones have started alone: a large one that comes then waits as long as if it had come first."""
    timeline = Timeline(hosts(amounts(cpu=4), ranks_a_host=4), checked=True)
    timeline.submit(*[task for number in range(400) for task in tasks(1, 1.0 + 0.001 * number)])
    timeline.run(until=lambda: timeline.now > 40.0)
    timeline.submit(*tasks(1, 5.0, amounts(cpu=4), LARGE, priority=0), *tasks(200, 1.0), at=timeline.now)
    timeline.run(until=lambda: timeline.scheduler.tasks.attempts[-201:].count(1) > 0)
    assert not timeline.scheduler.ledger.reservations.all


def test_at_most_one_call_at_a_time_still_goes_on_with_the_older_function():
    ledger = hosts(amounts(cpu=4), ranks_a_host=4)
    timeline = Timeline(ledger, checked=True, max_concurrency=1)
    timeline.submit(*tasks(1, 1.0), *tasks(1, 1.0, amounts(cpu=2), LARGE), *tasks(300, 1.0))
    timeline.run()
    assert timeline.began[1] <= 30.0


# -- what is kept is given up ---------------------------------------------------------------------------


def reserved(*groups, until=100.0, ledger=None):
    """A timeline that was stopped once something was reserved."""
    timeline = Timeline(ledger or hosts(*[amounts(cpu=4)] * 2, ranks_a_host=4), checked=True)
    timeline.submit(*[task for group in groups for task in group])
    timeline.run(until=lambda: bool(timeline.scheduler.ledger.reservations.all))
    assert timeline.now < until
    return timeline


FIRST = [task for number in range(8) for task in tasks(1, 1.0 + 0.01 * number)]


@pytest.mark.long
@pytest.mark.parametrize(
    "event", [lambda rank: RankLost(rank, "it died"), lambda rank: ResourcesUpdated(rank, amounts(cpu=1))]
)
def test_what_is_kept_is_given_up_when_its_group_changes_and_kept_elsewhere(event):
    timeline = reserved(FIRST, tasks(1, 5.0, amounts(cpu=4), LARGE), tasks(2000, 1.0))
    (reservation,) = timeline.scheduler.ledger.reservations.all
    rank = min(reservation.group.rank_states)
    timeline.tell(event(rank))
    assert reservation not in timeline.scheduler.ledger.reservations.all
    timeline.run()
    assert timeline.began[8] <= 40.0


def test_what_is_kept_is_given_up_when_its_function_fails():
    timeline = reserved(FIRST, tasks(1, 5.0, amounts(cpu=4), LARGE), tasks(200, 1.0))
    scheduler = timeline.scheduler
    (reservation,) = scheduler.ledger.reservations.all
    scheduler.ready.remove(8)
    scheduler.ready.put(8)  # the books stay right: it only waits at the end of its queue
    assert reservation.group.reservations == [reservation]
    timeline.run()
    assert scheduler.ledger.reservations.all == []


# -- strategies of a user's own -------------------------------------------------------------------------


class Listing:
    """A strategy written for a list: it counts, sorts, indexes and goes through it twice."""

    def allocate(self, ready, view):
        assert len(ready) == len([*ready]) == len(ready[:])
        assert bool(ready)
        assert [group[0] for group in reversed(ready)][-1] == ready[0][0]
        for group in sorted(ready, key=lambda group: -len(group)):
            for rank in view.ranks():
                while len(group) and view.fits(group.cost, rank):
                    yield group[0], rank


class Walking:
    """A strategy that walks through what is ready once."""

    def allocate(self, ready, view):
        for group in ready:
            for rank in view.ranks():
                while len(group) and view.fits(group.cost, rank):
                    yield group[0], rank


@pytest.mark.parametrize("strategy", [Listing, Walking])
def test_a_strategy_of_a_users_own_sees_all_groups_and_minds_what_is_kept(strategy):
    ledger = hosts(amounts(cpu=4), ranks_a_host=4)
    first = [task for number in range(4) for task in tasks(1, 1.0 + 0.01 * number)]
    spans = run(ledger, first, tasks(1, 5.0, amounts(cpu=4), LARGE), tasks(100, 1.0), strategy=strategy)
    assert spans[1][0] <= 10.0
    many = [task for number in range(60) for task in tasks(1, 1.0, priority=number)]
    assert run(hosts(amounts(cpu=4), ranks_a_host=4), many, strategy=strategy) == [(0.0, 15.0)]


def test_a_turn_among_ten_thousand_priorities_looks_at_few_queues():
    ledger = hosts(amounts(cpu=8), ranks_a_host=8)
    timeline = Timeline(ledger)
    timeline.submit(*[task for number in range(10_000) for task in tasks(1, 1.0, priority=number)])
    timeline.run(until=lambda: timeline.now > 5.0)
    counted = Counting(timeline.scheduler.ledger)
    timeline.run(until=lambda: timeline.now > 25.0)
    assert counted.count <= 4 * 20 * 8


class Counting:
    """Counts how often it is asked whether anything fits a class."""

    def __init__(self, ledger):
        self.count = 0
        self._best = ledger.best
        ledger.best = self

    def __call__(self, cost):
        self.count += 1
        return self._best(cost)


def test_the_unit_is_what_amounts_are_counted_in():
    assert amounts(cpu=1) == {"cpu": UNIT}
