"""A random worker killed every half second until two are left: is the result right, and what did it cost?

python -m tests.faults.kill_workers [--ranks 8] [--functions 2000] [--seconds 0.02] [--every 0.5] [--seed 1]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

import handoff_mpi
from handoff_mpi.results.status_file import read_status
from tests.faults import layers
from tests.faults.launching import Launched, fresh, launch

DAG = Path(__file__).with_name("layers.py")
WORKERS_LEFT = 2
LIMIT_S = 300.0


@dataclass
class Ended:
    """A run that ended.

    Attributes:
        code: its exit code; None if it hung.
        duration_s: of the run itself, without the launch.
        is_right: whether its value is.
        killed: (launch, rank) of each that was killed.
        lost: (launch, rank) of each that the run says it lost.
        launches: how often it was launched; once, since MPI survives the death of a worker.
        calls: how many calls were begun; more than functions, since results are computed again.
        leftovers: processes that were left behind.
    """

    code: int | None
    duration_s: float
    is_right: bool
    killed: list[tuple[int, int]]
    lost: list[tuple[int, int]]
    launches: int
    calls: int
    leftovers: list[str]


def run(directory: Path, ranks: int, functions: int, seconds: float, every: float | None, seed: int = 1) -> Ended:
    """Run the DAG of layers; kill a random worker ``every`` so many seconds, if that is not None."""
    fresh(directory)
    words = ["-m", "handoff_mpi", "run", "-n", str(ranks), "--isolation", "rank", "--run-dir", "run", str(DAG)]
    launched = launch([sys.executable, *words, "--", str(functions), str(seconds)], directory)
    killed = [] if every is None else _kill_workers(launched, directory, every, random.Random(seed))
    code = launched.wait(LIMIT_S)
    leftovers = launched.leftovers()
    status = read_status(directory / "run")
    results = handoff_mpi.load(directory / "run")
    launches = int(status.get("launch", 0))
    lost = {**results.lost_ranks_before, launches: results.lost_ranks}
    return Ended(
        code,
        status.get("duration_s") or launched.seconds,
        code == 0 and results["sum"] == layers.expected(functions),
        sorted(killed),
        [(launch, rank) for launch, ranks in sorted(lost.items()) for rank in sorted(ranks)],
        launches,
        sum(record.attempts for record in results.records()),
        leftovers,
    )


def _kill_workers(launched: Launched, directory: Path, every: float, rng: random.Random) -> list[tuple[int, int]]:
    """Kill one worker after the other once the run has begun; return in which launch, and which rank."""
    while (status := read_status(directory / "run")).get("status") != "running" and launched.process.poll() is None:
        time.sleep(0.05)
    workers = {rank: process for rank, process in launched.ranks().items() if rank}
    killed: list[tuple[int, int]] = []
    while len(workers) > WORKERS_LEFT:
        time.sleep(every)
        if read_status(directory / "run").get("status") != "running":  # it is over, or launched again
            break
        rank = rng.choice(sorted(workers))
        try:
            workers.pop(rank).kill()
            killed.append((status["launch"], rank))
        except psutil.NoSuchProcess:
            break
    return killed


def main(words: list[str]) -> int:
    """Print a table; return 1 if something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill_workers", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--functions", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--every", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    heads = ("run", "exit code", "value", "launches", "ranks killed", "ranks lost", "calls", "seconds", "left behind")
    table = Table(*heads)
    with tempfile.TemporaryDirectory(prefix="handoff-faults-") as place:
        sizes = (Path(place, "cell"), given.ranks, given.functions, given.seconds)
        quiet, hurt = run(*sizes, None), run(*sizes, given.every, given.seed)
    for name, ended in (("undisturbed", quiet), ("workers killed", hurt)):
        value = "right" if ended.is_right else "WRONG"
        ranks = ([rank for _, rank in ended.killed], [rank for _, rank in ended.lost])
        figures = (value, ended.launches, *ranks, ended.calls, f"{ended.duration_s:.1f}", len(ended.leftovers))
        table.add_row(name, str(ended.code), *map(str, figures))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    # With the workers that live at each moment, the same calls could not end before this.
    rest = given.functions * given.seconds
    begun = 0.0
    for alive in range(given.ranks - 1, WORKERS_LEFT, -1):
        rest -= alive * given.every
        begun += given.every
    bound = begun + rest / WORKERS_LEFT
    print(f"time against undisturbed: {hurt.duration_s / quiet.duration_s:.2f}; against the least possible with the")
    print(f"workers that were left at each moment ({bound:.1f} s): {hurt.duration_s / bound:.2f}")
    is_good = all(ended.is_right and ended.launches == 1 and not ended.leftovers for ended in (quiet, hurt))
    return 0 if is_good and hurt.lost == hurt.killed != [] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
