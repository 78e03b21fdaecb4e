"""Journals of runs that never were, of any size, for the tests of what reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handoff_mpi.results.journal import Journal
from handoff_mpi.serialization import NOTHING

T0 = 1_800_000_000.0
TRACEBACK = 'Traceback (most recent call last):\n  File "dag.py", line 7, in fit\nValueError: no\n'


def about(ranks: int = 2, slots: int = 1, started_s: float = T0, **more: Any) -> dict[str, Any]:
    """Return what a launch says of its run."""
    hosts = {rank: f"node{rank * 4 // (ranks + 1)}" for rank in range(ranks + 1)}
    capacity = {"cpu": ranks * slots, "memory": 1000 * ranks}
    shape = {"hosts": hosts, "slots": dict.fromkeys(range(1, ranks + 1), slots), "capacity": capacity}
    return {"dag_id": "made", "run": "r", "launch": 1, "started_s": started_s, **shape, **more}


def row(id: Any, name: str = "f", inputs: Sequence[int] = (), **cost: float) -> tuple[Any, ...]:
    """Return a row of the table of tasks."""
    return (id, b"", name, tuple(inputs), cost or {"cpu": 1})


def done(task: int, rank: int, started: float, duration: float, attempt: int = 1, nbytes: int = 8) -> tuple[Any, ...]:
    """Return a call that ended well; times count from T0."""
    return (task, attempt, rank, T0 + started, duration, nbytes, NOTHING, None)


def turn(at: float, sent: Any = (), done: Any = (), failed: Any = (), incidents: Any = ()) -> tuple[Any, ...]:
    """Return what a turn of the scheduler learnt, ``at`` seconds after T0."""
    return ("turn", list(sent), list(done), list(failed), list(incidents), T0 + at)


def write_launch(run_dir: Path, *records: tuple[Any, ...]) -> None:
    """Add a launch to the journal of ``run_dir``."""
    run_dir.mkdir(exist_ok=True, mode=0o755)
    with Journal(run_dir) as journal:
        for each in records:
            journal.append(each)
            journal.commit()


def write_status(run_dir: Path, **fields: Any) -> None:
    """Write the ``status.json`` of ``run_dir``."""
    (run_dir / "status.json").write_text(json.dumps(fields))


def write_large(run_dir: Path, count: int, ranks: int = 32, slots: int = 2, seed: int = 1) -> None:
    """Write a run of ``count`` calls: stages of functions with a heavy tail of durations, failures and retries."""
    rng = random.Random(seed)
    records: list[tuple[Any, ...]] = [("run", about(ranks, slots))]
    rows = []
    for task in range(count):
        stage = task % 4
        inputs = () if stage == 0 else (task - 1,)
        if task == count - 1:
            inputs = tuple(range(3, count - 1, max(4, count // 1000 // 4 * 4)))
        rows.append(row(f"{('load', 'clean', 'fit', 'score')[stage]}-{task // 4}", f"stage{stage}", inputs, cpu=1))
    records += [("tasks", first, rows[first : first + 10_000]) for first in range(0, count, 10_000)]
    records.append(("traceback", 0, TRACEBACK))
    free = {(rank, slot): 0.01 for rank in range(1, ranks + 1) for slot in range(slots)}
    places = list(free)
    sent: list[Any] = []
    ended: list[Any] = []
    failed: list[Any] = []
    for task in range(count):
        place = places[task // 4 % len(places)]
        rank = place[0]
        start = free[place] + 0.0005
        took = rng.expovariate(20.0) * (1 + task % 4) * (40 if rng.random() < 0.001 else 1)
        sent.append((task, 1, rank))
        attempt = 1
        if rng.random() < 0.002:
            failed.append((task, 1, rank, 1, "ValueError", f"no {task % 7}", T0 + start, took / 2, 0))
            start, attempt = start + took, 2
        ended.append(done(task, rank, start, took, attempt, rng.randrange(10_000)))
        free[place] = start + took
        if len(ended) >= 20 or task == count - 1:
            at = min(each[3] for each in ended) - T0 - 0.0004
            records.append(turn(at, sent))
            records.append(turn(max(each[3] + each[4] for each in ended) - T0, (), ended, failed))
            sent, ended, failed = [], [], []
    records.append(("end", "done", 0, False))
    write_launch(run_dir, *records)
    write_status(run_dir, status="done", exit_code=0, launch=1, duration_s=max(free.values()), functions=count)
