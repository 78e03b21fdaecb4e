"""How many functions a second, by the shape of the DAG: ours and the peers against a bare mpi4py loop.

    python -m tests.benchmarks.throughput [--ranks 3] [--repeats 5] [--json FILE]

The loop keeps one no-op in flight at each worker and knows no DAG. Slower contenders get fewer functions to run;
the figure is functions a second. ``contender``, ``ours`` and ``peers`` say what is in the time, and what is not.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.benchmarks.contender import BARE, Contender, installed
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, run

#: Shape: functions for those who get all of them.
COUNTS = {"independent": 50_000, "chain": 5_000, "fan": 20_000, "layered": 20_000}


def counts(share: float, quick: bool) -> dict[str, int]:
    """Return how many functions of each shape one gets."""
    return {shape: max(100, round(count * share / (5 if quick else 1))) for shape, count in COUNTS.items()}


def ask(setting: Setting) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def rates(name: str, each: Contender) -> dict[str, float]:
            asked = json.dumps(counts(each.share, setting.quick))
            return run(each.command(name, setting.ranks, "rates", asked), Path(place))

        found = installed(setting.with_peers)
        contenders = {name: (lambda name=name, each=each: rates(name, each)) for name, each in found.items()}
        figures = in_turns(contenders, setting.repeats)
    return Answer("no-ops a second", BARE, figures, "functions/s", setting.ranks)


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
