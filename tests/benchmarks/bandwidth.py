"""How fast an array goes from one rank to another, against a raw Send and Recv into fresh memory.

    python -m tests.benchmarks.bandwidth [--ranks 3] [--repeats 5] [--json FILE]

From rank 1 to rank 2, beside any others; rank 0 has no part in it.

Ours is the time from the request of the rank that wants the value to its arrival, as the transfer event tells. Smaller
values than these ride with the messages that are sent anyway: what that costs is the latency of a chain.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import harness
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, run, under_mpi

RAW = "raw Send/Recv"
SIZES = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "64 MiB": 1 << 26, "1 GiB": 1 << 30}


def ask(setting: Setting) -> Answer:
    sizes = {name: nbytes for name, nbytes in SIZES.items() if not (setting.quick and nbytes > 1 << 26)}
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def speeds(*words: str) -> dict[str, float]:
            seconds = run(under_mpi(setting.ranks, *words, *sizes.values()), Path(place))
            return {name: nbytes / 2**20 / seconds[str(nbytes)] for name, nbytes in sizes.items()}

        contenders = {RAW: lambda: speeds("raw", "transfer"), "handoff_mpi": lambda: speeds("bandwidth", "ours")}
        figures = in_turns(contenders, setting.repeats)
    return Answer("rank to rank into fresh memory", RAW, figures, "MiB/s", setting.ranks)


def make(nbytes: int) -> Any:
    import numpy as np

    return np.ones(nbytes, np.uint8)


def size(array: Any) -> int:
    return int(array.nbytes)


def measure_ours(sizes: list[int]) -> None:
    """Hand arrays of each size from rank 1 to rank 2, one after the other."""
    import handoff_mpi as handoff

    took: list[float] = []
    handoff.telemetry.attach("bandwidth", handoff.telemetry.TRANSFER_STOP, lambda _, m, *__: took.append(m["duration"]))
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place, handoff.Cluster() as cluster:
        if not cluster:
            return
        for nbytes in sizes:
            took.clear()
            arrays = harness.arrays_of(nbytes)
            cluster.execute(transfers(arrays, nbytes), isolation="rank", run_dir=f"{place}/{nbytes}", checkpoint="none")
            assert len(took) == arrays, took
            seconds[str(nbytes)] = sorted(took)[arrays // 2]
        harness.report(**seconds)


def transfers(arrays: int, nbytes: int) -> Any:
    """Return the DAG that hands so many arrays over; both ranks first touch the memory they will need."""
    from handoff_mpi import DAG, Function

    dag = DAG("bandwidth")
    for rank in (1, 2):
        dag.add_function(Function(("touch", rank), (), harness.touch_memory, [(arrays + 1) * nbytes], node=rank))
    before = [("touch", 1), ("touch", 2)]
    for number in range(arrays):
        dag.add_function(Function(("wait", number), before, lambda *_: nbytes, node=1))
        dag.add_function(Function(("make", number), [("wait", number)], make, node=1))
        dag.add_function(Function(("take", number), [("make", number)], size, node=2))
        before = [("take", number)]
    return dag


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        measure_ours([int(word) for word in sys.argv[2:]])
    else:
        arguments(__spec__.name, __doc__, ask)
