"""How long a function takes that depends on the one before it, in raw pickled round trips of the same run.

    python -m tests.benchmarks.latency [--ranks 3] [--repeats 5] [--json FILE]

- *a link*: of a chain of functions that may run anywhere. Short ones are sent ahead, to where their input is made.
- *back to back*: of a chain of functions that are bound to rank 1, and so are sent one by one, each once the value
  before it has come to rank 0: one function from submit to result.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.benchmarks.contender import ALL, BOUND, CHILDREN
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, run, under_mpi

ROUND_TRIP = "raw round trip"
LINK = "a link"
BACK_TO_BACK = "back to back"
#: Contender to row to how many links.
LINKS = {"handoff_mpi": (LINK, 5_000), CHILDREN: (LINK, 1_000), BOUND: (BACK_TO_BACK, 3_000)}


def ask(setting: Setting) -> Answer:
    few = 5 if setting.quick else 1
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def round_trip() -> dict[str, float]:
            trip_us = run(under_mpi(2, "raw", "round_trip", 20_000), Path(place))["seconds"] * 1e6
            return {LINK: trip_us, BACK_TO_BACK: trip_us}

        def link(name: str) -> dict[str, float]:
            row, links = LINKS[name]
            command = ALL[name].command(name, setting.ranks, "rates", json.dumps({"chain": links // few}))
            return {row: 1e6 / run(command, Path(place))["chain"]}

        ours = {name: (lambda name=name: link(name)) for name in LINKS}
        figures = in_turns({ROUND_TRIP: round_trip, **ours}, setting.repeats)
    return Answer("a function that depends on the one before it", ROUND_TRIP, figures, "µs", setting.ranks)


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
