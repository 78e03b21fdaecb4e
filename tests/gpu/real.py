"""Tries real devices: whether there are any, and how fast arrays travel between ranks."""

from __future__ import annotations

import importlib.util
import textwrap
from dataclasses import dataclass
from pathlib import Path

from handoff_mpi import load
from handoff_mpi.resources.detection import detect
from tests.conftest import HANDOFF, run_process

#: How often an array travels; the first time CUDA starts and kernels are compiled.
_ROUNDS = 4
#: Functions of the measurement: one makes an array, one on another rank takes it and tells the time.
TRANSFER = """
import time
from handoff_mpi import DAG, Function

def make(after, nbytes, on_device):
    import cupy, numpy
    array = (cupy if on_device else numpy).arange(nbytes // 8)
    int(array.sum())  # it is there
    return array, time.time()

def take(made):
    import cupy, numpy
    array, when = made
    seconds = time.time() - when
    return type(array).__module__.partition(".")[0], int(array.sum()), seconds

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
    nbytes, rounds = map(int, args)
    dag, last = DAG("transfer"), ()
    for module, cost in (("cupy", {"gpu": 0.25}), ("numpy", {})):
        for number in range(rounds):
            make_id, take_id = f"make-{module}-{number}", f"take-{module}-{number}"
            extra = [nbytes, module == "cupy"]
            after = {"argument_inclusion": "as_list", "extra_args": extra}  # one at a time
            dag.add_function(Function(make_id, last, make, cost=cost, node=1, **after))
            dag.add_function(Function(take_id, (make_id,), take, cost=cost, node=2))
            last = (take_id,)
    dag.add_function(Function("limit", (), limit, extra_args=[nbytes], cost={"gpu": 0.25}, node=1))
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
        seconds: from its end on the device of one rank to its being on that of the other, the best of some.
        host_s: the same for an array of numpy, which has no device to leave.
        limit_s: the time of a copy to pinned memory and a copy back.
    """

    nbytes: int
    seconds: float
    host_s: float
    limit_s: float

    def __str__(self) -> str:
        rate, host, most = (self.nbytes / each / 1e9 for each in (self.seconds, self.host_s, self.limit_s))
        return (
            f"{self.nbytes / 1e9:.3g} GB between two ranks of a host: {self.seconds:.3f} s, {rate:.2f} GB/s; from host "
            f"memory to host memory {self.host_s:.3f} s, {host:.2f} GB/s; two copies through pinned memory, without "
            f"the way between the ranks: {self.limit_s:.3f} s, {most:.2f} GB/s"
        )


def measure_transfer(directory: Path, nbytes: int, env: dict[str, str] | None = None) -> Transfer:
    """Send an array of ``nbytes`` bytes from a device through two ranks, which share one if there is one only."""
    (directory / "transfer.py").write_text(textwrap.dedent(TRANSFER))
    words = [*HANDOFF, "run", "-n", "3", "--run-dir", "transfer", "transfer.py", "--", str(nbytes), str(_ROUNDS)]
    ended = run_process(words, directory, 300, env)
    assert ended.rc == 0, ended.err
    results = load(directory / "transfer")
    taken = {module: [results[f"take-{module}-{number}"] for number in range(_ROUNDS)] for module in ("cupy", "numpy")}
    count = nbytes // 8
    for module, each in taken.items():
        assert {(kind, total) for kind, total, _ in each} == {(module, count * (count - 1) // 2)}
    best = {module: min(seconds for _, _, seconds in each) for module, each in taken.items()}
    return Transfer(nbytes, best["cupy"], best["numpy"], results["limit"])
