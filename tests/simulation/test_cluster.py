"""The machines under a thousand seeds of random DAGs, costs and failures, each with its swarm of faults."""

from __future__ import annotations

from collections import Counter

import pytest

from handoff_mpi.allocation import Ledger, LoadBalanced
from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import OK
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import Closed, Dispatch, Finished, Scheduler, Submitted
from handoff_mpi.simulation import SimulatedCluster

#: What must befall some of any hundred runs.
FAULTS = {
    "bad host",
    "cut off",
    "damaged file",
    "unresponsive",
    "death",
    "let go",
    "lost value",
    "pressure",
    "refusal",
    "relaunch",
    "repeat",
    "resources",
    "slow rank 0",
    "slow value",
    "spill",
    "stopped",
}


def run(seed: int, **options) -> SimulatedCluster:
    cluster = SimulatedCluster(seed, **options)
    try:
        cluster.run()
    except Exception as error:
        replay = f"python -c 'from handoff_mpi.simulation import SimulatedCluster as C; C({seed}, **{options}).run()'"
        raise AssertionError(f"seed {seed} failed: {error!r}; replay it with: {replay}") from error
    return cluster


@pytest.mark.long
@pytest.mark.sample("0", "1", "2", "3")
@pytest.mark.parametrize("block", range(10))
def test_a_thousand_seeds(block):
    statuses, fault_counts, launches = Counter(), Counter(), Counter()
    for seed in range(100 * block, 100 * block + 100):
        cluster = run(seed, arrays=seed % 4 == 3)
        statuses[cluster.scheduler.status] += 1
        launches[cluster.launches] += 1
        fault_counts += cluster.fault_counts
    assert {"done", "failed", "stopped"} <= set(statuses), "the workloads no longer differ"
    assert {1, 2} <= set(launches), "nothing is launched again"
    missing = FAULTS - set(fault_counts)
    assert not missing, f"these no longer happen: {missing}"


@pytest.mark.long
@pytest.mark.parametrize(("ranks", "tasks"), [(2, 5), (3, 80), (12, 40)])
def test_other_sizes(ranks, tasks):
    for seed in range(30):
        run(seed, ranks=ranks, tasks=tasks)


@pytest.mark.long
def test_fine_grained_chains():
    """Short calls that take the values of the last few: what is sent ahead of its input, under all faults."""
    for seed in range(150):
        run(seed, is_fine=True)
    for seed in range(50):
        run(seed, is_fine=True, ranks=3, tasks=80)


@pytest.mark.long
def test_without_faults_no_report_is_stale():
    for seed in range(50):
        assert run(seed, faults=False).scheduler.stale == 0, seed
        assert run(seed, faults=False, is_fine=True).scheduler.stale == 0, seed


def test_visits_per_placement_do_not_grow_with_the_ranks():
    """A uniform batch on 100 and on 10,000 one-rank hosts: how often the strategy rates a group, per placement."""
    ratings = {}
    for hosts in (100, 10_000):
        capabilities = [Capability(rank, f"h{rank}", {"cpu": 2 * UNIT}) for rank in range(1, hosts + 1)]
        strategy = Counting()
        scheduler = Scheduler(Ledger(capabilities, dict.fromkeys(range(1, hosts + 1), 2)), strategy)
        commands = scheduler.handle([Submitted([TaskSpec((), {"cpu": UNIT})] * (3 * hosts)), Closed()], 0.0)
        placed, done = 0, 0
        now = 0.0
        while not scheduler.is_over:
            dispatches = [command for command in commands if isinstance(command, Dispatch)]
            placed += sum(len(command.tasks) for command in dispatches)
            now += 1.0
            events = [
                Finished(
                    command.rank,
                    [(task, attempt, OK, (0, None), 8, now, 0.5, False) for task, attempt in command.tasks],
                )
                for command in dispatches
            ]
            done += len(events)
            commands = scheduler.handle(events, now)
        assert placed == 3 * hosts
        ratings[hosts] = strategy.count / placed
    assert ratings[10_000] <= 1.2 * ratings[100] <= 6


class Counting(LoadBalanced):
    def __init__(self):
        self.count = 0

    def score(self, cost, group):
        self.count += 1
        return super().score(cost, group)
