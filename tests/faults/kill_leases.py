"""A long array whose workers and jobs are killed all the time: is each value right, and what runs again?

    python -m tests.faults.kill_leases [--elements 100000] [--seconds 0.001] [--every 0.5] [--jobs 4] [--seed 1]

A random worker is killed every half second while more than two are left, and the whole job some seconds after its
start, supervisor and all; then the same command resumes with another number of ranks. One element raises and one kills
its process: they alone must fail. An element may begin as often as it was leased, and none whose value is kept begins
again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

import handoff_mpi
from handoff_mpi.results.history import read_history
from handoff_mpi.results.journal_reader import read_journal
from handoff_mpi.results.status_file import read_status
from tests.faults.elements_dag import ARRAY, begun, killing, raising
from tests.faults.launching import Launched, fresh, launch

DAG = Path(__file__).with_name("elements_dag.py")
RANKS = (8, 5, 3, 6, 4)
WORKERS_LEFT = 2
CRASH_LIMIT = 2
LIMIT_S = 300.0


@dataclass
class Tally:
    """The observations of a run.

    Attributes:
        workers, jobs: how many were killed.
        again: how often an element began that had begun before.
        longest: elements of the longest lease.
        duration_s: of all launches together.
        problems: what was not as promised.
    """

    workers: int = 0
    jobs: int = 0
    again: int = 0
    longest: int = 0
    duration_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def carry_out(directory: Path, elements: int, seconds: float, every: float, jobs: int, seed: int = 1) -> Tally:
    """Carry one run to its end, killing a worker ``every`` so many seconds, and ``jobs`` jobs."""
    fresh(directory)
    rng, tally, began = random.Random(seed), Tally(), time.monotonic()
    run_dir, log = directory / "run", directory / "log"
    kept, seen = np.zeros(elements, bool), 0
    for number in range(jobs + 1):
        ranks = RANKS[number % len(RANKS)]
        words = ["run", "-n", str(ranks), "--isolation", "rank", "--crash-limit", str(CRASH_LIMIT)]
        words += ["--run-dir", str(run_dir), str(DAG), "--", str(elements), str(seconds), str(log)]
        launched = launch([sys.executable, "-m", "handoff_mpi", *words], directory)
        limit_s = rng.uniform(1.0, 4.0) if number < jobs else LIMIT_S
        _kill_workers(launched, run_dir, every, limit_s, rng, tally)
        is_killed = launched.process.poll() is None
        launched.kill()
        order = begun(log)
        twice = np.flatnonzero(kept & (np.bincount(order[seen:], minlength=elements) > 0))
        if len(twice):
            tally.problems.append(f"began again although their values were kept: {twice[:5].tolist()}")
        kept, seen = values_kept(run_dir, elements), len(order)
        if not is_killed:
            break
        tally.jobs += number < jobs
    tally.duration_s = time.monotonic() - began
    _look_at_end(run_dir, elements, np.bincount(begun(log), minlength=elements), launched, tally)
    return tally


def _kill_workers(
    launched: Launched, run_dir: Path, every: float, limit_s: float, rng: random.Random, tally: Tally
) -> None:
    """Kill one worker after the other once the run has begun, until it ends, or ``limit_s`` after it has begun."""
    end = time.monotonic() + LIMIT_S
    while not launched.ranks() or read_status(run_dir).get("status") != "running":
        if launched.process.poll() is not None or time.monotonic() > end:
            return
        time.sleep(0.02)
    end = time.monotonic() + limit_s
    while launched.process.poll() is None and time.monotonic() < end:
        time.sleep(min(every, max(0.0, end - time.monotonic())))
        workers = {rank: process for rank, process in launched.ranks().items() if rank}
        if len(workers) > WORKERS_LEFT:
            try:
                workers[rng.choice(sorted(workers))].kill()
                tally.workers += 1
            except psutil.NoSuchProcess:
                continue


def values_kept(run_dir: Path, elements: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which elements have values that a launch that follows can read."""
    kept = np.zeros(elements, bool)
    if run_dir.exists():
        for launches in read_history(run_dir).arrays.values():
            for each in launches:
                for intervals, *_ in each.parts:
                    for start, stop in intervals:
                        kept[start:stop] = True
    return kept


def leases(run_dir: Path, elements: int, tally: Tally) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return how often each element was leased."""
    counts = np.zeros(elements, np.int64)
    for segment in read_journal(run_dir).segments:
        for record in segment.records:
            for _, _, _, intervals in record[1] if record[0] == "leased" else ():
                tally.longest = max(tally.longest, sum(stop - start for start, stop in intervals))
                for start, stop in intervals:
                    counts[start:stop] += 1
    return counts


def _look_at_end(
    run_dir: Path, elements: int, calls: np.ndarray[tuple[int], np.dtype[np.int64]], launched: Launched, tally: Tally
) -> None:
    tally.again = int(np.maximum(calls - 1, 0).sum())
    too_often = np.flatnonzero(calls > leases(run_dir, elements, tally))
    if len(too_often):
        tally.problems.append(f"began more often than they were leased: {too_often[:5].tolist()}")
    code = read_status(run_dir).get("exit_code")
    if code != 1:
        tally.problems.append(f"the run ended with {code}, not with 1: {launched.text()[-800:]}")
        return
    result = handoff_mpi.load(run_dir)[ARRAY]
    failed = {index: error.kind for index, error in result.errors.items()}
    if failed != {raising(elements): "ValueError", killing(elements): "death"}:
        tally.problems.append(f"these elements failed: {failed}")
    wrong = [index for index in range(elements) if index not in failed and result.get(index) != 3 * index + 1]
    if wrong:
        tally.problems.append(f"values are wrong: {wrong[:5]}")


def main(words: list[str]) -> int:
    """Print what was seen; return 1 if something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill_leases", description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=0.001)
    parser.add_argument("--every", type=float, default=0.5)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="handoff-faults-") as place:
        tally = carry_out(Path(place, "cell"), given.elements, given.seconds, given.every, given.jobs, given.seed)
    print(f"{tally.workers} workers and {tally.jobs} jobs killed in {tally.duration_s:.0f} s")
    print(f"{tally.again:,} of {given.elements:,} elements began again; the longest lease had {tally.longest:,}")
    print("\n".join(tally.problems) or "all values right; the bad elements failed alone; nothing ran again needlessly")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
