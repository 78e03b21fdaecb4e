"""All launches of a run together, in columns: which call ran where and when, how it ended, and why it waited.

:func:`handoff_mpi.results.story_reader.read_story` makes a :class:`Story` of a run-dir. Each field of a call is an
element of an array, because a run may have made millions of calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.formatting import one_line, show
from handoff_mpi.results.lease_tally import Attempts, ElementFailure
from handoff_mpi.results.run_status import counts_told
from handoff_mpi.results.slot_lanes import OVERLAP_S, partition

Floats: TypeAlias = "NDArray[np.float64]"
Ints: TypeAlias = "NDArray[np.int32]"

#: How a call ended, by its code in :attr:`Calls.outcome`.
OUTCOMES = ("done", "failed", "timed out", "died", "rank lost", "cut off", "running")
DONE, FAILED, TIMED_OUT, DIED, RANK_LOST, CUT_OFF, RUNNING = range(len(OUTCOMES))
#: Where a task stands, by its code in :attr:`Tasks.state`.
STATES = ("waiting", "running", "done", "failed", "skipped")
WAITING_STATE, RUNNING_STATE, DONE_STATE, FAILED_STATE, SKIPPED_STATE = range(len(STATES))

#: Characters of an id or a name as it is shown.
MAX_LABEL = 120


class Failure(NamedTuple):
    """Why calls failed: one of these for all calls with the same kind, message and traceback."""

    kind: str
    message: str
    traceback: str


@dataclass(slots=True)
class Tasks:
    """The functions of all launches, those of the newest one first.

    Attributes:
        ids: the function's id.
        names: the names of codes, as they are printed, and ``name``: the index of each task's there.
        costs: the different costs, and ``cost``: the index of each task's there.
        state: an index of :data:`STATES`, after the newest launch.
        starts, inputs: task ``t`` takes the values of the tasks ``inputs[starts[t]:starts[t + 1]]``.
    """

    ids: list[Hashable]
    names: list[str]
    name: Ints
    costs: list[dict[str, object]]
    cost: Ints
    state: NDArray[np.int8]
    starts: NDArray[np.int64]
    inputs: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def inputs_of(self, task: int) -> Ints:
        """Return the tasks whose values ``task`` takes."""
        return self.inputs[self.starts[task] : self.starts[task + 1]]

    def label(self, task: int) -> str:
        """Return a task's id on one line of printable characters: strings as they are."""
        id = self.ids[task]
        return one_line(str.__str__(id), MAX_LABEL) if isinstance(id, str) else show(id, MAX_LABEL)

    def name_of(self, task: int) -> str:
        """Return the name of a task's code."""
        return self.names[int(self.name[task])]


@dataclass(slots=True)
class Calls:
    """All calls of all launches, one row a call, sorted by start.

    Attributes:
        task: a row of :class:`Tasks`.
        launch: an index of :attr:`Story.launches`.
        attempt: number of the call of that task in that launch, from 1.
        rank: where it ran.
        started: in seconds since the epoch, by the clock of its rank.
        duration: in seconds.
        sent: when rank 0 sent it to the rank, in seconds since the epoch; NaN where the journal does not tell.
        outcome: an index of :data:`OUTCOMES`.
        nbytes: the size of its value; 0 if it made none.
        failure: an index of :attr:`Story.failures`, or -1.
        is_derived: whether start and duration follow from other events: the rank told neither before its end.
        elements: how many elements of an array it tried, if it is a lease of such; 0 if it is a call of a function.
    """

    task: Ints
    launch: NDArray[np.int16]
    attempt: Ints
    rank: Ints
    started: Floats
    duration: Floats
    sent: Floats
    outcome: NDArray[np.int8]
    nbytes: NDArray[np.int64]
    failure: Ints
    is_derived: NDArray[np.bool_]
    elements: Ints

    def __len__(self) -> int:
        return len(self.task)

    @property
    def stopped(self) -> Floats:
        """When each call ended."""
        return self.started + self.duration


@dataclass(slots=True)
class RankEvent:
    """A change of a rank: ``what`` is "lost", "suspect" or "returned"; ``time_s`` is None where it is unknown."""

    time_s: float | None
    rank: int
    what: str
    reason: str


@dataclass(slots=True)
class LaunchStory:
    """One launch of the run.

    Attributes:
        epoch: its number.
        about: what it said of the run, as the journal holds it.
        started_s, stopped_s: in seconds since the epoch; of a launch that died, when it last gave a sign of life.
        ended: (status, exit code); None if it died, or still runs.
        is_running: whether it still runs, as far as is known.
        functions: how many there were.
        restored: how many of them an earlier launch had done.
        hosts, slots: rank to host, rank to its slots.
        capacity: resource to amount of all ranks.
        rank_events: losses and returns of ranks, in order.
        lost_ranks: rank to reason, of those that did not come back.
        probation: hosts and ranks that were on probation, and why.
        version, python: of handoff_mpi and Python; empty if that is not known.
    """

    epoch: int
    about: dict[str, Any] = field(default_factory=dict)
    started_s: float = 0.0
    stopped_s: float = 0.0
    ended: tuple[str, int] | None = None
    is_running: bool = False
    functions: int = 0
    restored: int = 0
    hosts: dict[int, str] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    capacity: dict[str, float] = field(default_factory=dict)
    rank_events: list[RankEvent] = field(default_factory=list)
    lost_ranks: dict[int, str] = field(default_factory=dict)
    probation: dict[str, str] = field(default_factory=dict)
    version: str = ""
    python: str = ""

    @property
    def verdict(self) -> str:
        """How it ended, in a word or two."""
        if self.ended is not None:
            return self.ended[0]
        return "running" if self.is_running else "died"


@dataclass
class Story:
    """The story of a run, from its first launch on.

    Attributes:
        run_dir: where it was read.
        dag_id: the id of the newest launch's DAG.
        launches: those that began, in order.
        tasks, calls: see there.
        failures: why calls failed, each reason once.
        failure_counts: how many calls, or functions that were never called, failed for each.
        values_lost: (launch, task) of values that were lost with a rank and computed again.
        status: what ``status.json`` holds.
        notes: what could not be read, one line each.
        elements: array to (how many elements it has in the newest launch, how many of them have values).
        given_up: functions that failed without a call of their own, arrays among them, to the number of the reason in
            ``failures``.
        attempts: (launch, array) to the attempts at its elements.
        element_failures: why elements of arrays failed.
        failed_elements: array to how many of its elements have failed for good in the newest launch.
        taken_back: (launch, rank) to how many elements other ranks were to compute as this one was lost.
    """

    run_dir: Path
    dag_id: Hashable
    launches: list[LaunchStory]
    tasks: Tasks
    calls: Calls
    failures: list[Failure]
    failure_counts: list[int]
    values_lost: list[tuple[int, int]]
    status: dict[str, Any]
    notes: list[str]
    elements: dict[int, tuple[int, int]] = field(default_factory=dict)
    given_up: dict[int, int] = field(default_factory=dict)
    attempts: dict[tuple[int, int], Attempts] = field(default_factory=dict)
    element_failures: list[ElementFailure] = field(default_factory=list)
    failed_elements: dict[int, int] = field(default_factory=dict)
    taken_back: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def started_s(self) -> float:
        """When the first launch began."""
        return self.launches[0].started_s

    @property
    def stopped_s(self) -> float:
        """When the newest launch ended, or last gave a sign of life."""
        return self.launches[-1].stopped_s

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many functions and elements of arrays are in each state, as the run has counted them where it has."""
        newest = self.launches[-1]
        is_told = newest.ended is not None or newest.is_running
        told = counts_told(self.status, newest.epoch, newest.is_running) if is_told else {}
        states = np.bincount(self.tasks.state, minlength=len(STATES)).tolist()
        counts: dict[str, int] = dict(zip(STATES, states, strict=True))
        for task, (count, done) in self.elements.items():
            state = STATES[int(self.tasks.state[task])]
            failed = self.failed_elements.get(task, 0)
            counts[state] -= 1
            # Which of the others run is not known here: few of them do, one a slot.
            counts["waiting" if state == "running" else state] += count - done - failed
            counts["done"] += done
            counts["failed"] += failed
        return {**dict.fromkeys(STATES, 0), **told} if told else counts

    def host(self, launch: int, rank: int) -> str:
        """Return the host of a rank in a launch; empty if it is not known."""
        return one_line(self.launches[launch].hosts.get(rank, ""), MAX_LABEL)

    @cached_property
    def lanes(self) -> NDArray[np.int16]:
        """The slot of each call on its rank, from 0: calls on one slot do not overlap."""
        return _lanes(self.calls)

    @cached_property
    def waits(self) -> Waits:
        """How long each call waited, by cause."""
        return _waits(self)

    @cached_property
    def final_call(self) -> Ints:
        """The last call of each task that ended well, else its last call; -1 if it was never called."""
        calls = self.calls
        final = np.full(len(self.tasks), -1, np.int32)
        final[calls.task] = np.arange(len(calls), dtype=np.int32)
        done = np.flatnonzero(calls.outcome == DONE).astype(np.int32)
        final[calls.task[done]] = done
        return final

    @cached_property
    def path_durations(self) -> Floats:
        """How long the last call of each task took; of an array one element, by the lease with the slowest ones."""
        calls = self.calls
        durations = np.zeros(len(self.tasks))
        is_called = self.final_call >= 0
        durations[is_called] = calls.duration[self.final_call[is_called]]
        leases = np.flatnonzero(calls.elements > 0)
        durations[calls.task[leases]] = 0.0
        np.maximum.at(durations, calls.task[leases], calls.duration[leases] / calls.elements[leases])
        return durations

    @cached_property
    def critical_path(self) -> list[int]:
        """The tasks of the longest path through the DAG, by :attr:`path_durations`, first to last.

        No number of ranks could have run these calls in less time than the sum of their durations.
        """
        return _critical_path(self)


@dataclass(slots=True)
class Waits:
    """How long each call waited before it started, by cause, in seconds; nothing of it is measured by the ranks.

    Attributes:
        inputs: from the begin of the launch until the last of its inputs was made.
        slots: from then until rank 0 sent it to a rank: what could run it was busy, or the run's limits held it back.
        queue: on its rank, until the call before it in the same slot had ended.
        transfer: on its rank with a free slot: inputs that were fetched and decoded, and the message itself.
        retry: from the end of the task's call before this one in the same launch.
        is_known: whether anything is known of the call's waiting: of an array only that of its first lease is.
        has_sent: whether the journal tells when functions were sent; without it ``slots`` holds queue and transfer too.
    """

    inputs: Floats
    slots: Floats
    queue: Floats
    transfer: Floats
    retry: Floats
    is_known: NDArray[np.bool_]
    has_sent: bool


# -- what is derived -----------------------------------------------------------------------------------


def groups_of(*columns: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each combination of values, in the order of the rows."""
    order = np.lexsort(columns)
    if not len(order):
        return
    changes = np.zeros(len(order), bool)
    for column in columns:
        changes[1:] |= column[order][1:] != column[order][:-1]
    yield from np.split(order, np.flatnonzero(changes))


def _lanes(calls: Calls) -> NDArray[np.int16]:
    lanes = np.zeros(len(calls), np.int16)
    stopped = calls.stopped
    for rows in groups_of(calls.rank, calls.launch):
        if len(rows) > 1 and (calls.started[rows][1:] < stopped[rows][:-1] - OVERLAP_S).any():
            lanes[rows] = partition(calls.started[rows].tolist(), stopped[rows].tolist())
    return lanes


def _waits(story: Story) -> Waits:
    calls = story.calls
    count = len(calls)
    began = np.array([each.started_s for each in story.launches])[calls.launch] if count else np.zeros(0)
    ready = np.maximum(began, _inputs_done(story, began))
    before = _end_before(calls, calls.task, calls.launch)
    is_again = ~np.isnan(before)
    is_first = ~is_again | (calls.elements == 0)  # an array's elements wait for one lease after the other
    retry = np.where(is_again & is_first, np.maximum(calls.started - np.nan_to_num(before), 0.0), 0.0)
    ready = np.where(is_again, calls.started, np.minimum(ready, calls.started))
    has_sent = ~np.isnan(calls.sent)
    sent = np.where(has_sent, np.clip(np.nan_to_num(calls.sent), ready, calls.started), calls.started)
    slot_free = _end_before(calls, calls.rank, calls.launch, story.lanes)
    slot_free = np.clip(np.where(np.isnan(slot_free), sent, slot_free), sent, calls.started)
    return Waits(
        inputs=np.where(is_again, 0.0, np.maximum(ready - began, 0.0)),
        slots=np.maximum(sent - ready, 0.0),
        queue=slot_free - sent,
        transfer=calls.started - slot_free,
        retry=retry,
        is_known=is_first,
        has_sent=bool(has_sent.any()) or not (calls.elements == 0).any(),
    )


def _end_before(calls: Calls, *columns: NDArray[Any]) -> Floats:
    """Return when the call before each one, of those with the same values in ``columns``, ended; NaN for the first."""
    before = np.full(len(calls), np.nan)
    order = np.lexsort(columns)  # stable: calls are sorted by start
    is_same = np.ones(max(0, len(order) - 1), bool)
    for column in columns:
        is_same &= column[order][1:] == column[order][:-1]
    before[order[1:][is_same]] = calls.stopped[order[:-1][is_same]]
    return before


def _inputs_done(story: Story, began: Floats) -> Floats:
    """Return when the last input of each call was made, in the same launch; 0 where none was."""
    calls, tasks = story.calls, story.tasks
    done = np.zeros(len(calls))
    for launch in range(len(story.launches)):
        rows = np.flatnonzero((calls.launch == launch) & (calls.outcome == DONE))[::-1]
        made = np.zeros(len(tasks))
        made[calls.task[rows]] = calls.stopped[rows]  # reversed, so the first call that ended well counts
        last = largest_of_inputs(tasks, made)
        here = np.flatnonzero(calls.launch == launch)
        done[here] = last[calls.task[here]]
    return done


def largest_of_inputs(tasks: Tasks, values: NDArray[Any]) -> NDArray[Any]:
    """Return for each task the largest of ``values`` of its inputs; 0 for tasks without inputs."""
    largest = np.zeros(len(tasks), values.dtype)
    some = np.flatnonzero(np.diff(tasks.starts))
    if len(some):
        largest[some] = np.maximum.reduceat(values[tasks.inputs], tasks.starts[some])
    return largest


def _critical_path(story: Story) -> list[int]:
    tasks = story.tasks
    path_s, via = story.path_durations.tolist(), [-1] * len(tasks)
    starts, inputs = tasks.starts.tolist(), tasks.inputs.tolist()
    for task in topological_order(tasks):
        first, after = starts[task], starts[task + 1]
        if first == after:
            continue
        longest = max(inputs[first:after], key=path_s.__getitem__)
        via[task] = longest
        path_s[task] += path_s[longest]
    path: list[int] = []
    task = max(range(len(tasks)), key=path_s.__getitem__, default=-1)
    while task >= 0:
        path.append(task)
        task = via[task]
    return path[::-1]


def topological_order(tasks: Tasks) -> list[int] | range:
    """Return all tasks, each after those whose values it takes."""
    users = np.repeat(np.arange(len(tasks)), np.diff(tasks.starts))
    if (tasks.inputs < users).all():
        return range(len(tasks))  # as in most DAGs
    missing = np.diff(tasks.starts).tolist()
    users_of: dict[int, list[int]] = defaultdict(list)
    for user, source in zip(users.tolist(), tasks.inputs.tolist(), strict=True):
        users_of[source].append(user)
    order = [task for task, count in enumerate(missing) if not count]
    for task in order:  # grows meanwhile
        for user in users_of.get(task, ()):
            missing[user] -= 1
            if not missing[user]:
                order.append(user)
    return order


def levels_of(tasks: Tasks) -> Ints:
    """Return for each task the number of calls on the longest way to it."""
    levels = [0] * len(tasks)
    starts, inputs = tasks.starts.tolist(), tasks.inputs.tolist()
    for task in topological_order(tasks):
        first, after = starts[task], starts[task + 1]
        if first != after:
            levels[task] = 1 + max([levels[source] for source in inputs[first:after]])
    return np.array(levels, np.int32)
