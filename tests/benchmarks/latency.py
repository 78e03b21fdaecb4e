"""How long a link of a dependent chain takes, in raw pickled round trips of the same run.

    python -m tests.benchmarks.latency [--ranks 3] [--repeats 5] [--json FILE]

A link is one function from submit to result, back to back: it is placed once the value that it takes is there.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.benchmarks.contend import CHILDREN, CONTENDERS
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, run, under_mpi

ROUND_TRIP = "raw round trip"
LINKS = {"handoff_mpi": 5_000, CHILDREN: 1_000}


def ask(setting: Setting) -> Answer:
    few = 5 if setting.quick else 1
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def round_trip() -> dict[str, float]:
            return {"a link": run(under_mpi(2, "raw", "round_trip", 20_000), Path(place))["seconds"] * 1e6}

        def link(name: str, links: int) -> dict[str, float]:
            command = CONTENDERS[name].command(name, setting.ranks, "rates", json.dumps({"chain": links // few}))
            return {"a link": 1e6 / run(command, Path(place))["chain"]}

        ours = {name: (lambda name=name, links=links: link(name, links)) for name, links in LINKS.items()}
        figures = in_turns({ROUND_TRIP: round_trip, **ours}, setting.repeats)
    return Answer("a link of a chain, in raw round trips", ROUND_TRIP, figures, "µs", setting.ranks)


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
