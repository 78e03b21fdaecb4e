"""The whole job killed at random moments, supervisor and all; does the same command resume, and run nothing twice?

    python -m tests.faults.kill_job [--kills 50] [--functions 500] [--seconds 0.02] [--seed 1]

A run of functions is started, killed by SIGKILL at a random moment, started again with the same command (every other
time with another number of ranks), and so on until it ends; then the next run, until there were enough kills.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import handoff_mpi
from handoff_mpi.results.history import read_history
from handoff_mpi.results.status_file import read_status
from handoff_mpi.results.store import DirectoryStore
from tests.faults import layers
from tests.faults.launching import fresh, launch

DAG = Path(__file__).with_name("layers.py")
LIMIT_S = 120.0
RANKS = (4, 2, 3, 5, 1)


@dataclass
class Tally:
    """The observations of a run.

    Attributes:
        kills: how often a job was killed.
        early: how many of those kills came before the run had begun.
        runs: how many runs came to their end.
        calls, again: calls that ended, and how many of them were of functions that had ended before.
        problems: what was not as promised.
    """

    kills: int = 0
    early: int = 0
    other_ranks: int = 0
    runs: int = 0
    calls: int = 0
    again: int = 0
    problems: list[str] = field(default_factory=list)


def carry_out(
    directory: Path, functions: int, seconds: float, most_kills: int, rng: random.Random, tally: Tally
) -> None:
    """Carry one run to its end, killing it ``most_kills`` times at most."""
    fresh(directory)
    run_dir, log = directory / "run", directory / "log"
    ranks, kept, seen = RANKS[0], set[str](), 0
    span = 2.0 + functions * seconds / 2
    for attempt in range(most_kills + 1):
        if attempt % 2:
            ranks = rng.choice([each for each in RANKS if each != ranks])
            tally.other_ranks += 1
        words = ["-m", "handoff_mpi", "run", "-n", str(ranks), "--run-dir", str(run_dir), str(DAG)]
        launched = launch([sys.executable, *words, "--", str(functions), str(seconds), str(log)], directory)
        if attempt < most_kills:
            _let_live(launched.process, rng.uniform(0.0, span))
        else:
            launched.wait(LIMIT_S)
        is_killed = launched.process.poll() is None
        launched.kill()
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        ran, seen = lines[seen:], len(lines)
        twice = kept.intersection(ran)
        if twice:
            tally.problems.append(f"ran again although their values were kept: {sorted(twice)[:5]}")
        kept = values_kept(run_dir)
        if not is_killed:
            break
        tally.kills += 1
        tally.early += not ran
    code = read_status(run_dir).get("exit_code")
    if code != 0:
        tally.problems.append(f"a run ended with {code}: {launched.text()[-500:]}")
    elif handoff_mpi.load(run_dir)["sum"] != layers.expected(functions):
        tally.problems.append("a run ended with a wrong value")
    tally.runs += 1
    tally.calls += len(lines)
    tally.again += sum(count - 1 for count in Counter(lines).values())


def _let_live(process, seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def values_kept(run_dir: Path) -> set[str]:
    """Return the functions whose values a launch that follows can read, as they call themselves in the log."""
    if not run_dir.exists():
        return set()
    store = DirectoryStore(run_dir / "values")
    done = read_history(run_dir).done
    return {
        f"{id[0]} {id[1]}"
        for (id, _), each in done.items()
        if id != "sum" and (each.payload is not None or (each.key is not None and store.is_intact(each.key)))
    }


def main(words: list[str]) -> int:
    """Print what was seen; return 1 if something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill_job", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--functions", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    tally, rng = Tally(), random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="handoff-faults-") as place:
        while tally.kills < given.kills and not tally.problems:
            left = given.kills - tally.kills
            carry_out(Path(place, "cell"), given.functions, given.seconds, min(left, rng.randint(1, 8)), rng, tally)
    print(
        f"{tally.kills} kills ({tally.early} before a first call had ended), {tally.other_ranks} resumes with another "
        f"number of ranks, {tally.runs} runs to their end"
    )
    print(
        f"{tally.calls} calls, {tally.again} of them again, since their end was not yet in the journal, or their "
        "value not kept"
    )
    print("\n".join(tally.problems) or "all values right; no function ran again whose value was kept")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
