"""Tests on which ranks the three strategies place the same tasks, and why."""

from __future__ import annotations

import random

import pytest

from handoff_mpi.allocation import ClusterView, CostOptimized, FirstAvailable, Ledger, LoadBalanced
from handoff_mpi.allocation.invariants import check_invariants
from handoff_mpi.dag import TaskSpec
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import Closed, Dispatch, Scheduler, Submitted


def hosts():
    """Rank 1 on a host with a GPU and 4 cores, rank 2 on one with 8 cores, rank 3 on one with 2."""
    return Ledger(
        [
            Capability(1, "gpu", {"cpu": 4 * UNIT, "memory": 8000 * UNIT}, (Device(0, "g"),)),
            Capability(2, "big", {"cpu": 8 * UNIT, "memory": 8000 * UNIT}),
            Capability(3, "small", {"cpu": 2 * UNIT, "memory": 8000 * UNIT}),
        ],
        {1: 4, 2: 8, 3: 2},
    )


def placements(strategy, specs):
    scheduler = Scheduler(hosts(), strategy)
    commands = scheduler.handle([Submitted(specs), Closed()], 0.0)
    return {task: c.rank for c in commands if isinstance(c, Dispatch) for task, _ in c.tasks}


CPU = TaskSpec((), {"cpu": UNIT})
GPU = TaskSpec((), {"gpu": UNIT})


def test_first_available_fills_the_first_rank_with_room():
    assert placements(FirstAvailable(), [CPU] * 6) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2}


def test_load_balanced_takes_the_least_largest_claimed_fraction():
    # Claimed fractions after each: 1/4, 0, 0 -> 1/4, 1/8, 0 -> 1/4, 1/8, 1/2 -> 1/4, 1/4, 1/2 -> rank 1 by order
    assert placements(LoadBalanced(), [CPU] * 5) == {0: 1, 1: 2, 2: 3, 3: 2, 4: 1}


def test_cost_optimized_strands_no_device_that_is_in_demand():
    placed = placements(CostOptimized(), [CPU, CPU, GPU, GPU])
    assert 1 not in (placed[0], placed[1]), "cores beside the wanted device are left for it"
    assert placed[2] == 1


def test_a_rank_that_is_offered_nothing_has_no_room_though_its_slots_are_idle():
    ledger = hosts()
    view = ClusterView(ledger, {}, lambda task: 1.0)
    cost = ledger.request_class(CPU.cost)
    assert view.fits(cost, 2)
    ledger.cordon(2)
    assert not view.fits(cost, 2)


def test_cost_optimized_uses_the_device_host_when_nobody_wants_devices():
    assert placements(CostOptimized(), [CPU])[0] == 1


def test_given_prices_replace_demand_and_supply():
    assert placements(CostOptimized({"memory": 0.0, "cpu": 0.0, "gpu": 100.0}), [CPU])[0] == 2


def varied_hosts():
    """Hosts of one rank and of many, with and without devices, with resources of a rank's own and of the job."""
    sizes = {"a": 1, "b": 5, "c": 3, "d": 1, "e": 4}
    hosts = [host for host, size in sizes.items() for _ in range(size)]
    capabilities = [
        Capability(
            rank,
            host,
            {"cpu": 4 * UNIT, "memory": 1000 * UNIT},
            tuple(Device(each, f"{host}{each}") for each in range(2 if host in "bd" else 0)),
            {"disk": 2 * UNIT} if host == "e" and rank % 2 else {},
        )
        for rank, host in enumerate(hosts, 1)
    ]
    slots = {each.rank: 1 + each.rank % 3 for each in capabilities}
    return Ledger(capabilities, slots, {"license": 3 * UNIT})


WISHES = [{}, {"avoid": 3}, {"avoid": 1}, {"avoid": 10}, {"host": "b"}, {"host": "b", "avoid": 4}, {"rank": 7}]
WISHES += [{"avoid_hosts": frozenset("b")}, {"avoid_hosts": frozenset("ae"), "avoid": 4}]
COSTS = [{"cpu": UNIT}, {"cpu": 3 * UNIT}, {"gpu": UNIT // 2}, {"gpu": 2 * UNIT}, {"disk": UNIT}, {}]
COSTS += [{"cpu": UNIT // 2, "license": UNIT}, {"cpu": UNIT, "memory": 400 * UNIT}]


class Claims:
    """Random claims, releases, losses and returns, updates."""

    def __init__(self, seed, ledger):
        self.rng = random.Random(seed)
        self.ledger = ledger
        self.claims = []

    def step(self, cost, best, spread):
        what = self.rng.random()
        rank = self.rng.choice([*self.ledger.rank_states])
        if what < 0.5 and best is not None:
            self.claims.append(self.ledger.claim(cost, best.pick(cost, spread)))
        elif what < 0.9 and self.claims:
            self.ledger.release(self.claims.pop(self.rng.randrange(len(self.claims))))
        elif what < 0.93:
            self.ledger.cordon(rank, self.rng.random() < 0.5)
        elif what < 0.96:
            self.lose_or_restore(rank)
        elif what < 0.97 and self.ledger.rank_states[rank].is_present:
            self.ledger.update(rank, {"cpu": self.rng.randrange(6) * UNIT})

    def lose_or_restore(self, rank):
        if not self.ledger.rank_states[rank].is_present:
            self.ledger.restore(rank)
            return
        for claim in [claim for claim in self.claims if claim.rank == rank]:
            self.claims.remove(claim)
            self.ledger.release(claim)
        self.ledger.remove(rank)


def least_loaded(cost, group):
    """The dumb twin of what the group keeps in order."""
    ranks = [cost.rank] if cost.rank is not None else [rank for rank in group.idle if rank != cost.avoid]
    return min((group.rank_states[rank].busy_fraction, rank) for rank in ranks)


@pytest.mark.parametrize("strategy", [FirstAvailable, LoadBalanced, CostOptimized])
def test_the_index_agrees_with_looking_at_every_group(strategy):
    """Compare the placement index with a naive model after any event and for every request class."""
    for seed in range(4):
        ledger, strategy_ = varied_hosts(), strategy()
        strategy_.prepare(ClusterView(ledger, {"cpu": 1.0, "gpu": 10.0, "memory": 0.001}))
        claims = Claims(seed, ledger)
        classes = [ledger.request_class(cost, **wish) for cost in COSTS for wish in WISHES]
        for _ in range(1500):
            cost = claims.rng.choice(classes)
            has_job_room = all(pool.free >= amount for pool, amount in cost.job)
            fitting = [group for group in ledger.groups if has_job_room and group.fits(cost)]
            best = ledger.best(cost)
            assert (best is None) == (not fitting)
            if best is not None:
                assert strategy_.score(cost, best) == min(strategy_.score(cost, group) for group in fitting)
                rank = best.least_loaded(cost)
                assert (best.rank_states[rank].busy_fraction, rank) == least_loaded(cost, best)
            claims.step(cost, best, strategy_.spread)
            check_invariants(ledger)


class Wild:
    def allocate(self, ready, view):
        yield ready[0][0], 99


class Broken:
    def allocate(self, ready, view):
        raise ValueError("oops")


@pytest.mark.parametrize(("strategy", "says"), [(Wild(), "no rank 99"), (Broken(), "Broken failed: ValueError: oops")])
def test_a_wrong_strategy_is_named(strategy, says):
    with pytest.raises(AllocationError, match=says):
        placements(strategy, [CPU])
