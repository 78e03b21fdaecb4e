"""Functions run while hosts fail: short calls, large values that stay where they were made, one number to check."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import handoff_mpi as handoff
from handoff_mpi import DAG, Function


def build(args: list[str]) -> DAG:
    """Return a DAG of ``count`` pairs of calls; what happens is noted in files beside the run.

    Args:
        args: how many pairs, and how long each call lasts in seconds.
    """
    count, seconds = int(args[0]), float(args[1])
    handoff.telemetry.attach("watch", ("handoff", "rank", "lost"), _note_loss)
    dag = DAG("workload")
    for number in range(count):
        dag.add_function(Function(("make", number), (), _make, [number, seconds]))
        dag.add_function(Function(("fold", number), [("make", number)], _fold, [seconds]))
    dag.add_function(Function("sum", [("fold", number) for number in range(count)], lambda *parts: sum(parts)))
    return dag


def expected(count: int) -> int:
    """Return what "sum" must be."""
    return sum(number * 5000 for number in range(count))


def _make(number, seconds):
    import numpy

    time.sleep(seconds)
    with Path("calls").open("a") as file:
        file.write(f"make {number}\n")
    return numpy.full(5000, number)


def _fold(array, seconds):
    time.sleep(seconds)
    with Path("calls").open("a") as file:
        file.write("fold\n")
    return int(array.sum())


def _note_loss(event, measurements, metadata, config):
    with Path("losses").open("a") as file:
        print(time.time(), metadata["node"], metadata.get("host"), file=file)


if __name__ == "__main__":
    print(expected(int(sys.argv[1])))
