"""A DAG with one culprit: a function that ends its process, in one of the ways there are, the first N times.

    run tests/faults/crash_kinds.py -- KIND N DIRECTORY

In DIRECTORY every try of the culprit leaves a file. The hog is starved in the control group HANDOFF_FAULTS_CGROUP.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from handoff_mpi import DAG, Function

HONEST = 12
WORTH = 1000


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hog() -> None:
    directory = Path(os.environ["HANDOFF_FAULTS_CGROUP"])
    (directory / "cgroup.procs").write_text(str(os.getpid()))
    blocks = []
    while True:
        blocks.append(bytearray(b"x") * (16 << 20))


KINDS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": segfault,
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit(1)": lambda: ctypes.CDLL(None).exit(1),
    "os._exit(0)": lambda: os._exit(0),
    "memory hog": hog,
    "GIL held": lambda: ctypes.PyDLL(None).sleep(3600),  # of these one alone has a timeout
}


def honest(number: int) -> int:
    time.sleep(0.1)
    return number * number


def culprit(kind: str, times: int, directory: str) -> int:
    tries = len(list(Path(directory).glob("try*")))
    Path(directory, f"try{tries}").touch()
    if tries < times:
        KINDS[kind]()
        time.sleep(3600)
    return WORTH


def total(*parts: int) -> int:
    return sum(parts)


def build(args: list[str]) -> DAG:
    kind, times, directory = args
    dag = DAG("deaths")
    for number in range(HONEST):
        dag.add_function(Function(number, (), honest, [number]))
    timeout = 2 if kind == "GIL held" else None
    dag.add_function(Function("culprit", (), culprit, [kind, int(times), directory], timeout=timeout, priority=1))
    dag.add_function(Function("honest sum", [*range(HONEST)], total))
    dag.add_function(Function("sum", ["honest sum", "culprit"], total))
    return dag
