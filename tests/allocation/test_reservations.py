"""A reservation keeps of each pool the waiter's amount less the amounts that its blockers will give back."""

from __future__ import annotations

import random

import pytest

from handoff_mpi.allocation import Ledger
from handoff_mpi.allocation.invariants import check_invariants
from handoff_mpi.allocation.reservations import MAX_RESERVATIONS
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT


def amounts(**units):
    return {name: round(amount * UNIT) for name, amount in units.items()}


def ledger_of(*offers, ranks_a_host=1, gpus=0, job=None, slots=1):
    devices = [tuple(Device(each, f"{host}-{each}") for each in range(gpus)) for host in range(len(offers))]
    hosts = [host for host in range(len(offers)) for _ in range(ranks_a_host)]
    ranks = [Capability(rank, f"h{host}", dict(offers[host]), devices[host]) for rank, host in enumerate(hosts, 1)]
    return Ledger(ranks, {each.rank: slots for each in ranks}, job)


class Desk:
    """A ledger, classes by what they need, and claims in the order in which they were made."""

    def __init__(self, ledger, waiter):
        self.ledger = ledger
        self.waiter = ledger.request_class(amounts(**waiter))

    def cost(self, **units):
        return self.ledger.request_class(amounts(**units))

    def claim(self, rank, **units):
        return self.ledger.claim(self.cost(**units), rank)

    def reserve(self, *eaten, order=(0, 0), remaining=lambda claim: 1.0):
        made = self.ledger.reservations.make(self.waiter, order, set(eaten), remaining)
        check_invariants(self.ledger)
        return made

    def fits(self, **units):
        return self.ledger.best(self.cost(**units)) is not None


def test_a_core_that_falls_free_is_kept_for_a_waiter_that_needs_them_all():
    desk = Desk(ledger_of(amounts(cpu=2), ranks_a_host=2), {"cpu": 2})
    claims = [desk.claim(rank, cpu=1) for rank in (1, 2)]
    assert desk.reserve("cpu") is not None
    desk.ledger.release(claims[0])
    assert not desk.fits(cpu=1)
    with pytest.raises(AllocationError, match="no room"):
        desk.claim(1, cpu=1)
    desk.ledger.release(claims[1])
    assert desk.fits(cpu=2)
    check_invariants(desk.ledger)


def test_what_a_blocking_claim_will_give_back_is_not_kept_before_it_does():
    desk = Desk(ledger_of(amounts(cpu=4, memory=100), ranks_a_host=4), {"cpu": 1, "memory": 60})
    large = desk.claim(1, cpu=1, memory=60)
    small = desk.claim(2, cpu=1, memory=10)
    assert desk.reserve("memory") is not None
    assert desk.fits(cpu=1, memory=30)
    assert not desk.fits(cpu=1, memory=31)  # there is none
    desk.ledger.release(large)
    assert desk.fits(cpu=1, memory=30)
    assert not desk.fits(cpu=1, memory=31)  # there is, but it is kept
    desk.ledger.release(small)
    assert desk.fits(cpu=1, memory=40)


def test_nothing_is_kept_while_something_is_missing_that_nobody_younger_takes():
    desk = Desk(ledger_of(amounts(cpu=2), ranks_a_host=2, gpus=1), {"cpu": 2, "gpu": 1})
    desk.claim(1, cpu=1, gpu=1)
    assert desk.reserve("cpu") is None
    assert desk.reserve("cpu", "gpu") is not None


def test_the_group_that_will_have_room_first_is_kept_and_no_other():
    desk = Desk(ledger_of(*[amounts(cpu=2)] * 3, ranks_a_host=2), {"cpu": 2})
    claims = [desk.claim(rank, cpu=1) for rank in range(1, 7)]
    until = {1: 9.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 1.0, 6: 3.0}
    made = desk.reserve("cpu", remaining=lambda claim: until[claim.rank])
    assert sorted(made.group.rank_states) == [3, 4]
    desk.ledger.release(claims[4])
    assert desk.fits(cpu=1)


def test_of_a_pool_of_the_job_only_the_amount_is_kept():
    desk = Desk(ledger_of(*[amounts(cpu=2)] * 2, job=amounts(license=2)), {"license": 2})
    claim = desk.claim(1, license=1)
    assert desk.reserve("license").group is None
    desk.ledger.release(claim)
    assert not desk.fits(license=1)
    assert desk.fits(cpu=1)
    assert desk.fits(license=2)


@pytest.mark.parametrize(("wide", "narrow"), [(1.0, 0.5), (2.0, 1.0), (0.7, 0.4)])
def test_a_device_is_kept_free_for_a_waiter_that_needs_more_of_it(wide, narrow):
    desk = Desk(ledger_of(amounts(cpu=8), ranks_a_host=8, gpus=2), {"gpu": wide})
    claims = []
    while desk.fits(gpu=narrow):
        claims.append(desk.claim(len(claims) + 1, gpu=narrow))
    assert desk.reserve("gpu") is not None
    desk.ledger.release(claims[0])
    while not desk.fits(gpu=wide):
        desk.ledger.release(claims.pop())
        check_invariants(desk.ledger)
        while desk.fits(gpu=narrow):
            desk.claim(8, gpu=narrow)
        assert claims, "younger ones took what was kept"


def test_a_slot_may_not_go_on_under_its_claim_if_that_is_what_is_kept():
    desk = Desk(ledger_of(amounts(cpu=4), ranks_a_host=4), {"cpu": 2})
    claims = [desk.claim(rank, cpu=1) for rank in (1, 2, 3, 4)]
    desk.reserve("cpu", order=(0, 5))
    assert not desk.ledger.reservations.may_stay(claims[0], (0, 6))
    assert desk.ledger.reservations.may_stay(claims[0], (0, 4))  # it is older
    desk.ledger.release(claims[3])
    desk.ledger.release(claims[2])
    assert desk.ledger.reservations.may_stay(claims[0], (0, 6))


def test_at_most_so_many_are_kept_and_the_oldest_are():
    ledger = ledger_of(*[amounts(cpu=2)] * (MAX_RESERVATIONS + 1), ranks_a_host=2)
    for rank in range(1, 2 * MAX_RESERVATIONS + 3):
        ledger.claim(ledger.request_class(amounts(cpu=1)), rank)
    made = []
    for age in range(MAX_RESERVATIONS + 1):
        cost = ledger.request_class(amounts(cpu=2), host=f"h{age}")
        made.append(ledger.reservations.make(cost, (0, 100 - age), {"cpu"}, lambda claim: 1.0))
    assert None not in made
    assert ledger.reservations.all == made[1:]
    assert ledger.reservations.make(ledger.request_class(amounts(cpu=2)), (0, 200), {"cpu"}, lambda claim: 1.0) is None


class Kept:
    """The dumb twin: what others may take of a pool, from the claims alone."""

    def __init__(self, ledger):
        self.ledger = ledger

    def leaves(self, group, cost, name):
        pool, amount = group.pools[name], dict(cost.pool_amounts).get(name, 0)
        claims = [
            claim for rank_state in self.ledger.rank_states.values() for claim in rank_state.claims if claim is not None
        ]
        kept = 0
        for reservation in group.reservations:
            needs = dict(reservation.cost.pool_amounts)
            if reservation.cost is not cost and name in needs and reservation.group.pools.get(name) is pool:
                kept += max(
                    0,
                    needs[name]
                    - sum(self.held(claim, pool) for claim in claims if self.is_awaited(claim, reservation)),
                )
        return not amount or pool.free - kept >= amount

    def held(self, claim, pool):
        return sum(amount for each, amount in claim.draws if each is pool)

    def is_awaited(self, claim, reservation):
        """Whether the waiter does not fit beside the claim on an otherwise idle group."""
        group = reservation.group
        slots = sum(rank_state.slots for rank_state in group.rank_states.values())
        return (claim.group is group and slots == 1) or any(
            group.pools[name].capacity - self.held(claim, group.pools[name]) < amount
            for name, amount in reservation.cost.pool_amounts
        )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_agrees_with_its_dumb_twin(seed):
    rng = random.Random(seed)
    ledger = ledger_of(*[amounts(cpu=4, memory=100)] * 3, ranks_a_host=3, slots=2)
    ledger.update(2, amounts(cpu=2))
    sizes = [amounts(cpu=cpu, memory=memory) for cpu in (0, 1, 2, 4) for memory in (0, 10, 40, 70)]
    classes = [ledger.request_class(size) for size in sizes]
    claims, twin = [], Kept(ledger)
    for step in range(200):
        cost, what = rng.choice(classes), rng.random()
        best = ledger.best(cost)
        if what < 0.55 and best is not None:
            claims.append(ledger.claim(cost, best.pick(cost)))
        elif what < 0.9 and claims:
            ledger.release(claims.pop(rng.randrange(len(claims))))
        elif what < 0.97 and best is None:
            ledger.reservations.make(cost, (0, step), {"cpu", "memory"}, lambda claim: float(claim.rank))
        elif ledger.reservations.all:
            ledger.reservations.drop(rng.choice(ledger.reservations.all))
        check_invariants(ledger)
        for group in ledger.groups:
            if group.rank_states and group.idle and group.count_idle() > len(group.reservations):
                for each in classes:
                    if all(group.pools[name].free >= amount for name, amount in each.pool_amounts):
                        assert group.fits(each) == all(twin.leaves(group, each, name) for name in ("cpu", "memory"))
