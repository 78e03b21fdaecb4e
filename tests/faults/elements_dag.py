"""A DAG of one array: most elements sleep and return a number, one raises, and one kills its process.

    run tests/faults/elements_dag.py -- ELEMENTS SECONDS LOG

Each element appends its index to the file LOG when it begins, as 8 bytes.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from handoff_mpi import DAG

NOTHING = {"cpu": 0}  # sleeping takes no core, so all ranks are in use, however few cores there are
ARRAY = "elements"
_logs: dict[str, int] = {}


def raising(elements: int) -> int:
    """Return the index that raises."""
    return elements // 3


def killing(elements: int) -> int:
    """Return the index that kills its process."""
    return 2 * elements // 3


def element(index: int, elements: int, seconds: float, log: str) -> int:
    if log not in _logs:
        _logs[log] = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    os.write(_logs[log], index.to_bytes(8, "little"))
    time.sleep(seconds)
    if index == raising(elements):
        raise ValueError(f"{index} is bad")
    if index == killing(elements):
        os.kill(os.getpid(), signal.SIGKILL)
    return 3 * index + 1


def begun(log: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the indices in the order in which they began."""
    return np.fromfile(log, np.int64) if log.exists() else np.zeros(0, np.int64)


def build(args: list[str]) -> DAG:
    elements, seconds, log = int(args[0]), float(args[1]), args[2]
    dag = DAG("elements")
    fixed = {"elements": elements, "seconds": seconds, "log": log}
    dag.map(element, range(elements), fixed=fixed, id=ARRAY, cost=NOTHING, max_retries=0)
    return dag
