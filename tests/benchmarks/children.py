"""How many no-ops a second child processes do, against bare ones behind pipes.

    python -m tests.benchmarks.children [--ranks 3] [--repeats 5] [--json FILE]

A bare child answers all that comes through its pipe; one no-op is in flight at each of as many as there are worker
ranks. In a chain only one is. The start of the children is in neither time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.benchmarks.contender import CHILDREN, CONTENDERS
from tests.benchmarks.harness import Answer, Setting, alone, arguments, in_turns, run

PIPE = "bare pipe worker"
COUNTS = {"independent": 20_000, "chain": 5_000}


def ask(setting: Setting) -> Answer:
    ours = CONTENDERS[CHILDREN]
    counts = {shape: count // (5 if setting.quick else 1) for shape, count in COUNTS.items()}
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
        contenders = {
            PIPE: lambda: run(alone("raw", "pipe", 20_000, setting.ranks - 1), Path(place)),
            CHILDREN: lambda: run(ours.command(CHILDREN, setting.ranks, "rates", json.dumps(counts)), Path(place)),
        }
        figures = in_turns(contenders, setting.repeats)
    return Answer("no-ops a second in child processes", PIPE, figures, "functions/s", setting.ranks)


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
