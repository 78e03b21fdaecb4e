"""Whether throughput and memory hold from a thousand functions to a million.

    python -m tests.benchmarks.functions [--ranks 3] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks.harness import Answer, arguments, in_turns, run, under_mpi

COUNTS = (10_000, 1_000, 100_000, 1_000_000)


def ask(ranks: int, repeats: int) -> Answer:
    rates: dict[str, list[float]] = {}
    nbytes: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)

        def measure(count: int) -> float:
            figures = run(under_mpi(ranks, "ours", "independent", count, 0, "rank", ft=True), place)
            nbytes.setdefault(f"{count:,}", []).append(figures["grown_nbytes"] / count)
            return float(count / figures["seconds"])

        rates = in_turns({f"{count:,}": (lambda count=count: measure(count)) for count in COUNTS}, repeats)
    base = f"{COUNTS[0]:,}"
    figures = {"no-ops a second": rates, "bytes of rank 0 a function": nbytes}
    return Answer(f"by the number of functions, against {base}, {ranks} ranks", base, figures, "")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
