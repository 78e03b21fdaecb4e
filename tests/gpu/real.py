"""Tries real devices: whether there are any, and how fast arrays travel between ranks."""

from __future__ import annotations

import importlib.util
import textwrap
from dataclasses import dataclass
from pathlib import Path

from handoff_mpi import load
from handoff_mpi.resources.detection import detect
from tests.conftest import HANDOFF, run_process

#: Functions of the measurement: one makes an array on a device, one on another rank takes it and tells the time.
TRANSFER = """
import time
from handoff_mpi import DAG, Function

def make(nbytes):
    import cupy
    array = cupy.arange(nbytes // 8)
    int(array.sum())  # it is there
    return array, time.time()

def take(made):
    import cupy
    array, when = made
    assert isinstance(array, cupy.ndarray)
    total = int(array.sum())
    return total, time.time() - when

def limit(nbytes):
    # A copy to pinned memory and a copy back, which is the least that two processes need.
    import cupy
    try:
        from cupyx import empty_pinned
    except ImportError:
        from numpy import empty as empty_pinned
    array = cupy.arange(nbytes // 8)
    host = empty_pinned(array.shape, array.dtype)
    best = []
    for _ in range(3):
        begun = time.perf_counter()
        array.get(out=host)
        array.set(host)
        int(array[:1].sum())
        best.append(time.perf_counter() - begun)
    return min(best)

def build(args):
    nbytes, share = int(args[0]), float(args[1])
    dag = DAG("transfer")
    for number in range(3):
        dag.add_function(Function(f"make-{number}", (), make, extra_args=[nbytes], cost={"gpu": share}, node=1))
        dag.add_function(Function(f"take-{number}", (f"make-{number}",), take, cost={"gpu": share}, node=2))
    dag.add_function(Function("limit", (), limit, extra_args=[nbytes], cost={"gpu": share}, node=1))
    return dag
"""


def why_none() -> str:
    """Return why no real device can be tried here; "" if one can."""
    capability = detect(0)
    if not capability.devices:
        return " ".join(["there is no CUDA device here", *(f"({note})" for note in capability.device_notes)])
    return "" if importlib.util.find_spec("cupy") is not None else "there is a CUDA device here, but no cupy"


@dataclass
class Transfer:
    """How fast an array went from rank to rank.

    Attributes:
        nbytes: its size.
        seconds: from its end on the device of one rank to its being on that of the other, the best of three.
        limit_s: the time of a copy to pinned memory and a copy back.
    """

    nbytes: int
    seconds: float
    limit_s: float

    def __str__(self) -> str:
        rate, most = (self.nbytes / each / 1e9 for each in (self.seconds, self.limit_s))
        return (
            f"{self.nbytes / 1e9:.3g} GB between two ranks of a host: {self.seconds:.3f} s, {rate:.2f} GB/s; the "
            f"limit, two copies through pinned memory: {self.limit_s:.3f} s, {most:.2f} GB/s ({rate / most:.0%} of it)"
        )


def measure_transfer(directory: Path, nbytes: int, env: dict[str, str] | None = None) -> Transfer:
    """Send an array of ``nbytes`` bytes from a device through two ranks, which share one if there is one only."""
    (directory / "transfer.py").write_text(textwrap.dedent(TRANSFER))
    words = [*HANDOFF, "run", "-n", "3", "--run-dir", "transfer", "transfer.py", "--", str(nbytes), "0.5"]
    ended = run_process(words, directory, 300, env)
    assert ended.rc == 0, ended.err
    results = load(directory / "transfer")
    count = nbytes // 8
    taken = [results[f"take-{number}"] for number in range(3)]
    assert {total for total, _ in taken} == {count * (count - 1) // 2}
    return Transfer(nbytes, min(seconds for _, seconds in taken), results["limit"])
