"""Arrays: one who is compared, asked one thing, with a pool that is warm.

    python -m tests.benchmarks.array_contender NAME WORKERS ASKED WORDS

Ours is the time of ``DAG.map`` and of ``Cluster.execute`` together, with the journal in a run-dir of its own. In child
processes, which start with every run, it begins when each child has been called once; see ``ours``.
"""

from __future__ import annotations

import gc
import json
import operator
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from handoff_mpi import DAG, Fixed, Function
from handoff_mpi.results import Results
from tests.benchmarks.contender import least_efficient
from tests.benchmarks.functions import forget_peak, resident_nbytes
from tests.benchmarks.harness import report, under_mpi
from tests.benchmarks.ours import GATE, after, behind_gate_s, cluster
from tests.benchmarks.workloads import work

#: A function, and an iterable of its arguments, to how long a map took, in seconds.
Map: TypeAlias = Callable[[Callable[..., Any], Any], float]

OURS, CHILDREN, FUTURES = "handoff_mpi", "handoff_mpi, in children", "mpi4py.futures, best chunk"
#: The chunk sizes of which the best one counts.
CHUNKS = (1_000, 4_000, 16_000, 64_000, 250_000)
#: Durations of an element among which the least efficient enough is looked for, in seconds.
DURATIONS_S = [2.5e-7 * 2**power for power in range(12)]
#: What one point of that search would take if nothing but the elements' work took time.
POINT_S = 0.5
MOST = 2_000_000
ARRAY = "array"


def no_op(element: Any, gate: None = None) -> None:
    pass


def itself(element: Any, gate: None = None) -> Any:
    return element


def spin(element: int, loops: int) -> None:
    work(loops)


def nap(element: int) -> None:
    time.sleep(nap_s(element))


def nap_s(element: int) -> float:
    """Return how long an element sleeps: from 10 to 100 ms, in an order without a pattern."""
    return 0.01 + 0.09 * (element * 7919 % 997) / 996


def command(name: str, ranks: int, asked: str, **words: object) -> list[str]:
    """Return the command that asks one of those that are compared."""
    before = ("-m", "mpi4py.futures") if name == FUTURES else ()
    return under_mpi(ranks, "array_contender", name, ranks - 1, asked, json.dumps(words), before=before)


# -- who is compared ---------------------------------------------------------------------------------------


class Ours:
    """Arrays of ours, on ranks that have joined.

    Args:
        execute: runs a DAG at an isolation, and returns its results and its run-dir.
        isolation: of the calls.
        workers: how many ranks have children.
    """

    def __init__(self, execute: Callable[[DAG, str], Results], isolation: str, workers: int) -> None:
        self._execute = execute
        self._isolation = isolation
        self._workers = workers

    def run(self, code: Callable[..., Any], *iterables: Any) -> tuple[float, Results]:
        """Return how long an array took, in seconds, and the results."""
        begun = time.perf_counter()
        dag = DAG("benchmark")
        if self._isolation == "rank":
            dag.map(code, *iterables, id=ARRAY)
            results = self._execute(dag, self._isolation)
            return time.perf_counter() - begun, results
        warmed = [Function(("warm", rank), (), work, [0], node=rank) for rank in range(1, self._workers + 1)]
        gate = dag.add_function(Function(GATE, [dag.add_function(each).id for each in warmed], after, [0]))
        dag.map(code, *iterables, gate, id=ARRAY)
        results = self._execute(dag, self._isolation)
        return behind_gate_s(results), results

    def seconds(self, declare: Callable[[DAG], Any]) -> float:
        """Return how long a DAG takes in ranks, in seconds."""
        begun = time.perf_counter()
        dag = DAG("benchmark")
        declare(dag)
        self._execute(dag, "rank")
        return time.perf_counter() - begun

    def map(self, code: Callable[..., Any], elements: Any) -> float:
        """Return how long an array took, in seconds."""
        return self.run(code, elements)[0]


@contextmanager
def ours(isolation: str, workers: int) -> Iterator[Ours | None]:
    with cluster() as execute:
        yield None if execute is None else Ours(execute, isolation, workers)


@contextmanager
def futures(workers: int) -> Iterator[Map]:
    """The map of mpi4py.futures, with each chunk size; the best one counts."""
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:

        def seconds(code: Callable[..., Any], elements: Any, chunk: int) -> float:
            begun = time.perf_counter()
            list(executor.map(code, elements, chunksize=chunk))
            return time.perf_counter() - begun

        yield lambda code, elements: min(seconds(code, elements, chunk) for chunk in CHUNKS)


# -- what they are asked -------------------------------------------------------------------------------------


def rates(run: Map, count: int) -> dict[str, float]:
    """Return elements a second of functions that return nothing, and of those that return an integer."""
    for code in (no_op, itself):
        run(code, range(min(count, 50_000)))
    return {code.__name__: count / run(code, range(count)) for code in (no_op, itself)}


def bounds(
    mine: Ours, count: int, spins: int, spin_loops: int, naps: int, units: int, loops_per_s: float
) -> dict[str, float]:
    """Return what is held against bounds.

    Args:
        count: elements of a long array.
        spins, naps: elements of 1 ms of work, and elements that sleep.
        spin_loops: the work of one of them.
        units: cores that the work keeps busy.
        loops_per_s: of one of them.
    """
    mine.run(no_op, range(count // 10))
    gc.collect()
    forget_peak()
    before = resident_nbytes("VmRSS")
    _, results = mine.run(no_op, range(count))
    grown = resident_nbytes("VmHWM") - before
    return {
        "made_s": seconds_to_make(range(count)),
        "made_of_buffer_s": seconds_to_make(_buffer(count)),
        "nbytes": grown / count,
        "journal_nbytes": journal_nbytes(results),
        "spun_s": mine.run(spin, range(spins), Fixed(spin_loops))[0],
        "napped_s": mine.run(nap, range(naps))[0],
        "metg_s": granularity(mine, units, loops_per_s),
    }


def chains(mine: Ours, count: int, window: int) -> dict[str, float]:
    """Return how long an array takes, one that reads a generator, and arrays that take each other's elements.

    Args:
        count: elements of each array.
        window: of those that read a generator.
    """
    mine.run(no_op, range(count // 10))
    mine.seconds(partial(chain, elements=range(count // 10)))
    mine.seconds(partial(chain, elements=iter(range(count // 10)), window=window))
    alone_s = mine.map(no_op, range(count))
    taken_s = mine.seconds(partial(chain, elements=range(count)))
    windowed_s = mine.seconds(lambda dag: dag.map(no_op, iter(range(count)), window=window))
    both_s = mine.seconds(partial(chain, elements=iter(range(count)), window=window))
    return {"alone_s": alone_s, "chain_s": taken_s, "windowed_s": windowed_s, "windowed_chain_s": both_s}


def chain(dag: DAG, elements: Any, window: int | None = None) -> None:
    """Declare a map over elements, a map over its values, and a fold of those."""
    first = dag.map(itself, elements) if window is None else dag.map(itself, elements, window=window)
    dag.reduce(operator.add, dag.map(itself, first))


def _buffer(count: int) -> Any:
    import numpy as np

    return np.arange(count)


def seconds_to_make(elements: Any) -> float:
    """Return how long ``DAG.map`` takes."""
    dag = DAG("benchmark")
    begun = time.perf_counter()
    dag.map(no_op, elements)
    return time.perf_counter() - begun


def journal_nbytes(results: Results) -> int:
    """Return the bytes of the journal of a run."""
    if results.run_dir is None:
        raise RuntimeError("the run had no run-dir")
    return sum(path.stat().st_size for path in Path(results.run_dir, "journal").glob("*"))


def granularity(mine: Ours, units: int, loops_per_s: float) -> float:
    """Return METG(50 %) of an array in seconds; see :func:`~tests.benchmarks.contender.granularity`."""

    def point(duration_s: float) -> tuple[float, float]:
        count = min(MOST, round(POINT_S * units / duration_s))
        each_s = mine.run(spin, range(count), Fixed(round(duration_s * loops_per_s)))[0] * units / count
        return each_s, duration_s / each_s

    return least_efficient(point, DURATIONS_S)


def main(words: Sequence[str]) -> None:
    name, workers, asked, given = words
    session = {OURS: partial(ours, "rank"), CHILDREN: partial(ours, "process"), FUTURES: futures}[name]
    with session(int(workers)) as found:
        if found is None:  # another rank than 0
            return
        if asked == "bounds":
            report(**bounds(found, **json.loads(given)))
        elif asked == "chains":
            report(**chains(found, **json.loads(given)))
        else:
            report(**rates(found if name == FUTURES else found.map, **json.loads(given)))


if __name__ == "__main__":
    main(sys.argv[1:])
