"""Values that many ranks want at once: they spread as a tree, whose faults lose no value and hang no rank."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import REDIRECT, VALUE
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.simulation import SimulatedCluster
from handoff_mpi.simulation.network import Network
from handoff_mpi.simulation.rank0_driver import Rank0Driver
from handoff_mpi.simulation.workload import LARGE_NBYTES, Workload
from handoff_mpi.worker import fetching
from handoff_mpi.worker.broadcast_tree import FAN_OUT


def add(load: Workload, nbytes: int, *inputs: int, **wishes) -> int:
    """Add a task of a tenth of a second; return its number."""
    load.specs.append(TaskSpec(inputs, {"cpu": UNIT}, keep=nbytes < LARGE_NBYTES, **wishes))
    load.duration_s.append(0.1)
    load.nbytes.append((nbytes,))
    return len(load.specs) - 1


def one_for_all(ranks: int) -> Workload:
    """Rank 1 makes a value, all others take it at the same time."""
    load = Workload()
    made = add(load, LARGE_NBYTES, pin=1)
    for rank in range(2, ranks):
        add(load, 8, made, pin=rank)
    return load


def in_waves(rng: random.Random) -> Workload:
    """A few values that many tasks take, again and again."""
    load = Workload()
    made = [add(load, LARGE_NBYTES) for _ in range(3)]
    for wave in range(3):
        for _ in range(20):
            add(load, 8, *sorted(rng.sample(made, rng.choice((1, 1, 2)))))
        made[wave] = add(load, LARGE_NBYTES, made[wave])
    for _ in range(5):
        add(load, 8, *made)
    return load


def depths(sent: list[tuple[int, int]], root: int) -> dict[int, int]:
    """Return through how many hands the value of ``root`` came to each rank."""
    depth = {root: 0}
    for source, dest in sent:
        depth[dest] = depth[source] + 1
    return depth


@pytest.mark.long
@pytest.mark.parametrize(("ranks", "deepest"), [(10, 2), (1000, 7)])
def test_a_value_that_all_ranks_want_spreads_as_a_tree(monkeypatch, ranks, deepest):
    sent = []
    send, submit = Network.send, Rank0Driver.submit

    def watch(network, source, dest, message):
        if message[0] == VALUE:
            sent.append((source, dest))
        send(network, source, dest, message)

    monkeypatch.setattr(Network, "send", watch)
    monkeypatch.setattr(Rank0Driver, "submit", lambda driver, count: submit(driver, ranks))  # all at once
    cluster = SimulatedCluster(1, ranks=ranks, load=one_for_all(ranks), faults=False)
    cluster.policy.max_concurrency = None
    cluster.run()
    assert len(sent) == ranks - 2, "each of the others gets it, and once"
    assert max(Counter(source for source, _ in sent).values()) == FAN_OUT
    assert 2 <= max(depths(sent, 1).values()) <= deepest


def run(seed: int, **options) -> SimulatedCluster:
    load = in_waves(random.Random(seed))
    cluster = SimulatedCluster(seed, ranks=6 + seed % 7, load=load, fan_out=1 + seed % 3, **options)
    try:
        cluster.run()
    except Exception as error:
        replay = f"python -c 'from tests.simulation.test_tree import run; run({seed}, **{options})'"
        raise AssertionError(f"seed {seed} failed: {error!r}; replay it with: {replay}") from error
    return cluster


@pytest.mark.long
def test_swarms_of_faults_in_trees(monkeypatch):
    """Nobody hangs for want of asking elsewhere: that is for ranks that are slow to answer, and so is not done here."""
    kinds: Counter[str] = Counter()
    send = Network.send

    def count(network, source, dest, message):
        kinds[message[0]] += 1
        send(network, source, dest, message)

    monkeypatch.setattr(fetching, "REFERRAL_S", 1e9)
    monkeypatch.setattr(Network, "send", count)
    statuses, fault_counts = Counter(), Counter()
    for seed in range(100):
        cluster = run(seed)
        statuses[cluster.scheduler.status] += 1
        fault_counts += cluster.fault_counts
    assert statuses["done"] > 50
    missing = {"cut off", "unresponsive", "death", "lost value", "slow value", "stopped"} - set(fault_counts)
    assert not missing, f"these no longer happen: {missing}"
    assert kinds[REDIRECT] > 1000


def test_swarms_of_faults_in_trees_where_slow_ranks_are_passed_over():
    for seed in range(200, 240):
        run(seed)
