"""One contender, asked one thing, its pool warm.

    python -m tests.benchmarks.contender NAME WORKERS rates '{"independent": 50000, "chain": 5000}'
    python -m tests.benchmarks.contender NAME WORKERS granularity '{"shapes": ["chain"], "units": 2}'

Starting the pool is not in any time, and neither are two runs of some no-ops that warm it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.benchmarks import ours, peers
from tests.benchmarks.harness import alone, report, under_mpi
from tests.benchmarks.peers import Prepare, Run
from tests.benchmarks.workloads import SHAPES, count_of

WARM_UP = 50  # functions a worker
#: Durations of a function among which the least efficient enough is looked for, in seconds.
DURATIONS_S = [2e-6 * 2**power for power in range(20)]
EFFICIENT = 0.5
#: Other load on a machine only ever lowers efficiency: a figure that is too low is measured again.
TRIES = 2
#: What one point of the search would take if nothing but the functions' work took time.
POINT_S = 0.15
FEWEST, MOST = 32, 20_000


@dataclass(frozen=True)
class Contender:
    """A system that runs the functions.

    Attributes:
        session: a context manager: number of workers to a :data:`~tests.benchmarks.peers.Prepare`.
        package: what must be installed.
        is_mpi: whether it runs under mpirun.
        is_peer: whether it is somebody else's package.
        share: how many functions it gets, of those that the fastest get.
        before: words before the module.
    """

    session: Callable[[int], Any]
    package: str = "mpi4py"
    is_mpi: bool = True
    is_peer: bool = True
    share: float = 0.02
    before: Sequence[str] = ()

    def command(self, name: str, ranks: int, *words: object) -> list[str]:
        """Return the command that asks it, with as many workers as there are ranks besides rank 0."""
        words = (name, ranks - 1, *words)
        if self.is_mpi:
            return under_mpi(ranks, "contender", *words, before=self.before)
        return alone("contender", *words)


BARE = "bare mpi4py loop"
CHILDREN = "handoff_mpi, in children"
BOUND = "handoff_mpi, bound to a rank"
CONTENDERS = {
    BARE: Contender(peers.bare, is_peer=False, share=1.0),
    "handoff_mpi": Contender(ours.in_ranks, is_peer=False, share=1.0),
    CHILDREN: Contender(ours.in_children, is_peer=False, share=0.1),
    "mpi4py.futures": Contender(peers.futures, before=("-m", "mpi4py.futures")),
    "ProcessPoolExecutor": Contender(peers.processes, "concurrent.futures", False, share=0.1),
    "loky": Contender(peers.loky, "joblib", False, share=0.1),
    "executorlib": Contender(peers.executorlib, "executorlib", False, share=0.1),
    "Ray": Contender(peers.ray, "ray", False),
    "Parsl HTEX": Contender(peers.parsl, "parsl", False),
    "dask.distributed": Contender(peers.dask, "distributed", False),
}


#: Who is asked one question alone is in here too.
ALL = {**CONTENDERS, BOUND: Contender(partial(ours.in_ranks, node=1), is_peer=False)}


def installed(with_peers: bool) -> dict[str, Contender]:
    """Return the contenders that this machine has packages for."""
    return {
        name: each
        for name, each in CONTENDERS.items()
        if (with_peers or not each.is_peer) and importlib.util.find_spec(each.package) is not None
    }


def timed(run: Run) -> float:
    """Return how long a run took, in seconds."""
    begun = time.perf_counter()
    own = run()
    return own if isinstance(own, float) else time.perf_counter() - begun


def rates(prepare: Prepare, counts: Mapping[str, int]) -> dict[str, float]:
    """Return, for each shape, no-ops a second."""
    found = {}
    for shape, count in counts.items():
        levels = SHAPES[shape](count)
        found[shape] = count_of(levels) / timed(prepare(levels, 0))
    return found


def granularity(prepare: Prepare, shapes: Sequence[str], units: int, loops_per_s: float) -> dict[str, float]:
    """Return, for each shape, METG(50 %) in seconds, as Task Bench defines it (Slaughter et al., SC 2020).

    The granularity of a run is its wall time × ``units`` ÷ its functions; its efficiency is the work done a second
    against the most that ``units`` cores do. METG(50 %) is the least granularity at an efficiency of a half.

    Args:
        units: cores that the work can keep busy, at most: the smaller number of workers and cores.
        loops_per_s: of one of them, all of them busy with nothing else.

    Raises:
        RuntimeError: even the longest functions are not run efficiently.
    """
    found = {}
    for shape in shapes:

        def point(duration_s: float, shape: str = shape) -> tuple[float, float]:
            count = round(min(MOST, max(FEWEST, POINT_S * units / duration_s)))
            levels, loops = SHAPES[shape](count), round(duration_s * loops_per_s)
            each_s = math.inf
            for _ in range(TRIES):
                each_s = min(each_s, timed(prepare(levels, loops)) * units / count_of(levels))
                if duration_s >= EFFICIENT * each_s:
                    break
            return each_s, duration_s / each_s

        found[shape] = least_efficient(point)
    return found


def least_efficient(point: Callable[[float], tuple[float, float]], durations_s: Sequence[float] = DURATIONS_S) -> float:
    """Return the granularity at which efficiency crosses a half: bisection, then interpolation between neighbours.

    Args:
        point: duration of a function to the granularity and the efficiency of a run.
        durations_s: those that are tried, in ascending order.

    Raises:
        RuntimeError: it stays below.
    """
    low, high = -1, len(durations_s)
    below: tuple[float, float] | None = None
    above: tuple[float, float] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        seen = point(durations_s[middle])
        if seen[1] < EFFICIENT:
            low, below = middle, seen
        else:
            high, above = middle, seen
    if above is None:
        raise RuntimeError(f"functions of {durations_s[-1]:g} s do not reach an efficiency of {EFFICIENT:g}")
    if below is None:
        return above[0]
    share = (EFFICIENT - below[1]) / (above[1] - below[1])
    return math.exp(math.log(below[0]) + share * (math.log(above[0]) - math.log(below[0])))


def main(name: str, workers: str, question: str, words: str) -> None:
    asked = json.loads(words)
    with ALL[name].session(int(workers)) as prepare:
        if prepare is None:  # another rank than 0
            return
        for _ in range(2):
            prepare(SHAPES["independent"](WARM_UP * int(workers)), 0)()
        report(**(rates(prepare, asked) if question == "rates" else granularity(prepare, **asked)))


if __name__ == "__main__":
    main(*sys.argv[1:])
