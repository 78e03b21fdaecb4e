"""A DAG of layers with small and large values, whose end result is known beforehand.

    run tests/faults/layers.py -- FUNCTIONS SECONDS [LOG]

FUNCTIONS in all: a layer that makes arrays (every fourth 1 MB, the others 8 bytes), layers of which each function
takes two of the layer before, and one that sums. A call takes SECONDS, and writes
its layer and number into the file LOG at its end.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from handoff_mpi import DAG, Function

LAYERS = 5
LARGE = 125_000  # of 8 bytes
NOTHING = {"cpu": 0}  # sleeping takes no core, so all ranks are in use, however few cores there are


def take(seconds: float, log: str, name: str) -> None:
    time.sleep(seconds)
    if log:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # lines of several processes do not mix
        os.write(file, f"{name}\n".encode())
        os.close(file)


def make(number: int, seconds: float, log: str) -> Any:
    take(seconds, log, f"0 {number}")
    return np.full(LARGE if number % 4 == 0 else 1, float(number))


def mix(first: Any, second: Any, layer: int, number: int, seconds: float, log: str) -> Any:
    take(seconds, log, f"{layer} {number}")
    size = LARGE if number % 4 == 0 else 1
    return np.full(size, (first[0] + second[-1]) % 1000 + number)


def total(*parts: Any) -> float:
    return float(sum(part[0] for part in parts))


def width(functions: int) -> int:
    return (functions - 1) // LAYERS


def expected(functions: int) -> float:
    """Return what the DAG's sum must be."""
    wide = width(functions)
    values = [float(number) for number in range(wide)]
    for _ in range(LAYERS - 1):
        values = [(values[number] + values[(number + 7) % wide]) % 1000 + number for number in range(wide)]
    return sum(values)


def build(args: list[str]) -> DAG:
    functions, seconds, log = int(args[0]), float(args[1]), (args[2] if len(args) > 2 else "")
    wide = width(functions)
    dag = DAG("layers")
    for number in range(wide):
        dag.add_function(Function((0, number), (), make, [number, seconds, log], cost=NOTHING))
    for layer in range(1, LAYERS):
        for number in range(wide):
            inputs = [(layer - 1, number), (layer - 1, (number + 7) % wide)]
            dag.add_function(Function((layer, number), inputs, mix, [layer, number, seconds, log], cost=NOTHING))
    dag.add_function(Function("sum", [(LAYERS - 1, number) for number in range(wide)], total))
    return dag
