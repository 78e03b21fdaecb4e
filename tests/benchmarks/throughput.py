"""How many functions a second, by the shape of the DAG: ours and the peers against a bare mpi4py loop.

    python -m tests.benchmarks.throughput [--ranks 3] [--repeats 5] [--json FILE]

The loop keeps one no-op in flight at each worker and knows no DAG. Slow peers get fewer functions to run; what is
compared is functions a second. For ours the time includes all: validating and freezing the DAG, the journal, the
records.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.harness import Answer, Contenders, alone, arguments, in_turns, run, under_mpi

BARE = "bare mpi4py loop"
#: shape: (functions for us and the loop, functions for the others)
COUNTS = {"independent": (50_000, 2_000), "chain": (5_000, 500), "fan": (20_000, 1_000), "layered": (20_000, 1_000)}
#: name: the package it needs
PEERS = {"processes": "concurrent.futures", "loky": "joblib", "dask": "distributed", "executorlib": "executorlib"}


def contenders(shape: str, ranks: int, seconds: float, place: Path) -> Contenders:
    many, few = COUNTS[shape]
    workers = ranks - 1

    def rate(command: list[str]) -> Callable[[], float]:
        def measure() -> float:
            figures = run(command, place)
            return float(figures["tasks"] / figures["seconds"])

        return measure

    found = {
        BARE: rate(under_mpi(ranks, "peers", "bare", shape, many, seconds, workers)),
        "handoff_mpi": rate(under_mpi(ranks, "ours", shape, many, seconds, "rank", ft=True)),
        "in children": rate(under_mpi(ranks, "ours", shape, few * 5, seconds, "process")),
        "mpi4py.futures": rate(
            under_mpi(ranks, "peers", "futures", shape, few, seconds, workers, before=("-m", "mpi4py.futures"))
        ),
    }
    for name, package in PEERS.items():
        if importlib.util.find_spec(package) is not None:
            found[name] = rate(alone("peers", name, shape, few, seconds, workers))
    return found


def ask(ranks: int, repeats: int, seconds: float = 0.0) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
        figures = {shape: in_turns(contenders(shape, ranks, seconds, Path(place)), repeats) for shape in COUNTS}
    what = f"functions of {seconds:g} s" if seconds else "no-ops"
    return Answer(f"{what} a second, {ranks} ranks, against a {BARE}", BARE, figures, "functions/s")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
