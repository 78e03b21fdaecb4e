"""Independent functions that sleep, or do nothing; with the journal of the run, or without.

    run tests/benchmarks/journal_dag.py -- FUNCTIONS SECONDS on|off

There is no option to run without a journal; to see what it costs, its writing is replaced in this process (rank 0's).
"""

from __future__ import annotations

import time

from handoff_mpi import DAG, Function
from handoff_mpi.results.journal import Journal


def nothing() -> None:
    pass


def build(args: list[str]) -> DAG:
    functions, seconds, journal = int(args[0]), float(args[1]), args[2]
    if journal == "off":
        Journal.append = lambda self, record: None  # type: ignore[method-assign]
        Journal.commit = lambda self: None  # type: ignore[method-assign]
    dag = DAG("journal")
    for number in range(functions):
        if seconds:
            dag.add_function(Function(number, (), time.sleep, [seconds], cost={"cpu": 0}))
        else:
            dag.add_function(Function(number, (), nothing))
    return dag
