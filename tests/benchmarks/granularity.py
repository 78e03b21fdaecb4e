"""How short functions may be: METG(50 %), the least granularity at which half of the machine's work is done.

    python -m tests.benchmarks.granularity [--ranks 3] [--repeats 5] [--json FILE]

As Task Bench defines it (Slaughter et al., SC 2020): functions do a fixed amount of work; the granularity of a run is
its wall time × cores ÷ functions, its efficiency the work done a second against the most that these cores do. The most
is measured each turn, by processes that do nothing else. With more workers than cores, cores count: rank 0 and the
workers share them, and what that costs is in the figure.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.detection import detect
from tests.benchmarks.contender import BARE, CHILDREN, Contender, installed
from tests.benchmarks.harness import Answer, Setting, alone, arguments, in_turns, run

SHAPES = ("independent", "stencil")
PEAK_LOOPS = 20_000_000


def cores() -> int:
    """Return how many cores this machine, or what of it may be used, has."""
    return max(1, detect(0).host_amounts["cpu"] // UNIT)


def ask(setting: Setting) -> Answer:
    units = min(setting.ranks - 1, cores())
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)
        found = installed(setting.with_peers and not setting.quick)
        if setting.quick:  # children start again with every point of the search
            del found[CHILDREN]
        peak: dict[str, float] = {}

        def granularity(name: str, each: Contender) -> dict[str, float]:
            if name == BARE:  # the first of a turn
                peak.update(run(alone("raw", "peak", units, PEAK_LOOPS), place))
            asked = json.dumps({"shapes": SHAPES[:1] if setting.quick else SHAPES, "units": units, **peak})
            seconds = run(each.command(name, setting.ranks, "granularity", asked), place)
            return {shape: value * 1e6 for shape, value in seconds.items()}

        contenders = {name: (lambda name=name, each=each: granularity(name, each)) for name, each in found.items()}
        figures = in_turns(contenders, setting.repeats)
    return Answer("METG(50 %), smaller is better", BARE, figures, "µs", setting.ranks)


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
