"""handoff_mpi's side: a Cluster whose ranks have joined, for as many runs as are asked for.

Each worker rank has one slot, so that as many calls go on at once as with the others. The time of a run is that of
``Cluster.execute``: validating and freezing the DAG, the journal in a run-dir of its own, the records. Making the DAG's
objects is the user's and is not in it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from tests.benchmarks.peers import Prepare, Run
from tests.benchmarks.workloads import Level, work


def build(levels: list[Level], loops: int) -> DAG:
    """Return the DAG of what the levels say; constants come behind values, so the loops go by name where both are."""
    dag = DAG("benchmark")
    for number, inputs in enumerate(itertools.chain.from_iterable(levels)):
        if inputs:
            dag.add_function(Function(number, inputs, after, kwargs={"loops": loops}))
        else:
            dag.add_function(Function(number, (), work, [loops]))
    return dag


def after(*values: object, loops: int) -> None:
    work(loops)


@contextmanager
def ours(isolation: str) -> Iterator[Prepare | None]:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place, handoff.Cluster() as cluster:
        if not cluster:
            yield None
            return
        numbers = itertools.count()

        def prepare(levels: list[Level], loops: int) -> Run:
            dag, run_dir = build(levels, loops), f"{place}/{next(numbers)}"
            return lambda: cluster.execute(dag, isolation=isolation, slots=1, run_dir=run_dir)

        yield prepare


def in_ranks(workers: int) -> AbstractContextManager[Prepare | None]:
    return ours("rank")


def in_children(workers: int) -> AbstractContextManager[Prepare | None]:
    return ours("process")
