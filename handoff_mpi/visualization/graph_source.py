"""The source of a drawing of a graph: the functions of a DAG that has not run, or those of a run, in columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from handoff_mpi.formatting import id_text, one_line
from handoff_mpi.results.records import TaskRecord
from handoff_mpi.results.story import (
    FAILED_STATE,
    RUNNING_STATE,
    STATES,
    Floats,
    Ints,
    Story,
    Tasks,
)

_MAX_TITLE, _MAX_STATUS, _MAX_ERROR = 80, 20, 300


@dataclass(slots=True)
class GraphSource:
    """The functions, and what became of them.

    Attributes:
        title: the id of the DAG, on one line.
        status: how the run ended, or "running"; empty for a DAG that has not run.
        tasks: the functions.
        rank: where each ran last; -1 for those that never did, and for arrays that ran on several ranks.
        duration: how long its last call took, in seconds; NaN where that is not known.
        busy: how long all of its calls took, in seconds.
        attempts: how often it was called; the leases of an array are one attempt.
        story: of the run; None for a DAG that has not run.
        leases: array to rank to how many of its leases ran there.
    """

    title: str
    status: str
    tasks: Tasks
    rank: Ints
    duration: Floats
    busy: Floats
    attempts: Ints
    story: Story | None = field(default=None, repr=False)
    leases: dict[int, dict[int, int]] = field(default_factory=dict)

    @property
    def dag_id(self) -> Hashable:
        """The id of the DAG, as text."""
        return self.title

    def state(self, task: int) -> str:
        """Return the state of a function; empty if there was no run."""
        return "" if self.story is None else STATES[self.tasks.state[task]]

    def elements(self, tasks: ArrayLike) -> tuple[int, int]:
        """Return how many elements the arrays among ``tasks`` have, and how many of them have values."""
        known = {} if self.story is None else self.story.elements
        counts = [known[array] for array in _among(known, tasks)]
        return sum(count for count, _ in counts), sum(done for _, done in counts)

    def ranks(self, tasks: ArrayLike) -> Counter[int]:
        """Return on which ranks ``tasks`` ran, and how many of them, or of their leases, on each."""
        ran = self.rank.copy()
        ran[list(self.leases)] = -1
        ranks, counts = np.unique(ran[np.asarray(tasks, np.int64)], return_counts=True)
        found = Counter(dict(zip(ranks.tolist(), counts.tolist(), strict=True)))
        found.pop(-1, None)
        for array in _among(self.leases, tasks):
            found.update(self.leases[array])
        return found

    def host(self, task: int) -> str:
        """Return the host of the rank where a function ran last; empty if it is not known."""
        row = -1 if self.story is None else int(self.story.final_call[task])
        if self.story is None or row < 0 or self.rank[task] < 0:
            return ""
        return self.story.host(int(self.story.calls.launch[row]), int(self.rank[task]))

    def error(self, task: int) -> str:
        """Return why a function failed, on one line; empty if it did not, or if that is not known."""
        if self.story is None or self.tasks.state[task] != FAILED_STATE:
            return ""
        row = int(self.story.final_call[task])
        number = int(self.story.calls.failure[row]) if row >= 0 else -1
        if number < 0:
            return ""
        failure = self.story.failures[number]
        return one_line(f"{failure.kind}: {failure.message}", _MAX_ERROR)

    def records(self) -> Iterator[TaskRecord]:
        """Yield a record for each function, as :func:`handoff_mpi.visualization.execution_graph` takes them."""
        tasks, calls = self.tasks, None if self.story is None else self.story.calls
        for task, id in enumerate(tasks.ids):
            row = -1 if self.story is None else int(self.story.final_call[task])
            started = float(calls.started[row]) if calls is not None and row >= 0 else None
            is_over = started is not None and tasks.state[task] != RUNNING_STATE
            stopped = started + float(self.duration[task]) if started is not None and is_over else None
            if calls is not None and task in self.leases:
                rows = calls.task == task
                started = float(calls.started[rows].min())
                stopped = float(calls.stopped[rows].max()) if is_over else None
            yield TaskRecord(
                id=id,
                name=tasks.name_of(task),
                state=STATES[tasks.state[task]],
                rank=int(self.rank[task]) if self.rank[task] >= 0 else None,
                host=self.host(task) or None,
                started_s=started,
                stopped_s=stopped,
                attempts=int(self.attempts[task]),
                inputs=tuple([tasks.ids[each] for each in tasks.inputs_of(task).tolist()]),
                cost=tasks.costs[tasks.cost[task]],
                nbytes=int(calls.nbytes[row]) if calls is not None and row >= 0 else 0,
                error=self.error(task),
            )


def _among(arrays: Mapping[int, object], tasks: ArrayLike) -> list[int]:
    """Return those of ``arrays`` that are in ``tasks``."""
    numbers = np.array([*arrays], np.int64)
    found: list[int] = numbers[np.isin(numbers, np.asarray(tasks, np.int64))].tolist()
    return found


def source_of_story(story: Story) -> GraphSource:
    """Return the functions of a run."""
    calls, final = story.calls, story.final_call
    count, is_called = len(story.tasks), final >= 0
    rank, duration = np.full(count, -1, np.int32), np.full(count, np.nan)
    rank[is_called], duration[is_called] = calls.rank[final[is_called]], calls.duration[final[is_called]]
    busy = np.bincount(calls.task, calls.duration, count).astype(np.float64)
    attempts = np.bincount(calls.task, minlength=count).astype(np.int32)
    leases: dict[int, dict[int, int]] = {}
    for task in story.elements:
        ranks, counts = np.unique(calls.rank[calls.task == task], return_counts=True)
        if len(ranks):
            leases[task] = dict(zip(ranks.tolist(), counts.tolist(), strict=True))
            rank[task], attempts[task] = int(ranks[0]) if len(ranks) == 1 else -1, 1
    title = one_line(id_text(story.dag_id), _MAX_TITLE)
    status = one_line(story.launches[-1].verdict, _MAX_STATUS)
    return GraphSource(title, status, story.tasks, rank, duration, busy, attempts, story, leases)


def source_of_tables(
    dag_id: Hashable,
    ids: Sequence[Hashable],
    names: Sequence[str],
    inputs: Sequence[Sequence[int]],
    costs: Sequence[dict[str, Any]],
) -> GraphSource:
    """Return the functions of a DAG that has not run.

    Args:
        ids, names, inputs, costs: of each function; inputs are numbers of functions.
    """
    count = len(ids)
    known: dict[str, int] = {}
    name = np.array([known.setdefault(each, len(known)) for each in names], np.int32)
    cost_numbers: dict[int, int] = {}  # equal costs share one mapping
    cost = np.array([cost_numbers.setdefault(id(each), len(cost_numbers)) for each in costs], np.int32)
    kinds: list[dict[str, Any]] = list({id(each): each for each in costs}.values())
    tasks = Tasks(
        ids=list(ids),
        names=[one_line(each, 120) for each in known],
        name=name,
        costs=kinds,
        cost=cost,
        state=np.zeros(count, np.int8),
        starts=np.concatenate(([0], np.cumsum([len(each) for each in inputs], dtype=np.int64))).astype(np.int64),
        inputs=np.array([each for sources in inputs for each in sources], np.int32),
    )
    title = one_line(id_text(dag_id), _MAX_TITLE)
    never = np.full(count, -1, np.int32), np.full(count, np.nan), np.zeros(count), np.zeros(count, np.int32)
    return GraphSource(title, "", tasks, *never)
