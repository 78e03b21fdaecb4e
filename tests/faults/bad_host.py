"""A bad host for real: 4 of 6 worker ranks are on a host where every call raises, and 200 functions must not suffer.

``python -m tests.faults.bad_host`` shows what each strategy makes of it, by the time that the good ranks alone need.
The two hosts are one machine: each rank says by HANDOFF_HOST where it believes to be.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from handoff_mpi import load
from tests.conftest import mpirun_command, run_process

#: What each rank runs: rank 0 and two workers are on one host, four workers on the other.
RANK = """
import os, runpy
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
os.environ["HANDOFF_HOST"] = "good" if rank < 3 else "bad"
os.environ["HANDOFF_CORES"] = "2" if rank < 3 else "4"
runpy.run_module("handoff_mpi", run_name="__main__", alter_sys=True)
"""
DAG = """
import os, time
from handoff_mpi import DAG, Function

def call(number, seconds, delay):
    if os.environ["HANDOFF_HOST"] == "bad":
        time.sleep(delay)
        raise OSError("the disk of this host is broken")
    time.sleep(seconds)
    return number

def build(args):
    count, seconds, delay = int(args[0]), float(args[1]), float(args[2])
    dag = DAG("bad host")
    for number in range(count):
        dag.add_function(Function(id=number, code=call, extra_args=[number, seconds, delay]))
    return dag
"""
STRATEGIES = ("first_available", "load_balanced", "cost_optimized")


@dataclass
class Ending:
    """How a run ended: its time by the ideal time of the good ranks, the functions that failed, and what it said."""

    code: int
    ratio: float
    failed: int
    most_attempts: int
    probation: dict[str, str]
    said: str


def run(
    directory: Path, strategy: str = STRATEGIES[0], retries: int = 3, count: int = 200, seconds=0.05, delay=0.0
) -> Ending:
    """Run ``count`` functions of ``seconds``, which fail after ``delay`` on the bad host."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "dag.py").write_text(DAG)
    (directory / "rank.py").write_text(RANK)
    options = ["--allocation-strategy", strategy, "--max-retries", str(retries), "--run-dir", "run"]
    command = [*mpirun_command(7, ft=True), sys.executable, "rank.py", "run", *options, "dag.py", "--"]
    ended = run_process([*command, str(count), str(seconds), str(delay)], directory, 120)
    results = load(directory / "run")
    starts = [record.started_s for record in results.records() if record.started_s]
    stops = [record.stopped_s for record in results.records() if record.stopped_s]
    ratio = (max(stops) - min(starts)) / (count * seconds / 2)
    attempts = max(record.attempts for record in results.records())
    probation = getattr(results, "probation", {})
    return Ending(ended.rc, ratio, results.counts()["failed"], attempts, probation, ended.out + ended.err)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for delay in (0.0, 0.2):
            for retries in (3, 0):
                for strategy in STRATEGIES:
                    directory = Path(scratch) / f"{strategy}-{retries}-{delay}"
                    ending = run(directory, strategy, retries, delay=delay)
                    print(
                        f"{strategy:16} max_retries {retries}, fails after {delay} s: {ending.ratio:.2f} of ideal, "
                        f"{ending.failed} failed for good, at most {ending.most_attempts} attempts; {ending.probation}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
