"""Arrays on the simulated cluster: deaths inside of leases, time-outs, recalls, failures of elements, and resumes."""

from __future__ import annotations

from collections import Counter

import pytest

from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.simulation.array_oracle import ArrayOracle
from handoff_mpi.simulation.workload import Workload
from tests.simulation.test_cluster import run

CPU = {"cpu": UNIT}


def load_of(count, element_s=0.01, chunk=None, max_failures=None, **options):
    """An array, and a function that takes its list."""
    load = Workload([TaskSpec((), CPU, array=ArraySpec(count, chunk, max_failures), **options), TaskSpec((0,), CPU)])
    load.specs[1].keep = True
    load.duration_s, load.nbytes = [0.0, 0.01], [(8,), (8,)]
    load.element_s[0] = element_s
    return load


def count_begun(monkeypatch):
    """Return a counter of how often each element has begun under a lease that counts."""
    counts = Counter()
    at_lease = ArrayOracle.at_lease

    def count(self, scheduler, lease, attempt):
        if scheduler.tasks.is_current(lease.work.task, lease.work.attempt):
            counts.update((lease.array, index) for index in lease.indices)
        at_lease(self, scheduler, lease, attempt)

    monkeypatch.setattr(ArrayOracle, "at_lease", count)
    return counts


def test_undisturbed_each_element_is_leased_once(monkeypatch):
    begun = count_begun(monkeypatch)
    cluster = run(1, load=load_of(300, element_s=0.0001), faults=False, ranks=4)
    assert cluster.scheduler.status == "done"
    assert begun == Counter((0, index) for index in range(300))


@pytest.mark.parametrize(
    "fault", ["deaths", "host dies", "one survives", "stopped", "cut off", "relaunch", "torn journal"]
)
def test_an_array_survives(fault):
    for seed in range(4):
        cluster = run(seed, load=load_of(400, element_s=0.02), always=(fault,), ranks=5)
        assert cluster.scheduler.status != "running"


def test_one_raising_element_and_one_that_kills_fail_alone():
    for seed in range(6):
        load = load_of(60, element_s=0.001)
        load.element_raises[0, 17] = load.element_kills[0, 40] = 99
        cluster = run(seed, load=load, faults=False, ranks=3)
        array = cluster.scheduler.arrays.of[0]
        assert array.failed == 2 or cluster.scheduler.stopping
        failed = {interval for intervals, _ in array.failures for interval in intervals}
        assert failed <= {(17, 18), (40, 41)}


def test_an_element_that_hangs_is_ended_and_the_others_of_its_lease_run_on():
    for seed in range(6):
        cluster = run(seed, load=load_of(100, element_s=0.01, timeout_s=0.5), faults=False, ranks=3)
        assert cluster.scheduler.arrays.of[0].done >= 90 or cluster.scheduler.stopping


@pytest.mark.parametrize("max_failures", [0, 5, 100])
def test_few_elements_begin_where_all_fail(monkeypatch, max_failures):
    begun = count_begun(monkeypatch)
    for seed in range(12):
        load = load_of(10_000, element_s=0.0001, max_failures=max_failures)
        load.element_raises.update({(0, index): 99 for index in range(10_000)})
        begun.clear()
        cluster = run(seed, load=load, faults=False, ranks=4)
        array = cluster.scheduler.arrays.of[0]
        assert array.failed > max_failures or cluster.policy.stop_on_failure
        assert array.failed <= len(begun) < 2_000


@pytest.mark.long
def test_random_dags_with_arrays():
    for seed in range(60):
        run(seed, arrays=True)
    for seed in range(30):
        run(seed, arrays=True, ranks=12, tasks=40)


def test_without_faults_no_report_of_a_lease_is_stale():
    for seed in range(12):
        assert run(seed, faults=False, arrays=True).scheduler.stale == 0, seed
