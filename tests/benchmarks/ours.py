"""handoff_mpi's side: a Cluster whose ranks have joined, for as many runs as are asked for.

Each worker rank has one slot, so that as many calls run at once as with the others. The time of a run is that of
``Cluster.execute``: validating and freezing the DAG, the journal in a run-dir of its own, the records. Making the DAG's
objects is the user's and is not in it.

Child processes start again with every run. Other pools are warm, so in children the time begins when a function has
ended that waits for one call in each child, and ends with the last call, as the records tell; what a run does before
and after is then not in it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from tests.benchmarks.workloads import Level, work

if TYPE_CHECKING:  # every child imports this module for the function that it calls
    from handoff_mpi.results import Results
    from tests.benchmarks.peers import Prepare, Run

GATE = "gate"


def build(levels: list[Level], loops: int, warmed: Iterable[int] = (), node: int | None = None) -> DAG:
    """Return the DAG of what the levels say; constants come behind values, so the last argument says the loops.

    Args:
        warmed: ranks whose children are called once before any function of the levels.
        node: the rank that all functions are bound to, if any.
    """
    dag = DAG("benchmark")
    warm = [dag.add_function(Function(("warm", rank), (), work, [0], node=rank)).id for rank in warmed]
    first: tuple[str, ...] = ()
    if warm:
        dag.add_function(Function(GATE, warm, after, [0]))
        first = (GATE,)
    for number, inputs in enumerate(itertools.chain.from_iterable(levels)):
        dag.add_function(Function(number, inputs or first, after, [loops], node=node))
    return dag


def after(*values: Any) -> None:
    work(values[-1])


def behind_gate_s(results: Results) -> float:
    """Return the seconds from the end of the gate to the end of the last call."""
    records = {record.id: record for record in results.records()}
    return max(record.stopped_s for record in records.values()) - records[GATE].stopped_s


@contextmanager
def in_ranks(workers: int, node: int | None = None) -> Iterator[Prepare | None]:
    """In the ranks themselves, all bound to the rank ``node`` if that is given."""
    with cluster() as execute:
        if execute is None:
            yield None
        else:
            yield lambda levels, loops: partial(execute, build(levels, loops, node=node), "rank")


@contextmanager
def in_children(workers: int) -> Iterator[Prepare | None]:
    with cluster() as execute:
        if execute is None:
            yield None
            return

        def prepare(levels: list[Level], loops: int) -> Run:
            dag = build(levels, loops, warmed=range(1, workers + 1))
            return lambda: behind_gate_s(execute(dag, "process"))

        yield prepare


@contextmanager
def cluster() -> Iterator[Callable[[DAG, str], Results] | None]:
    """Yield, on rank 0, what executes a DAG at an isolation; None on the others, at the end."""
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place, handoff.Cluster() as cluster:
        numbers = itertools.count()

        def execute(dag: DAG, isolation: str) -> Results:
            return cluster.execute(dag, isolation=isolation, slots=1, run_dir=f"{place}/{next(numbers)}")

        yield execute if cluster else None
