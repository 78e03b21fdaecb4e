"""handoff_mpi's side: ``mpirun -n N python -m tests.benchmarks.ours SHAPE COUNT SECONDS ISOLATION``."""

from __future__ import annotations

import resource
import sys
import tempfile
import time

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from tests.benchmarks.harness import report
from tests.benchmarks.workloads import SHAPES, nothing, spin


def build(shape: str, count: int, seconds: float) -> DAG:
    dag = DAG(shape)
    number = 0
    code, extra = (spin, [seconds]) if seconds else (nothing, [])
    for level in SHAPES[shape](count):
        for inputs in level:
            # Constants come behind values: spin takes its seconds by name.
            options = {"kwargs": {"seconds": seconds}} if extra and inputs else {"extra_args": extra}
            dag.add_function(Function(number, inputs, code, **options))
            number += 1
    return dag


def main(shape: str, count: str, seconds: str, isolation: str) -> None:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place, handoff.Cluster() as cluster:
        if cluster:
            dag = build(shape, int(count), float(seconds))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the DAG is the user's own
            begun = time.perf_counter()
            results = cluster.execute(dag, isolation=isolation, run_dir=f"{place}/run")
            took = time.perf_counter() - begun
            grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            report(seconds=took, tasks=results.counts()["done"], grown_nbytes=grown_kb * 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
