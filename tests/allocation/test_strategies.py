"""Where the three strategies place the same tasks, and why."""

from __future__ import annotations

import random

import pytest

from handoff_mpi.allocation import ClusterView, CostOptimized, FirstAvailable, Ledger, LoadBalanced
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
    cost = ledger.cost_class(CPU.cost)
    assert view.fits(cost, 2)
    ledger.withhold(2)
    assert not view.fits(cost, 2)


def test_cost_optimized_uses_the_device_host_when_nobody_wants_devices():
    assert placements(CostOptimized(), [CPU])[0] == 1


def test_given_prices_replace_demand_and_supply():
    assert placements(CostOptimized({"memory": 0.0, "cpu": 0.0, "gpu": 100.0}), [CPU])[0] == 2


@pytest.mark.parametrize("strategy", [FirstAvailable, LoadBalanced])
def test_the_index_agrees_with_looking_at_every_bay(strategy):
    """The incrementally kept order against its dumb twin, through random claims and releases."""
    dice = random.Random(3)
    ledger = hosts()
    rate = strategy().rate
    ledger.order_by(rate)
    costs = [ledger.cost_class({"cpu": amount * UNIT // 2}) for amount in (1, 2, 5)]
    claims = []
    for _ in range(2000):
        cost = dice.choice(costs)
        fitting = [bay for bay in ledger.bays if ledger.fits(cost, bay)]
        best = ledger.best(cost)
        assert (best is None) == (not fitting)
        if best is not None:
            assert rate(cost, best) == min(rate(cost, bay) for bay in fitting)
        if best is not None and dice.random() < 0.55:
            claims.append(ledger.claim(cost, ledger.pick(cost, best)))
        elif claims:
            ledger.release(claims.pop(dice.randrange(len(claims))))
        ledger.check()


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
