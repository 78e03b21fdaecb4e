"""How long a map of a pool takes, against ``multiprocessing.Pool``: the steps of a sampler.

    python -m tests.benchmarks.pools [--ranks 3] [--repeats 5] [--json FILE]

- *4 no-ops*: against a pool of four processes.
- *a step*: 32 walkers whose likelihood takes 1.7 ms, against a pool of as many processes as there are worker ranks.
- *a new closure*: the same no-ops, of a function that is made for each map, and so is sent each time. The pool of
  processes gets it pickled by value, as it cannot be sent otherwise.

``mpirun -n 3 python -m tests.benchmarks.pools growth 10000`` shows the memory of rank 0 and of a worker meanwhile.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Answer, Setting, alone, arguments, in_turns, report, run, under_mpi

NOOPS, STEP, CLOSURE = "4 no-ops", "a step", "a new closure"
OURS, POOL = "handoff_mpi", "multiprocessing"
WALKERS, WALKER_S = 32, 0.0017
#: How many maps are timed of each.
COUNTS = {NOOPS: 1_000, STEP: 50, CLOSURE: 500}


def ask(setting: Setting) -> Answer:
    few = 10 if setting.quick else 1
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
        contenders = {
            POOL: lambda: run(alone("pools", "processes", few, setting.ranks - 1), Path(place)),
            OURS: lambda: run(under_mpi(setting.ranks, "pools", "ranks", few), Path(place)),
        }
        figures = in_turns(contenders, setting.repeats)
    return Answer("a map of a pool", POOL, figures, "µs", setting.ranks)


def noop(x: int) -> int:
    return x


def walk(x: int) -> float:
    end, value = time.perf_counter() + WALKER_S, 0.0
    while time.perf_counter() < end:
        value += x
    return value


def closure(step: int) -> Callable[[int], int]:
    def scaled(x: int) -> int:
        return x * step

    return scaled


class Pickled:
    """A function as a pool of processes can be sent it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        import cloudpickle

        self._blob = cloudpickle.dumps(function)

    def __call__(self, x: int) -> Any:
        import cloudpickle

        return cloudpickle.loads(self._blob)(x)


def times(map_of: dict[str, Callable[..., list[Any]]], few: int, carried: Callable[..., Any]) -> dict[str, float]:
    """Return microseconds of each row."""
    functions = {
        NOOPS: lambda step: (noop, range(4)),
        STEP: lambda step: (walk, range(WALKERS)),
        CLOSURE: lambda step: (carried(closure(step)), range(4)),
    }
    found = {}
    for row, count in COUNTS.items():
        of_step, mapped = functions[row], map_of[row]
        for step in range(20):  # warm
            mapped(*of_step(step))
        count = max(10, count // few)
        started = time.perf_counter()
        for step in range(count):
            mapped(*of_step(step))
        found[row] = (time.perf_counter() - started) / count * 1e6
    return found


def with_processes(few: int, workers: int) -> None:
    with multiprocessing.Pool(4) as four, multiprocessing.Pool(workers) as pool:
        report(**times({NOOPS: four.map, STEP: pool.map, CLOSURE: four.map}, few, Pickled))


def with_ranks(few: int) -> None:
    import handoff_mpi as handoff

    with handoff.Cluster() as cluster:
        if cluster:
            report(**times(dict.fromkeys(COUNTS, cluster.map), few, lambda function: function))


def rss_mb(_: int = 0) -> float:
    """Return the memory that this process uses."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def growth(count: int) -> None:
    """Show what memory rank 0 and its workers use while ``count`` maps of new closures are made."""
    import handoff_mpi as handoff

    with handoff.Cluster() as cluster:
        if not cluster:
            return
        for step in range(count + 1):
            if step % max(1, count // 10) == 0:
                of_ranks = max(cluster.map(rss_mb, range(8), chunksize=1))
                print(f"{step:6d} maps: rank 0 {rss_mb():7.1f} MB, a worker {of_ranks:7.1f} MB", flush=True)
            cluster.map(closure(step), range(4))


_WAYS = {"processes": with_processes, "ranks": with_ranks, "growth": growth}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in _WAYS:
        _WAYS[sys.argv[1]](*map(int, sys.argv[2:]))
    else:
        arguments(__spec__.name, __doc__, ask)
