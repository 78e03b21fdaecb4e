"""Whether throughput and memory hold from ten thousand functions to a million.

    python -m tests.benchmarks.functions [--ranks 3] [--repeats 5] [--json FILE]

Each number is run by a job of its own, once warmed by a few functions. Bytes of rank 0 a function: the most memory
that its process had resident during the run, less what was resident when the DAG's objects, which are the user's own,
existed and the run had not begun; ÷ functions. What a run needs however few functions it has is in it, so that small
numbers look worse.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.contender import WARM_UP, timed
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, report, run, under_mpi
from tests.benchmarks.ours import in_ranks
from tests.benchmarks.workloads import independent

COUNTS = (10_000, 100_000, 1_000_000)
RATE, NBYTES = "no-ops a second", "bytes of rank 0 a function"


def ask(setting: Setting) -> Answer:
    counts = COUNTS[:-1] if setting.quick else COUNTS
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def measure(count: int) -> dict[str, float]:
            seen = run(under_mpi(setting.ranks, "functions", "ours", count), Path(place))
            return {RATE: count / seen["seconds"], NBYTES: seen["grown_nbytes"] / count}

        contenders = {f"{count:,}": (lambda count=count: measure(count)) for count in counts}
        figures = in_turns(contenders, setting.repeats)
    return Answer("by the number of functions", f"{COUNTS[0]:,}", figures, "a second, bytes", setting.ranks)


def measure_ours(count: int) -> None:
    with in_ranks(0) as prepare:
        if prepare is None:
            return
        prepare(independent(WARM_UP), 0)()
        whole = prepare(independent(count), 0)
        gc.collect()
        forget_peak()
        before = resident_nbytes("VmRSS")
        seconds = timed(whole)
        report(seconds=seconds, grown_nbytes=resident_nbytes("VmHWM") - before)


def forget_peak() -> None:
    """Let the most memory that this process had resident be what it has now (proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_nbytes(what: str) -> int:
    """Return how much of this process is resident (VmRSS), or was at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not tell {what}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        measure_ours(int(sys.argv[2]))
    else:
        arguments(__spec__.name, __doc__, ask)
