"""How fast an array goes from one rank to another, against a raw Send and Recv into fresh memory.

    python -m tests.benchmarks.bandwidth [--repeats 5] [--json FILE]

Ours is the time from the request of the rank that wants the value to its arrival, as the transfer event tells.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Answer, arguments, in_turns, report, run, touch_memory, under_mpi

RAW = "raw Send/Recv"
SIZES = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "64 MiB": 1 << 26, "1 GiB": 1 << 30}


def ask(ranks: int, repeats: int) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)

        def contenders(nbytes: int) -> dict[str, Any]:
            mib = nbytes / 2**20
            return {
                RAW: lambda: mib / run(under_mpi(3, "raw", "transfer", nbytes, 5), place)["seconds"],
                "handoff_mpi": lambda: mib / run(under_mpi(3, "bandwidth", "ours", nbytes), place)["seconds"],
            }

        figures = {size: in_turns(contenders(nbytes), repeats) for size, nbytes in SIZES.items()}
    return Answer(f"rank to rank, against {RAW} into fresh memory", RAW, figures, "MiB/s")


def make(nbytes: int) -> Any:
    import numpy as np

    return np.ones(nbytes, np.uint8)


def size(array: Any) -> int:
    return int(array.nbytes)


def measure_ours(nbytes: int) -> None:
    """Hand five arrays from rank 1 to rank 2, one after the other."""
    import handoff_mpi as handoff
    from handoff_mpi import DAG, Function

    touch_memory(6 * nbytes)
    took: list[float] = []
    event = handoff.telemetry.TRANSFER_STOP
    handoff.telemetry.attach("bandwidth", event, lambda _, seen, *__: took.append(seen["duration"]))
    dag = DAG("bandwidth")
    for number in range(5):
        before = [("take", number - 1)] if number else []
        dag.add_function(Function(("wait", number), before, lambda *_: nbytes, node=1))
        dag.add_function(Function(("make", number), [("wait", number)], make, node=1))
        dag.add_function(Function(("take", number), [("make", number)], size, node=2))
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
        results = handoff.execute(dag, isolation="rank", run_dir=f"{place}/run", checkpoint="none")
    if results is not None:
        assert len(took) == 5, took
        report(seconds=sorted(took)[2])


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        measure_ours(int(sys.argv[2]))
    else:
        arguments(__spec__.name, __doc__, ask)
