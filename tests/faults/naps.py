"""Naps, and one call that holds the interpreter: its rank neither hears nor says anything meanwhile.

run tests/faults/naps.py -- NAPS SECONDS HELD_SECONDS
"""

from __future__ import annotations

import ctypes
import time

from handoff_mpi import DAG, Function


def nap(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


def hold(seconds: float) -> int:
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return 1000


def total(*parts: int) -> int:
    return sum(parts)


def expected(naps: int, held: float) -> int:
    """Return what the DAG's sum must be."""
    return sum(range(naps)) + (1000 if held else 0)


def build(args: list[str]) -> DAG:
    naps, seconds, held = int(args[0]), float(args[1]), float(args[2])
    dag = DAG("naps")
    inputs: list[object] = [*range(naps)]
    for number in range(naps):
        dag.add_function(Function(number, (), nap, [number, seconds], cost={"cpu": 0}))
    if held:
        dag.add_function(Function("held", (), hold, [held], cost={"cpu": 0}, priority=1))
        inputs.append("held")
    dag.add_function(Function("sum", inputs, total))
    return dag
