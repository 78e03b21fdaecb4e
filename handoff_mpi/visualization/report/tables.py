"""The tables of the page: what the charts show, in words and numbers, and what no chart shows."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from handoff_mpi.formatting import duration_text, one_line
from handoff_mpi.messages import INLINE_RESULT_NBYTES
from handoff_mpi.results.story import DONE, FAILED, OUTCOMES, RUNNING, LaunchStory, Story

#: Rows of the tables.
MAX_ROWS, MAX_PATH = 100, 200

#: Causes of waiting, by the name of the field of :class:`~handoff_mpi.results.story.Waits`.
CAUSES = {
    "inputs": ("inputs were not made", "from the begin of the launch until the last input was made"),
    "slots": ("slots were busy", "ready, until it was sent to a rank: slots, resources or limits kept it"),
    "queue": ("in a rank's queue", "on its rank, while the slot was in the call before it"),
    "transfer": ("inputs were on their way", "on its rank with a free slot: fetching and decoding inputs"),
    "retry": ("to be tried again", "from the end of the attempt before it"),
}


@dataclass(slots=True)
class CallRow:
    """One call in a table, or a lease of ``elements`` of an array."""

    label: str
    name: str
    rank: int
    host: str
    launch: int
    attempt: int
    started_s: float
    duration_s: float
    outcome: str
    nbytes: int
    is_derived: bool
    elements: int


def slowest_calls(story: Story) -> list[CallRow]:
    """Return the longest calls, the longest first."""
    durations = story.calls.duration
    rows = np.argsort(-durations, kind="stable")[:MAX_ROWS]
    return [call_row(story, row) for row in rows.tolist()]


def call_row(story: Story, row: int) -> CallRow:
    """Return one call for a table; its start counts from the begin of its launch."""
    calls, tasks = story.calls, story.tasks
    task, launch, rank = int(calls.task[row]), int(calls.launch[row]), int(calls.rank[row])
    return CallRow(
        tasks.label(task),
        tasks.name_of(task),
        rank,
        story.host(launch, rank),
        story.launches[launch].epoch,
        int(calls.attempt[row]),
        float(calls.started[row]) - story.launches[launch].started_s,
        float(calls.duration[row]),
        OUTCOMES[calls.outcome[row]],
        int(calls.nbytes[row]),
        bool(calls.is_derived[row]),
        int(calls.elements[row]),
    )


def path_rows(story: Story) -> list[CallRow]:
    """Return the calls of the longest path, of arrays one element; nothing if one of them was not called."""
    path, rows = story.critical_path, []
    if not (story.final_call[path] >= 0).all():
        return []
    for task in path[:MAX_PATH]:
        row = call_row(story, int(story.final_call[task]))
        if row.elements:
            row.elements, row.duration_s = 1, float(story.path_durations[task])
            row.rank, row.host = -1, ""
        rows.append(row)
    return rows


@dataclass(slots=True)
class LossRow:
    """The loss of a rank, or its silence; ``elements`` were computed by other ranks because of all its losses."""

    launch: int
    rank: int
    host: str
    what: str
    when: str
    at: float | None
    reason: str
    calls: int
    elements: int


def loss_rows(story: Story) -> list[LossRow]:
    """Return what became of ranks, in order; of lost ones with how many calls they took with them."""
    calls, rows = story.calls, []
    for number, launch in enumerate(story.launches):
        for event in launch.rank_events:
            of_rank = (calls.launch == number) & (calls.rank == event.rank)
            cut = int((of_rank & (calls.outcome != DONE) & calls.is_derived).sum()) if event.what == "lost" else 0
            at = None if event.time_s is None else event.time_s - launch.started_s
            when = "" if at is None else f"{duration_text(at)} after the begin of the launch"
            reason = one_line(event.reason, 300)
            elements = story.taken_back.get((number, event.rank), 0) if event.what == "lost" else 0
            host = story.host(number, event.rank)
            rows.append(LossRow(launch.epoch, event.rank, host, event.what, when, at, reason, cut, elements))
    return rows


@dataclass(slots=True)
class LaunchRow:
    """One launch in the table of launches."""

    epoch: int
    began: str
    duration: str
    gap: str
    ranks: int
    hosts: int
    slots: int
    functions: int
    restored: int
    calls: int
    lost: int
    verdict: str


def launch_rows(story: Story, gaps_s: list[float]) -> list[LaunchRow]:
    """Return a row for each launch."""
    rows = []
    is_call = story.calls.elements == 0
    made = np.bincount(story.calls.launch[is_call], minlength=len(story.launches)).tolist()
    for (launch_number, _), attempts in story.attempts.items():
        made[launch_number] += attempts.done + attempts.failed
    for number, launch in enumerate(story.launches):
        rows.append(
            LaunchRow(
                launch.epoch,
                date_text(launch.started_s),
                duration_text(launch.stopped_s - launch.started_s),
                duration_text(gaps_s[number - 1]) if number else "",
                len(launch.hosts),
                len(set(launch.hosts.values())),
                sum(launch.slots.values()),
                _told(launch, "functions", launch.functions),
                _told(launch, "restored", launch.restored),
                made[number],
                len(launch.lost_ranks),
                launch.verdict,
            )
        )
    return rows


def _told(launch: LaunchStory, name: str, otherwise: int) -> int:
    """Return what a launch has counted at its begin, elements of arrays among it."""
    count = launch.about.get(name)
    return count if type(count) is int else otherwise


def date_text(time_s: float) -> str:
    """Return a time of day with its date, as clocks here show it."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))
    except (OverflowError, ValueError, OSError):
        return "unknown"


@dataclass(slots=True)
class Transfers:
    """Values that a function on another rank used than the one that made them, once for each such rank.

    Attributes:
        values, nbytes: how many there were, and how large they were together.
        via_rank_0: how many of them are small, so that they travelled by way of rank 0.
        pairs: (from, to, values, bytes), the largest first.
        has_arrays: whether arrays take values, or give some; which rank computed which of their elements is not told.
    """

    values: int
    nbytes: int
    via_rank_0: int
    pairs: list[tuple[int, int, int, int]]
    has_arrays: bool = False


def transfers_of(story: Story) -> Transfers:
    """Return what follows from where functions ran; nobody measures it."""
    tasks, calls, final = story.tasks, story.calls, story.final_call
    users = np.repeat(np.arange(len(tasks)), np.diff(tasks.starts))
    makes, uses = final[tasks.inputs], final[users]
    is_array = np.zeros(len(tasks), bool)
    is_array[[*story.elements]] = True
    of_array = is_array[tasks.inputs] | is_array[users]
    has_arrays = bool(of_array.any())
    is_known = (makes >= 0) & (uses >= 0) & ~of_array
    makes, uses, made = makes[is_known], uses[is_known], tasks.inputs[is_known]
    is_apart = (calls.rank[makes] != calls.rank[uses]) & (calls.outcome[makes] == DONE)
    makes, uses, made = makes[is_apart], uses[is_apart], made[is_apart]
    if not len(makes):
        return Transfers(0, 0, 0, [], has_arrays)
    span = int(calls.rank.max()) + 2
    key = made.astype(np.int64) * span + calls.rank[uses]
    _, once = np.unique(key, return_index=True)
    makes, uses = makes[once], uses[once]
    nbytes = calls.nbytes[makes]
    pair = calls.rank[makes].astype(np.int64) * span + calls.rank[uses]
    found, where = np.unique(pair, return_inverse=True)
    counts, sizes = np.bincount(where), np.bincount(where, nbytes)
    order = np.argsort(-sizes, kind="stable")[:MAX_ROWS]
    pairs = [
        (int(found[each] // span), int(found[each] % span), int(counts[each]), int(sizes[each]))
        for each in order.tolist()
    ]
    return Transfers(len(makes), int(nbytes.sum()), int((nbytes <= INLINE_RESULT_NBYTES).sum()), pairs, has_arrays)


def state_counts(story: Story) -> dict[str, int]:
    """Return how many functions and elements are in each state, of those of the newest launch."""
    return {state: count for state, count in story.counts.items() if count or state == "done"}


def totals(story: Story) -> dict[str, Any]:
    """Return the figures of the summary, in seconds."""
    calls = story.calls
    ran_s = sum(launch.stopped_s - launch.started_s for launch in story.launches)
    slots_s = sum((each.stopped_s - each.started_s) * sum(each.slots.values()) for each in story.launches)
    busy_s = float(calls.duration.sum())
    path = story.critical_path
    is_bad = (calls.outcome != DONE) & (calls.outcome != RUNNING)
    kinds = Counter(OUTCOMES[each] for each in calls.outcome[is_bad].tolist())
    attempts = story.attempts.values()
    failed = sum(each.failed for each in attempts)
    if failed:
        kinds[OUTCOMES[FAILED]] += failed
    leases = int((calls.elements > 0).sum())
    return {
        "ran_s": ran_s,
        "busy_s": busy_s,
        "use": busy_s / slots_s if slots_s else None,
        "calls": len(calls) - leases + sum(each.done + each.failed for each in attempts),
        "leases": leases,
        "untimed": max(0, sum(each.done + each.failed for each in attempts) - int(calls.elements.sum())),
        "bars": len(calls),
        "has_elements": bool(story.elements),
        "waits": int(story.waits.is_known.sum()),
        "path_s": float(story.path_durations[path].sum()),
        "path": len(path),
        "ended_badly": dict(kinds),
    }
