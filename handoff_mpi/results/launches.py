"""The launches of a run, one by one and together, as its journal tells them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handoff_mpi.results.array_history import ArrayLaunch
from handoff_mpi.results.records import Incident
from handoff_mpi.results.store import Key
from handoff_mpi.serialization import Payload

#: What makes a function the same one in another launch: its id and its fingerprint. One that has no fingerprint is
#: the same in no other launch, so the epoch and its number stand for it.
Identity: TypeAlias = "tuple[Hashable, Any]"


@dataclass(slots=True)
class Done:
    """A task that was done.

    Attributes:
        attempt, rank: of the call that did it.
        started, duration: in seconds (since the epoch; of the call).
        nbytes: the size of its value.
        payload: the value, if it is small.
        key: of the file where the value lies, if it was written.
        epoch: the number of the launch.
    """

    attempt: int
    rank: int
    started: float
    duration: float
    nbytes: int
    payload: Payload | None
    key: Key | None
    epoch: int = 0

    @property
    def has_value(self) -> bool:
        return self.payload is not None or self.key is not None


@dataclass(slots=True)
class Launch:
    """One launch: its table of tasks and how it ended.

    Attributes:
        about: what it said of the run.
        tasks: (id, fingerprint, name, inputs, cost) of each.
        arrays: the numbers of those of them that are arrays.
        restored: those of them that an earlier launch did.
        again: those of them that run again although an earlier launch did them, as it knew from the start.
        failed: those of them of which attempts failed.
        failed_calls: (rank, started, seconds) of each call of a task that failed, in order; format 2 has none.
        lost_ranks: those that were lost and have not come back, with the reason.
        probation: the hosts and ranks that were on probation, in words, and why.
        ended: (status, exit code), None if it ended without a word.
        codes: the digests of the codes of each name.
        python: Python's major and minor version; empty if that is not known.
    """

    epoch: int
    about: dict[str, Any] = field(default_factory=dict)
    tasks: list[tuple[Hashable, bytes | None, str, tuple[int, ...], dict[str, object]]] = field(default_factory=list)
    arrays: list[int] = field(default_factory=list)
    restored: set[int] = field(default_factory=set)
    again: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    failed_calls: dict[int, list[tuple[int, float, float]]] = field(default_factory=dict)
    lost_ranks: dict[int, str] = field(default_factory=dict)
    probation: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, int] | None = None
    codes: dict[str, list[bytes]] = field(default_factory=dict)
    python: str = ""

    def identity(self, task: int) -> Identity:
        """Return what makes ``task`` the same one in another launch."""
        id, fingerprint, *_ = self.tasks[task]
        return (id, (self.epoch, task) if fingerprint is None else fingerprint)


@dataclass(slots=True)
class History:
    """All launches of a run together.

    Attributes:
        launches: in order.
        done: what was done, by identity: by the newest launch that did it, also if its value was not kept. That of an
            earlier one may be another: ``--rerun`` asks for that, and elements of a windowed array may differ.
        failed: (attempt, rank, kind, message, traceback) of the last failure of each that has not been done since.
        deaths: how often a function's process died, of those that have not ended.
        suspects: functions that were in flight when a launch was cut short: one of them may have done it.
        incidents: why functions were called more than once, in order.
        arrays: what launches tell of the elements of arrays, by identity and in order.
        accepted: by id and fingerprint, the earlier fingerprint that the function goes by: its change was accepted.
        accepted_marks: what functions go by, or went by in a launch, whose change was accepted.
        dropped: what has been done, but counts no more, as ``--rerun`` of a launch replaced what it was made of: the
            numbers of these launches, by identity. The launch does not hold it, or with other code or arguments.
        notes: what could not be read, one line each.
    """

    launches: list[Launch] = field(default_factory=list)
    done: dict[Identity, Done] = field(default_factory=dict)
    failed: dict[Identity, tuple[int, int, str, str, str]] = field(default_factory=dict)
    deaths: dict[Identity, int] = field(default_factory=dict)
    suspects: set[Identity] = field(default_factory=set)
    incidents: dict[Identity, list[Incident]] = field(default_factory=dict)
    arrays: dict[Identity, list[ArrayLaunch]] = field(default_factory=dict)
    accepted: dict[tuple[Hashable, bytes], bytes] = field(default_factory=dict)
    accepted_marks: set[Identity] = field(default_factory=set)
    dropped: dict[Identity, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fingerprints_done(self) -> dict[Hashable, bytes]:
        """Return the newest fingerprint of each function that was done, and of each array with a value, by id."""
        arrays = {identity for identity, told in self.arrays.items() if any(each.has_any for each in told)}
        return {
            id: fingerprint
            for launch in self.launches
            for id, fingerprint, *_ in launch.tasks
            if fingerprint is not None and ((id, fingerprint) in self.done or (id, fingerprint) in arrays)
        }

    def lost_ranks_before(self, epoch: int) -> dict[int, dict[int, str]]:
        """Return the ranks that each launch before ``epoch`` lost, with the reason; only of launches that lost some."""
        return {each.epoch: dict(each.lost_ranks) for each in self.launches if each.epoch < epoch and each.lost_ranks}

    def launches_before(self, epoch: int) -> list[dict[str, Any]]:
        """Return when each launch before ``epoch`` began, and its status: "died" where it left no verdict."""
        return [
            {
                "launch": each.epoch,
                "status": "died" if each.ended is None else each.ended[0],
                "started_s": each.about.get("started_s"),
            }
            for each in self.launches
            if each.epoch < epoch
        ]
