"""A run whose values take several times the memory there is: values are moved out, and nothing dies.

    mpirun -n 3 python -m tests.faults.memory VALUES MB

makes VALUES arrays of so many MB, then takes two of them at a time, from the ranks that hold them, half of the calls
in child processes. Prints ``spilled RANK COUNT`` for each rank, and ``right`` if the result is.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import handoff_mpi
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world
from handoff_mpi.results.spilling import SpillingStore


def make(number: int, nbytes: int) -> Any:
    return np.full(nbytes // 8, float(number))


def mix(first: Any, second: Any) -> float:
    assert (first == first[0]).all()
    assert (second == second[0]).all()
    return float(first[-1] + second[-1])


def build(values: int, nbytes: int) -> DAG:
    """Return the DAG: all values are made before the first is taken."""
    dag = DAG("memory")
    for number in range(values):
        dag.add_function(Function(("make", number), (), make, [number, nbytes], priority=1))
    for number in range(values):
        inputs = [("make", number), ("make", (number + values // 2 + 1) % values)]
        dag.add_function(Function(("mix", number), inputs, mix, timeout=60 if number % 2 else None))
    dag.add_function(Function("sum", [("mix", number) for number in range(values)], lambda *parts: sum(parts)))
    return dag


def main(values: int, megabytes: int) -> None:
    stores: list[SpillingStore] = []

    class Counted(SpillingStore):
        def close(self) -> None:
            stores.append(self)
            super().close()

    from handoff_mpi.runtime import value_store as room

    room.SpillingStore = Counted  # type: ignore[misc]
    results = handoff_mpi.execute(build(values, megabytes * 10**6), run_dir="run", isolation="rank", checkpoint="none")
    print("spilled", world().Get_rank(), sum(store.count for store in stores), flush=True)
    if results is not None and results["sum"] == values * (values - 1):
        print("right", results.counts()["done"], results.lost_ranks, flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
