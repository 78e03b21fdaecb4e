"""How long it takes until the next function runs on another rank, when all have slept for as long as calls last.

    python -m tests.benchmarks.handover [--repeats 5] [--json FILE]

A chain of calls that each take 20 ms, by turns on two ranks, beyond those 20 ms. The bare loop's ranks wait in a
blocking receive, each burning its core; ours sleep, and are woken.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, report, run, under_mpi

RAW = "bare mpi4py loop"
RANKS = 3
CALL_S = 0.02
ROW = "beyond the call"


def ask(setting: Setting) -> Answer:
    calls = 20 if setting.quick else 100
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def excess_us(*words: str) -> dict[str, float]:
            seconds = run(under_mpi(RANKS, *words, calls), Path(place))["seconds"]
            return {ROW: (seconds / calls - CALL_S) * 1e6}

        contenders = {RAW: lambda: excess_us("raw", "relay"), "handoff_mpi": lambda: excess_us("handover", "ours")}
        figures = in_turns(contenders, setting.repeats)
    return Answer("from a call of 20 ms to the next, on another rank", RAW, figures, "µs", RANKS)


def nap(*values: object) -> None:
    time.sleep(CALL_S)


def measure_ours(calls: int) -> None:
    """Report the seconds from the begin of the first call to the end of the last."""
    import handoff_mpi as handoff
    from handoff_mpi import DAG, Function

    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place, handoff.Cluster() as cluster:
        if not cluster:
            return
        dag = DAG("handover")
        for number in range(calls):
            dag.add_function(Function(number, [number - 1] if number else [], nap, node=1 + number % 2))
        records = list(cluster.execute(dag, isolation="rank", run_dir=f"{place}/run").records())
        starts = [record.started_s for record in records if record.started_s is not None]
        stops = [record.stopped_s for record in records if record.stopped_s is not None]
        report(seconds=max(stops) - min(starts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        measure_ours(int(sys.argv[2]))
    else:
        arguments(__spec__.name, __doc__, ask)
