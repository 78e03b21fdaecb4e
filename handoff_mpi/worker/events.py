"""Defines the events that a worker rank receives and the commands that it returns, as plain records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from handoff_mpi.arrays.columns import Packed
from handoff_mpi.messages import Buffers, LeaseReport, Message
from handoff_mpi.resources.device_names import Devices
from handoff_mpi.serialization import Payload
from handoff_mpi.worker.call_spec import CallSpec, Outcome


class QueuedCall(CallSpec):
    """One attempt of a task at this rank; among the commands of the machine, the one to run this call.

    While it runs it has the values that it takes.

    Attributes:
        sources: ``(task, codec, payload or None, holders)`` of each value it takes.
        waiting: how many inputs are still on their way.
        fetched: values that were encoded for this rank: (task, codec) to (payload, source rank); for work with sources.
        wants: the held values it counts as wanted; for work with sources.
        is_here: whether it still waits or runs at this rank.
        started: when its call began, in seconds.
        is_reported: whether rank 0 knows that it runs.
        is_ahead: whether the child that is to run it was sent it, ahead of its turn.
        is_overdue: whether it has used up its time, and its child is being ended.
        promised_nbytes: how much memory its result and copies of its inputs are expected to take, while it runs.
        element: the index of the element that ran when that was last reported, for a lease with a timeout; else -1.
        element_started: when that began, in seconds.
        part_due: when what has ended of a lease is reported next, once it has lasted for long.
        is_stopping: whether its loop was asked to begin no further element.
        columns: the values of a lease that were reported while it runs, if others follow it.
        left_from: the elements from this index on were reported as left; None if none was.
    """

    fetched: dict[object, tuple[Payload, int]]
    wants: list[int] = ()  # type: ignore[assignment]
    waiting = 0
    is_here = True
    started = 0.0
    is_reported = is_ahead = is_overdue = is_stopping = False
    promised_nbytes = 0
    element = -1
    element_started = 0.0
    part_due = 0.0
    columns: tuple[Packed, ...] = ()
    left_from: int | None = None

    def __init__(
        self,
        task: int,
        attempt: int,
        id: object,
        call_template: Any,
        sources: tuple[Any, ...],
        timeout_s: float | None,
        flags: int,
        slot: int,
        claim: tuple[float, Devices],
    ) -> None:
        self.task = task
        self.attempt = attempt
        self.id = id
        self.call_template = call_template
        self.sources = sources
        self.timeout_s = timeout_s
        self.flags = flags
        self.slot = slot
        self.cores, self.devices = claim


# -- events ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Received:
    """A message arrived, with its buffers."""

    source: int
    message: Message
    buffers: Buffers = ()


@dataclass(slots=True)
class Ended:
    """A call ended.

    Attributes:
        outcome: how.
        nbytes: the size of its value, or of the values of a lease.
        started: when it began, in seconds.
        is_persisted: whether the value was written where it outlasts the rank.
    """

    work: QueuedCall
    outcome: Outcome
    nbytes: int
    started: float
    is_persisted: bool = False


@dataclass(slots=True)
class PartEnded:
    """A part of a lease that runs has ended, or was taken from its loop."""

    work: QueuedCall
    report: LeaseReport


@dataclass(slots=True)
class ElementBegun:
    """An element of a lease with a timeout runs since ``started``, in seconds."""

    work: QueuedCall
    index: int
    started: float


@dataclass(slots=True)
class Begun:
    """A call begins only now: its child process had to start, or to load the function, first."""

    work: QueuedCall


@dataclass(slots=True)
class InputMissing:
    """The driver found that an input is unavailable, before the call began."""

    work: QueuedCall
    task: int


@dataclass(slots=True)
class Pressed:
    """The rank's memory was measured, and memory pressure has begun or ended.

    Attributes:
        level: NORMAL, HIGH or CRITICAL.
        excess_nbytes: how much less should be in use.
        can_spill: whether values can be moved out of memory.
        words: by what measure.
    """

    level: int
    excess_nbytes: int
    can_spill: bool
    words: str


Event: TypeAlias = Received | Begun | Ended | PartEnded | ElementBegun | InputMissing | Pressed


# -- commands -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Send:
    """Send a message to a rank."""

    dest: int
    message: Message
    buffers: Buffers = ()


@dataclass(slots=True)
class Kill:
    """End the child process that runs on a slot: its call, or its element, has used up its time."""

    slot: int


@dataclass(slots=True)
class TakePart:
    """Report what has ended of a lease that runs."""

    work: QueuedCall


@dataclass(slots=True)
class StopLease:
    """Have no further element of a running lease begin, and report those that will not."""

    work: QueuedCall


@dataclass(slots=True)
class Serve:
    """Send a value held here to ``dest``, encoded by ``codec`` if there is one.

    Attributes:
        limit_s: how long encoding may take, in a child process; None where this rank may encode it itself.
    """

    dest: int
    request_id: int
    task: int
    codec: Any
    codes: Any
    limit_s: float | None = None


@dataclass(slots=True)
class Put:
    """Keep a value in the rank's store."""

    task: int
    payload: Payload


@dataclass(slots=True)
class Drop:
    """Drop a value from the rank's store."""

    task: int


@dataclass(slots=True)
class Spill:
    """Move a value of the rank's store, of ``nbytes`` bytes, out of memory; it can be had as before."""

    task: int
    nbytes: int


@dataclass(slots=True)
class Learn:
    """Take in encoded callables, or a large constant."""

    codes: Sequence[tuple[int, bytes]] = ()
    constant: tuple[int, Payload] | None = None


@dataclass(slots=True)
class Leave:
    """The run is over for this rank; ``results`` are those that rank 0 sends to all ranks, if any."""

    results: Payload | None


Command: TypeAlias = Send | QueuedCall | Kill | TakePart | StopLease | Serve | Put | Drop | Spill | Learn | Leave
