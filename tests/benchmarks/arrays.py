"""How many elements a second an array has: ours, in ranks and in children, against the map of mpi4py.futures.

    python -m tests.benchmarks.arrays [--ranks 3] [--repeats 5] [--json FILE]

The map gets the chunk size that is the best for it, which is looked for in each turn. A bare loop sends one call for
each element; it gets fewer of them. The elements come from a range, and return nothing, or themselves.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.benchmarks.array_contender import CHILDREN, FUTURES, OURS, command
from tests.benchmarks.contender import BARE, CONTENDERS
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, run

COUNT = 1_000_000
LOOPED = 50_000
NO_OPS, VALUES = "no-ops a second", "values a second"


def ask(setting: Setting) -> Answer:
    few = 10 if setting.quick else 1
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def rates(name: str) -> dict[str, float]:
            seen = run(command(name, setting.ranks, "rates", count=COUNT // few), Path(place))
            return {NO_OPS: seen["no_op"], VALUES: seen["itself"]}

        def looped() -> dict[str, float]:
            asked = json.dumps({"independent": LOOPED // few})
            seen = run(CONTENDERS[BARE].command(BARE, setting.ranks, "rates", asked), Path(place))
            return {NO_OPS: seen["independent"]}

        contenders = {name: (lambda name=name: rates(name)) for name in (FUTURES, OURS, CHILDREN)}
        figures = in_turns({**contenders, BARE: looped}, setting.repeats)
    return Answer("elements of an array", FUTURES, figures, "elements/s", setting.ranks)


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
