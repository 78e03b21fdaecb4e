"""How long a link of a dependent chain takes, in raw pickled round trips of the same run.

    python -m tests.benchmarks.latency [--ranks 3] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks.harness import Answer, arguments, in_turns, run, under_mpi

ROUND_TRIP = "raw round trip"
LINKS = 5_000


def ask(ranks: int, repeats: int) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)

        def link(isolation: str, links: int) -> float:
            return run(under_mpi(ranks, "ours", "chain", links, 0, isolation, ft=True), place)["seconds"] / links * 1e6

        contenders = {
            ROUND_TRIP: lambda: run(under_mpi(2, "raw", "round_trip", 20_000), place)["seconds"] * 1e6,
            "a link": lambda: link("rank", LINKS),
            "a link, in children": lambda: link("process", LINKS // 5),
        }
        figures = in_turns(contenders, repeats)
    return Answer(f"a link of a chain, {ranks} ranks, in raw round trips", ROUND_TRIP, {"": figures}, "µs")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
