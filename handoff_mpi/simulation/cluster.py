"""The simulated cluster: the real machines under a fake clock, with all kinds of faults, launched again if need be.

Everything random comes from one seed, so that a failing run is replayed by its seed. What a launch does is in
:mod:`handoff_mpi.simulation.launch`, what is asserted of it in :mod:`handoff_mpi.simulation.oracle`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

from handoff_mpi.allocation import CostOptimized, FirstAvailable, LoadBalanced
from handoff_mpi.scheduler import Policy, Scheduler
from handoff_mpi.simulation.faults import Faults, plan_faults
from handoff_mpi.simulation.launch import Launch
from handoff_mpi.simulation.linked_workload import give_chains, give_linked_arrays
from handoff_mpi.simulation.network import Clock
from handoff_mpi.simulation.oracle import Oracle
from handoff_mpi.simulation.run_dir import SimulatedRunDir
from handoff_mpi.simulation.workload import (
    LARGE_NBYTES,
    Workload,
    give_arrays,
    give_failures,
    random_ledger,
    random_workload,
)
from handoff_mpi.worker.broadcast_tree import FAN_OUT
from handoff_mpi.worker.budget import UNLIMITED_NBYTES

#: How often a run is launched again at most, and how long that takes.
MAX_RELAUNCHES = 3
RELAUNCH_S = 5.0
#: A seed chooses one of these limits of what ranks keep of values that no call needs: nothing, a little, everything.
CACHES_NBYTES = (0, 2 * LARGE_NBYTES, UNLIMITED_NBYTES)


class SimulatedCluster:
    """One run on a simulated cluster.

    Args:
        seed: of everything random.
        ranks: of the first launch, rank 0 included; later ones have other numbers.
        tasks: how many.
        faults: whether anything goes wrong but the functions themselves.
        is_fine: see :func:`~handoff_mpi.simulation.workload.random_workload`.
        load: the work; random if None.
        fan_out: how many others a rank gives a value to before it refers those that ask to them.
        pressure: whether memory may be short, too.
        bad_hosts: whether all calls may fail on some host, too.
        cache_nbytes: how much memory each rank gives to values that no call needs; the seed chooses if None.
        always: kinds of faults that befall every launch.
        arrays: whether some of the random tasks are arrays.
        links: whether many are, which take elements of one another, fold them or pull them.
        folds: whether there are folds of elements that are pulled, too.
        chains: whether most are arrays of short elements that take those of one another.

    Attributes:
        launches: how many there were.
        steps: how many events there were, in all launches.
        happened: how often each kind of fault befell the run.
    """

    def __init__(
        self,
        seed: int,
        ranks: int = 5,
        tasks: int = 25,
        faults: bool = True,
        is_fine: bool = False,
        load: Workload | None = None,
        fan_out: int = FAN_OUT,
        pressure: bool = True,
        bad_hosts: bool = True,
        cache_nbytes: int | None = None,
        always: Collection[str] = (),
        arrays: bool = False,
        links: bool = False,
        folds: bool = False,
        chains: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.launches = 0
        self.steps = 0
        self.fault_counts: Counter[str] = Counter()
        self._faults = faults
        self._always = always
        self._may_press, self._may_be_bad = pressure, bad_hosts
        self._sizes = [ranks, *(self.rng.randint(2, 2 * ranks) for _ in range(MAX_RELAUNCHES))]
        self._fan_out = fan_out
        self._cache_nbytes = CACHES_NBYTES[seed % len(CACHES_NBYTES)] if cache_nbytes is None else cache_nbytes
        self.load = random_workload(self.rng, tasks, min(self._sizes), is_fine) if load is None else load
        if arrays:
            give_arrays(random.Random(f"arrays {seed}"), self.load)
        if links or folds:
            give_linked_arrays(random.Random(f"links {seed}"), self.load, folds)
        if chains:
            give_chains(random.Random(f"chains {seed}"), self.load)
        if arrays or links or (folds and seed % 3 == 0):  # else few folds have values
            give_failures(random.Random(f"failures {seed}"), self.load)
        self.policy = Policy(
            max_retries=self.rng.choice((0, 2, 3)),
            stop_on_failure=self.rng.random() < 0.1,
            max_concurrency=self.rng.choice((None, None, 1, 3)),
            heartbeat_timeout_s=30.0,
        )
        self._strategy = self.rng.choice((FirstAvailable, LoadBalanced, CostOptimized))
        self._clock = Clock()
        self._run_dir = SimulatedRunDir()
        self._oracle = Oracle(self.load, self.policy, self._run_dir)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the last launch."""
        return self._launch.scheduler

    def run(self) -> None:
        """Run to the end, checking after every step.

        Raises:
            AssertionError: the machines broke an invariant, hang, or computed a wrong value.
        """
        while True:
            self._launch = launch = self._next_launch()
            ends = launch.run()
            self.steps += launch.steps
            self.fault_counts += launch.fault_counts
            if ends and not launch.is_resumed:
                return

    def _next_launch(self) -> Launch:
        ledger = random_ledger(self.rng, self._sizes[self.launches])
        start = self._clock.now + (RELAUNCH_S if self.launches else 0.0)
        self.launches += 1
        faults = Faults()
        if self._faults:
            may_relaunch = self.launches <= MAX_RELAUNCHES
            may_be = may_relaunch, self._may_press, self._may_be_bad
            faults = plan_faults(self.rng, ledger, start, *may_be, self._always)
        self._clock = Clock()
        self._clock.now = start
        scheduler = Scheduler(ledger, self._strategy(), self.policy)
        of_run = self.rng, self._clock, self.load, scheduler, self._run_dir, faults, self._oracle
        return Launch(*of_run, self.launches, self._fan_out, self._cache_nbytes)
