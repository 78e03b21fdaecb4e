"""The cost of an array, against bounds: those that are promised, or the least that is possible.

    python -m tests.benchmarks.array_bounds [--ranks 3] [--repeats 5] [--json FILE]

- METG(50 %), as ``granularity`` defines it, against 4 µs;
- elements of 1 ms of work against what the cores would take that do nothing else, which is measured in each turn;
- elements that sleep for 10 to 100 ms: against an even share of that;
- ``DAG.map`` of a range and of an array of numpy, against 10 ms for a million elements; it reads none of them;
- the memory of rank 0 an element, beyond arguments and values: against 16 bytes. The elements are no-ops of a range,
  which have neither. It is the most that was resident during the run, less what was before;
- the journal, likewise: against 1 MB for a million elements.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks.array_contender import OURS, command, nap_s
from tests.benchmarks.granularity import PEAK_LOOPS, cores
from tests.benchmarks.harness import Answer, Setting, alone, arguments, in_turns, run

COUNT = 1_000_000
SPINS, NAPS = 10_000, 1_000
#: Of one call in the measurement of the cores: about 1 ms.
CALL_LOOPS = 50_000
BOUND = "bound"
METG, WORK, TAIL = "METG(50 %), µs", "1 ms of work each, s", "10 to 100 ms each, s"
RANGE, BUFFER = "to map a range, ms", "to map a buffer, ms"
MEMORY, JOURNAL = "rank 0, bytes an element", "journal, KB"
#: Rows whose bound is what is promised, not what is possible.
PROMISED = {METG: 4.0, RANGE: 10.0, BUFFER: 10.0, MEMORY: 16.0, JOURNAL: 1000.0}


def ask(setting: Setting) -> Answer:
    units = min(setting.ranks - 1, cores())
    few = 10 if setting.quick else 1
    spins, naps = SPINS // few, NAPS // few
    given = {"count": COUNT, "spins": spins, "naps": naps, "units": units}
    peak: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)

        def bound() -> dict[str, float]:
            in_calls = alone("raw", "peak", units, PEAK_LOOPS, PEAK_LOOPS // CALL_LOOPS)
            given["spin_loops"] = round(run(in_calls, place)["loops_per_s"] * 1e-3)
            peak.update(run(alone("raw", "peak", units, PEAK_LOOPS), place))
            napped = sum(map(nap_s, range(naps))) / (setting.ranks - 1)
            return {WORK: spins * 1e-3 / units, TAIL: napped, **PROMISED}

        def ours() -> dict[str, float]:
            seen = run(command(OURS, setting.ranks, "bounds", **given, **peak), place)
            work = {METG: seen["metg_s"] * 1e6, WORK: seen["spun_s"], TAIL: seen["napped_s"]}
            made = {RANGE: seen["made_s"] * 1e3, BUFFER: seen["made_of_buffer_s"] * 1e3}
            return {**work, **made, MEMORY: seen["nbytes"], JOURNAL: seen["journal_nbytes"] / 1e3}

        figures = in_turns({BOUND: bound, OURS: ours}, setting.repeats)
    return Answer("an array, against bounds", BOUND, figures, "as the rows say", setting.ranks)


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
