"""Records where and when functions ran: one plain record a function, for all pictures and reports after a run.

Nothing here refers to a live object of the run, so that a record read from a file is as good as a new one.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, MutableSequence
from dataclasses import dataclass, field

from handoff_mpi.formatting import id_text, show

#: So many functions that were skipped are named.
_MAX_SKIPPED = 3


def note_probation(told: dict[str, str], begins: bool, place: int | str, reason: str) -> str:
    """Note in ``told`` that the probation of a host or rank begins or ends, and return its name."""
    name = f"host {place}" if isinstance(place, str) else f"rank {place}"
    told[name] = reason if begins else f"{told.get(name, '')}; it is trusted again: {reason}"
    return name


def count_elements(counts: dict[str, int], state: str, count: int, done: int, failed: int, skipped: int) -> None:
    """Have ``counts`` of functions, by state, count the elements of an array instead of the array.

    Args:
        state: of the array.
        skipped: how many elements were skipped while the array waited: it has not ended.
    """
    left = count - done - failed
    waiting = max(0, left - skipped) if state == "waiting" else 0
    counts[state] -= 1
    for name, number in {"done": done, "failed": failed, "skipped": left - waiting, "waiting": waiting}.items():
        counts[name] += number


@dataclass(frozen=True, slots=True)
class Incident:
    """Why a function had to be called again, or failed.

    Attributes:
        launch: number of the launch of the run, from 1.
        attempt: number of the call in that launch.
        rank: where it was.
        kind: the exception's class, "timeout", "death" (of the process that made the call), "rank-lost", "device-lost"
            or "value-lost" (after the call had ended well); also what a :class:`FunctionError` may have.
        reason: in words.
        calls: how many calls it is of: elements of an array fail alike, some of them in several attempts.
    """

    launch: int
    attempt: int
    rank: int
    kind: str
    reason: str
    calls: int = 1


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """The outcome of one function in one run.

    Attributes:
        id: the function's id.
        name: the qualified name of its code; empty where that is not known.
        state: ``"done"``, ``"failed"``, ``"skipped"`` (an input failed) or ``"waiting"`` (never got so far).
        rank: where its last attempt ran; None if there was none.
        host: the name of that rank's machine.
        started_s: when the last attempt started on its rank, in seconds since the epoch.
        stopped_s: when the last attempt ended, in seconds since the epoch.
        attempts: how often it was started in this launch; 0 if an earlier one did it.
        inputs: the ids it takes values from, in the order of its arguments.
        cost: what a call claims, as users write it: cores, MB, devices, ``{"cpu": 4, "memory": 2000}``.
        nbytes: the size of its value in bytes; 0 while there is none.
        error: one line on why it failed or was skipped; empty if it was not.
        incidents: why it was called more than once, or failed; those of earlier launches too.
    """

    id: Hashable
    name: str
    state: str
    rank: int | None
    host: str | None
    started_s: float | None
    stopped_s: float | None
    attempts: int
    inputs: tuple[Hashable, ...]
    cost: dict[str, int | float]
    nbytes: int
    error: str
    incidents: tuple[Incident, ...] = ()


@dataclass(slots=True)
class RecordTable:
    """The records of a run in columns, by task number: a record is made when it is asked for.

    Attributes:
        ids, names, inputs, costs, states, attempts: as in :class:`TaskRecord`, inputs by their numbers.
        ranks, started, durations: -1 where there was no call.
        nbytes: 0 where there is no value.
        errors, incidents: of those tasks that have any.
        earlier: (rank, seconds) of the calls of a task in this launch before the last one, of those that have any.
        hosts: rank to host name.
        arrays: the numbers of those that are arrays, whose durations are those of all calls of one rank.
        knows_times: whether the durations of arrays are among them; a journal tells of leases alone.
    """

    ids: list[Hashable] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    inputs: list[tuple[int, ...]] = field(default_factory=list)
    costs: list[dict[str, int | float]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    ranks: MutableSequence[int] = field(default_factory=list)
    started: MutableSequence[float] = field(default_factory=list)
    durations: MutableSequence[float] = field(default_factory=list)
    nbytes: MutableSequence[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    incidents: dict[int, list[Incident]] = field(default_factory=dict)
    earlier: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    hosts: dict[int, str] = field(default_factory=dict)
    arrays: Collection[int] = ()
    knows_times: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, task: int) -> TaskRecord:
        ids, rank, started = self.ids, self.ranks[task], self.started[task]
        return TaskRecord(
            id=ids[task],
            name=self.names[task],
            state=self.states[task],
            rank=rank if rank >= 0 else None,
            host=self.hosts.get(rank),
            started_s=started if started >= 0 else None,
            stopped_s=started + self.durations[task] if started >= 0 else None,
            attempts=self.attempts[task],
            inputs=tuple([ids[each] for each in self.inputs[task]]),
            cost=self.costs[task],
            nbytes=self.nbytes[task],
            error=self.errors.get(task, ""),
            incidents=tuple(self.incidents.get(task, ())),
        )

    def __iter__(self) -> Iterator[TaskRecord]:
        return map(self.__getitem__, range(len(self)))

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        return {"done": 0, "failed": 0, "skipped": 0, "waiting": 0, **Counter(self.states)}

    def skipped_in_words(self) -> list[str]:
        """Return a line about the functions that were skipped, with the first of them; none if there are none."""
        if "skipped" not in self.states:
            return []
        skipped = [task for task, state in enumerate(self.states) if state == "skipped"]
        blocks = {
            each
            for task in skipped
            for each in self.inputs[task]
            if each in self.arrays and id_text(self.ids[each]).startswith(f"{id_text(self.ids[task])}-blocks")
        }  # a part of a fold, which users do not know of
        skipped = [task for task in skipped if task not in blocks]
        more = f" and {len(skipped) - _MAX_SKIPPED:,} more" if len(skipped) > _MAX_SKIPPED else ""
        names = ", ".join(show(self.ids[task]) for task in skipped[:_MAX_SKIPPED])
        depend = "it depends" if len(skipped) == 1 else "they depend"
        return [f"  skipped: {names}{more}: {depend} on functions that have failed"]

    def busy(self) -> dict[int, float]:
        """Return rank to the seconds of its calls in this launch, failed ones too; a resumed run tells of others."""
        busy: dict[int, float] = {}
        for rank, duration, attempts in zip(self.ranks, self.durations, self.attempts, strict=True):
            if attempts and rank >= 0:
                busy[rank] = busy.get(rank, 0.0) + duration
        for rank, duration in itertools.chain.from_iterable(self.earlier.values()):
            busy[rank] = busy.get(rank, 0.0) + duration
        return busy

    def called(self) -> list[int]:
        """Return the tasks whose calls this launch made, and knows the times of."""
        return [task for task, attempts in enumerate(self.attempts) if attempts and self.started[task] >= 0]

    def stopped(self, task: int) -> float:
        """Return when the last call of a task ended, in seconds since the epoch."""
        return self.started[task] + self.durations[task]

    def claimed(self) -> dict[str, float]:
        """Return resource to what the calls of this launch claimed of it, times seconds."""
        seconds: dict[int, float] = {}  # by the identity of the cost: functions share few
        for cost, duration, attempts, rank in zip(self.costs, self.durations, self.attempts, self.ranks, strict=True):
            if attempts and rank >= 0:
                seconds[id(cost)] = seconds.get(id(cost), 0.0) + duration
        for task, calls in self.earlier.items():
            cost_id = id(self.costs[task])
            seconds[cost_id] = seconds.get(cost_id, 0.0) + sum(duration for _, duration in calls)
        claimed: dict[str, float] = {}
        for cost in {id(cost): cost for cost in self.costs}.values():
            for name, amount in cost.items():
                claimed[name] = claimed.get(name, 0.0) + amount * seconds.get(id(cost), 0.0)
        return claimed

    def slowest(self, count: int) -> list[tuple[float, Hashable, bool]]:
        """Return seconds and id of the longest calls that this launch made, and whether each failed, the longest
        first; of each function the last call. How long each call of an array took is not known.
        """
        durations = zip(self.durations, itertools.count())  # those not called here have no duration
        longest = heapq.nlargest(count, (each for each in durations if each[1] not in self.arrays))
        return [
            (duration, self.ids[task], self.states[task] == "failed")
            for duration, task in longest
            if self.attempts[task] and self.started[task] >= 0
        ]
