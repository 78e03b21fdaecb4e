"""How long arrays take that take each other's elements, and arrays that read a generator, against one of a range.

    python -m tests.benchmarks.array_chains [--ranks 3] [--repeats 5] [--json FILE]

- *a chain*: a map over a range, a map over its values, and a fold of those;
- *a window*: a map over a generator of as many elements;
- *a chain with a window*: a chain that begins with a generator.

``mpirun -n 3 python -m tests.benchmarks.array_chains growth 100000000`` shows the memory of rank 0 while a generator of
that many elements is read, and at which rate.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.array_contender import OURS, command, no_op
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, run
from tests.benchmarks.pools import rss_mb

COUNT, WINDOW = 1_000_000, 100_000
ALONE = "one map of a range"
CHAIN, WINDOWED, BOTH = "a chain", "a window", "a chain with a window"


def ask(setting: Setting) -> Answer:
    given = {"count": COUNT // (10 if setting.quick else 1), "window": WINDOW}
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
        found: dict[str, float] = {}

        def alone() -> dict[str, float]:
            found.update(run(command(OURS, setting.ranks, "chains", **given), Path(place)))
            return dict.fromkeys((CHAIN, WINDOWED, BOTH), found["alone_s"])

        def ours() -> dict[str, float]:  # of the same process
            return {CHAIN: found["chain_s"], WINDOWED: found["windowed_s"], BOTH: found["windowed_chain_s"]}

        figures = in_turns({ALONE: alone, OURS: ours}, setting.repeats)
    return Answer("arrays in a row", ALONE, figures, "s", setting.ranks)


def growth(count: int) -> None:
    """Show what memory rank 0 uses while so many elements are read, and the rate against that of a range."""
    import handoff_mpi as handoff

    begun = 0.0

    def tell(elements: int) -> float:
        rate = elements / max(time.perf_counter() - begun, 1e-9)
        print(f"{elements:12,} elements: rank 0 {rss_mb():7.1f} MB, {rate:12,.0f}/s", flush=True)
        return rate

    def numbers() -> Iterator[int]:
        for tenth in range(10):
            tell(count * tenth // 10)
            for number in range(count * tenth // 10, count * (tenth + 1) // 10):
                yield number + 0  # as a user's generator, a step of Python for each

    with handoff.Cluster() as cluster:
        if not cluster:
            return
        rates = {}
        asked = (("warm", range(WINDOW), {}), ("window", numbers(), {"window": WINDOW}), ("range", range(count), {}))
        for name, elements, options in asked:
            with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
                dag = handoff.DAG("growth")
                dag.map(no_op, elements, **options)  # type: ignore[call-overload]
                begun = time.perf_counter()
                cluster.execute(dag, isolation="rank", slots=1, run_dir=place)
                rates[name] = tell(len(elements) if isinstance(elements, range) else count)
        print(f"a window ÷ a range: {rates['window'] / rates['range']:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["growth"]:
        growth(int(sys.argv[2]))
    else:
        arguments(__spec__.name, __doc__, ask)
