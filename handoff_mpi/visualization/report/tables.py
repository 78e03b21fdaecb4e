"""The tables of the page: what the charts show, in words and numbers, and what no chart shows."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.formatting import duration_text, one_line, without_controls
from handoff_mpi.messages import INLINE_RESULT_NBYTES
from handoff_mpi.results.failure_groups import group_key
from handoff_mpi.results.story import DONE, OUTCOMES, RUNNING, Floats, Story, groups_of

#: Rows of the tables, and names of functions in the table of failures.
MAX_ROWS, MAX_FAILURES, MAX_IDS = 100, 50, 5
_PLACE = re.compile(r'File "(.+?)", line (\d+)')
_MAX_TRACEBACK = 8_000

#: Causes of waiting, by the name of the field of :class:`~handoff_mpi.results.story.Waits`.
CAUSES = {
    "inputs": ("inputs were not made", "from the begin of the launch until the last input was made"),
    "slots": ("slots were busy", "ready, until it was sent to a rank: slots, resources or limits kept it"),
    "queue": ("in a rank's queue", "on its rank, while the slot was in the call before it"),
    "transfer": ("inputs were on their way", "on its rank with a free slot: fetching and decoding inputs"),
    "retry": ("to be tried again", "from the end of the attempt before it"),
}


@dataclass(slots=True)
class NameRow:
    """All calls of the functions with one name; times in seconds."""

    name: str
    functions: int
    calls: int
    total_s: float
    mean_s: float
    median_s: float
    p95_s: float
    longest_s: float
    failed: int
    again: int
    waited: dict[str, float]


def name_rows(story: Story) -> list[NameRow]:
    """Return a row for each name, those that took most time first."""
    calls, tasks = story.calls, story.tasks
    waits = {cause: getattr(story.waits, cause) for cause in CAUSES}
    functions = np.bincount(tasks.name, minlength=len(tasks.names))
    name = tasks.name[calls.task]
    rows = []
    for group in groups_of(name) if len(calls) else ():
        durations = calls.duration[group]
        median, p95 = np.percentile(durations, (50, 95)).tolist()
        number = int(name[group[0]])
        rows.append(
            NameRow(
                tasks.names[number],
                int(functions[number]),
                len(group),
                float(durations.sum()),
                float(durations.mean()),
                median,
                p95,
                float(durations.max()),
                int(((calls.outcome[group] != DONE) & (calls.outcome[group] != RUNNING)).sum()),
                int((calls.attempt[group] > 1).sum()),
                {cause: float(waited[group].sum()) for cause, waited in waits.items()},
            )
        )
    return sorted(rows, key=lambda row: -row.total_s)


@dataclass(slots=True)
class CallRow:
    """One call in a table."""

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
    )


@dataclass(slots=True)
class FailureRow:
    """Calls that failed alike.

    Attributes:
        kind, place, message, traceback: of the first.
        calls: how many calls failed so.
        functions: ids of the first functions, and ``more``: of how many others.
        names, ranks: of the calls.
        first: the row of the first call; -1 if a function failed without any.
        output: what that call printed; empty if that is not known.
    """

    kind: str
    place: str
    message: str
    traceback: str
    calls: int = 0
    functions: list[str] = field(default_factory=list)
    more: int = 0
    names: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    first: int = -1
    output: str = ""


def failure_rows(story: Story) -> list[FailureRow]:
    """Return a row for each way in which calls failed, the most frequent first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, failure in enumerate(story.failures):
        place = _place_of(failure.traceback)
        groups.setdefault(group_key(failure.kind, place, failure.message), []).append(number)
    of_group = np.full(len(story.failures) + 1, -1)
    for group, numbers in enumerate(groups.values()):
        of_group[numbers] = group
    calls = story.calls
    failed = np.flatnonzero(calls.failure >= 0)
    by_group = {}
    if len(failed):
        group_of = of_group[calls.failure[failed]]
        by_group = {int(group_of[rows[0]]): failed[rows] for rows in groups_of(group_of)}
    rows = [
        _failure_row(story, numbers, by_group.get(group, failed[:0])) for group, numbers in enumerate(groups.values())
    ]
    return sorted(rows, key=lambda row: -row.calls)


def _place_of(traceback: str) -> str:
    found = _PLACE.findall(traceback)
    return f"{found[-1][0]}:{found[-1][1]}" if found else ""


def _failure_row(story: Story, numbers: list[int], rows: NDArray[Any]) -> FailureRow:
    calls, tasks = story.calls, story.tasks
    first = story.failures[numbers[0]]
    who = list(dict.fromkeys(calls.task[rows].tolist()))
    return FailureRow(
        one_line(first.kind, 100),
        one_line(_place_of(first.traceback), 300),
        without_controls(first.message),
        without_controls(_cut(first.traceback)),
        sum(story.failure_counts[number] for number in numbers),
        [tasks.label(task) for task in who[:MAX_IDS]],
        max(0, len(who) - MAX_IDS),
        sorted({tasks.name_of(task) for task in who[:1000]}),
        sorted(set(calls.rank[rows].tolist())),
        int(rows[0]) if len(rows) else -1,
    )


def _cut(text: str) -> str:
    half = _MAX_TRACEBACK // 2
    return text if len(text) <= _MAX_TRACEBACK else f"{text[:half]}\n...\n{text[-half:]}"


@dataclass(slots=True)
class LossRow:
    """The loss of a rank, or its silence."""

    launch: int
    rank: int
    host: str
    what: str
    when: str
    at: float | None
    reason: str
    calls: int


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
            rows.append(
                LossRow(launch.epoch, event.rank, story.host(number, event.rank), event.what, when, at, reason, cut)
            )
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
    made = np.bincount(story.calls.launch, minlength=len(story.launches)).tolist()
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
                launch.functions,
                launch.restored,
                made[number],
                len(launch.lost_ranks),
                launch.verdict,
            )
        )
    return rows


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
    """

    values: int
    nbytes: int
    via_rank_0: int
    pairs: list[tuple[int, int, int, int]]


def transfers_of(story: Story) -> Transfers:
    """Return what follows from where functions ran; nobody measures it."""
    tasks, calls, final = story.tasks, story.calls, story.final_call
    users = np.repeat(np.arange(len(tasks)), np.diff(tasks.starts))
    makes, uses = final[tasks.inputs], final[users]
    is_known = (makes >= 0) & (uses >= 0)
    makes, uses, made = makes[is_known], uses[is_known], tasks.inputs[is_known]
    is_apart = (calls.rank[makes] != calls.rank[uses]) & (calls.outcome[makes] == DONE)
    makes, uses, made = makes[is_apart], uses[is_apart], made[is_apart]
    if not len(makes):
        return Transfers(0, 0, 0, [])
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
    return Transfers(len(makes), int(nbytes.sum()), int((nbytes <= INLINE_RESULT_NBYTES).sum()), pairs)


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
    final: Floats = calls.duration[[row for row in story.final_call[path].tolist() if row >= 0]]
    is_bad = (calls.outcome != DONE) & (calls.outcome != RUNNING)
    kinds = Counter(OUTCOMES[each] for each in calls.outcome[is_bad].tolist())
    return {
        "ran_s": ran_s,
        "busy_s": busy_s,
        "use": busy_s / slots_s if slots_s else None,
        "calls": len(calls),
        "path_s": float(final.sum()),
        "path": len(path),
        "ended_badly": dict(kinds),
    }
