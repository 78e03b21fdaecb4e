"""The tables of a story as they grow, a launch after the other: a column of numbers for each field, no object a row."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Any

import numpy as np

from handoff_mpi.formatting import one_line
from handoff_mpi.results.story import (
    FAILED_STATE,
    MAX_LABEL,
    SKIPPED_STATE,
    WAITING_STATE,
    Calls,
    Tasks,
)
from handoff_mpi.serialization import UnreadableId


class CallColumns:
    """The columns of :class:`~handoff_mpi.results.story.Calls`, as they grow."""

    def __init__(self) -> None:
        self.task, self.launch, self.attempt, self.rank = array("i"), array("h"), array("i"), array("i")
        self.started, self.duration, self.sent = array("d"), array("d"), array("d")
        self.outcome, self.nbytes, self.failure, self.is_derived = array("b"), array("q"), array("i"), array("b")
        self.elements = array("i")

    def add(
        self,
        task: int,
        launch: int,
        attempt: int,
        rank: int,
        started: float,
        duration: float,
        sent: float,
        outcome: int,
        nbytes: int = 0,
        failure: int = -1,
        is_derived: bool = False,
    ) -> None:
        self.task.append(task)
        self.launch.append(launch)
        self.attempt.append(attempt)
        self.rank.append(rank)
        self.started.append(started)
        self.duration.append(duration)
        self.sent.append(sent)
        self.outcome.append(outcome)
        self.nbytes.append(nbytes)
        self.failure.append(failure)
        self.is_derived.append(is_derived)
        self.elements.append(0)

    def sorted(self) -> Calls:
        """Return the calls, sorted by start."""
        order = np.argsort(np.frombuffer(self.started, np.float64), kind="stable") if self.started else np.zeros(0, int)

        def column(values: array[Any], kind: Any) -> Any:
            return np.frombuffer(values, kind)[order] if values else np.zeros(0, kind)

        return Calls(
            task=column(self.task, np.int32),
            launch=column(self.launch, np.int16),
            attempt=column(self.attempt, np.int32),
            rank=column(self.rank, np.int32),
            started=column(self.started, np.float64),
            duration=column(self.duration, np.float64),
            sent=column(self.sent, np.float64),
            outcome=column(self.outcome, np.int8),
            nbytes=column(self.nbytes, np.int64),
            failure=column(self.failure, np.int32),
            is_derived=column(self.is_derived, np.bool_),
            elements=column(self.elements, np.int32),
        )


class TaskTable:
    """The functions of all launches; a function is the same one where its id is."""

    def __init__(self) -> None:
        self.ids: list[Hashable] = []
        self.state = array("b")
        self.code, self.cost = array("i"), array("i")
        self.names: dict[str, int] = {}
        self.costs: dict[tuple[tuple[str, object], ...], int] = {}
        self._numbers: dict[Hashable, int] | None = None
        self.begin()

    def begin(self) -> None:
        """A launch begins, with a table of its own."""
        # The number of each task of the launch in this table; a range while they are the same.
        self.here: list[int] | range = range(0)
        self._users, self._counts, self._inputs = array("i"), array("i"), array("i")

    def take(self, rows: list[Any]) -> None:
        """Take the next rows of the launch's table."""
        first = len(self.here)
        self._place([row[0] for row in rows])
        numbers = self.here[first:]
        for number, (_, _, name, inputs, cost) in zip(numbers, rows, strict=True):
            self.code[number] = self.names.setdefault(name, len(self.names))
            self.cost[number] = self.costs.setdefault(tuple(cost.items()), len(self.costs))
            self.state[number] = WAITING_STATE
            if inputs:
                self._users.append(number)
                self._counts.append(len(inputs))
                self._inputs.extend(inputs)

    def _place(self, ids: list[Hashable]) -> None:
        first = len(self.here)
        if isinstance(self.here, range):
            known = self.ids[first : first + len(ids)]
            if all(map(_is_same, known, ids)):
                self._append(ids[len(known) :])
                self.here = range(first + len(ids))
                return
            self.here = list(self.here)
        if self._numbers is None:
            self._numbers = {_key(id): number for number, id in enumerate(self.ids)}
        for id in ids:
            number = self._numbers.setdefault(_key(id), len(self.ids))
            if number == len(self.ids):
                self._append([id])
            self.here.append(number)

    def _append(self, ids: list[Hashable]) -> None:
        if self._numbers is not None:
            self._numbers.update((_key(id), number) for number, id in enumerate(ids, len(self.ids)))
        self.ids += ids
        for column in (self.state, self.code, self.cost):
            column.extend([0] * len(ids))

    def finish(self) -> Tasks:
        """Return the table; inputs are those of the newest launch."""
        counts = np.zeros(len(self.ids) + 1, np.int64)
        users, lengths = _ints(self._users), _ints(self._counts)
        counts[users + 1] = lengths
        starts = np.cumsum(counts)
        inputs = _ints(self._inputs)
        if not isinstance(self.here, range):
            numbers = np.array(self.here, np.int32)
            order = np.argsort(users, kind="stable")  # rows may come in another order than tasks
            offsets = np.concatenate(([0], np.cumsum(lengths)))
            parts = [inputs[offsets[row] : offsets[row + 1]] for row in order.tolist()]
            inputs = numbers[np.concatenate(parts)] if parts else inputs
        return Tasks(
            ids=self.ids,
            names=[one_line(name, MAX_LABEL) for name in self.names],
            name=_ints(self.code),
            costs=[dict(each) for each in self.costs],
            cost=_ints(self.cost),
            state=np.frombuffer(self.state, np.int8).copy() if self.state else np.zeros(0, np.int8),
            starts=starts,
            inputs=inputs,
        )


def _ints(values: array[int]) -> Any:
    return np.frombuffer(values, np.int32).copy() if values else np.zeros(0, np.int32)


def _key(id: Hashable) -> Hashable:
    """Return what an id is looked up by: one whose class is unknown here is no other in another launch."""
    return (UnreadableId, repr(id)) if type(id) is UnreadableId else id


def _is_same(known: Hashable, id: Hashable) -> bool:
    return bool(_key(known) == _key(id))


def mark_skipped(tasks: Tasks) -> None:
    """Mark what depends on functions that failed."""
    users = np.repeat(np.arange(len(tasks), dtype=np.int32), np.diff(tasks.starts))
    order = np.argsort(tasks.inputs, kind="stable")
    firsts = np.searchsorted(tasks.inputs[order], np.arange(len(tasks) + 1))
    users = users[order]
    front: list[int] = np.flatnonzero(tasks.state == FAILED_STATE).tolist()
    while front:
        task = front.pop()
        for user in users[firsts[task] : firsts[task + 1]].tolist():
            if tasks.state[user] == WAITING_STATE:
                tasks.state[user] = SKIPPED_STATE
                front.append(user)
