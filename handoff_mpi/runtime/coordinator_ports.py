"""The borders of rank 0's coordinator: the ports it acts through, and the facts that its caller gathers for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from handoff_mpi.comm import Envelope
from handoff_mpi.messages import Entry, ErrorReport, LeaseReport
from handoff_mpi.results.event_log import EventPort
from handoff_mpi.scheduler import Command, Event, Scheduler

#: Hands events to the machine at a time, and returns its commands.
Decide: TypeAlias = "Callable[[list[Event], float], list[Command]]"


class SenderPort(Protocol):
    """The part of a :class:`~handoff_mpi.comm.Transport` that rank 0 acts through."""

    def send(self, dest: int, message: tuple[object, ...], buffers: Sequence[object] = ()) -> None:
        """Send a message, and ``buffers`` beside it, to ``dest``."""
        ...

    def drop(self, rank: int) -> None:
        """Give up what is under way to or from ``rank``, which is lost."""
        ...


class RecorderPort(Protocol):
    """Keeps records of a run for people and for telemetry; see :class:`~handoff_mpi.runtime.recorder.Recorder`."""

    events: EventPort

    def wants_claims(self) -> bool:
        """Whether claims and their release are to be in the log."""
        ...

    def finished(self, rank: int, entries: Sequence[Entry], /) -> None:
        """Note calls that ended on ``rank`` and still count."""
        ...

    def elements_ended(self, rank: int, array: int, report: LeaseReport, started: float, duration: float, /) -> None:
        """Note elements of an array that ended on ``rank`` and still count."""
        ...

    def lease_failed(self, lease: int, error: ErrorReport, /) -> None:
        """Note why a lease failed, which still counts."""
        ...

    def started(self, rank: int, task: int, attempt: int, started: float, /) -> None:
        """Note a long call that is still running."""
        ...

    def transferred(self, target: int, transfers: Sequence[tuple[int, int, int, float]], /) -> None:
        """Note values that went to rank ``target``."""
        ...

    def used(self, rank: int, sample: Mapping[str, float], now: float, /) -> None:
        """Note how much of the host of ``rank`` is in use."""
        ...

    def transitions(self, scheduler: Scheduler, /) -> None:
        """Take the log of a turn out of ``scheduler``."""
        ...


class Loss(NamedTuple):
    """A rank that was found to be lost, and why.

    Attributes:
        with_its_host: whether its whole host was lost, which is no function's fault.
    """

    rank: int
    reason: str
    with_its_host: bool = False


@dataclass(slots=True)
class Facts:
    """Facts that rank 0 has found out by other means than messages, for one turn.

    Attributes:
        events: events that the machine handles first: tasks were submitted.
        stop_reason: why the run must stop; empty if it need not, or if the coordinator knows already.
        lost: ranks whose processes or hosts no longer exist.
        alive: silent ranks whose processes were found alive.
        unseen: silent ranks whose processes cannot be seen from here.
    """

    events: list[Event] = field(default_factory=list)
    stop_reason: str = ""
    lost: list[Loss] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    unseen: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.events or self.stop_reason or self.lost or self.alive or self.unseen)


class Taken(NamedTuple):
    """The results of a step that its caller sees to.

    Attributes:
        for_worker: messages for the worker of rank 0.
        lost: ranks that are lost; the machine handles that in the second half of the turn.
    """

    for_worker: list[Envelope]
    lost: list[int]


@dataclass(slots=True)
class CoordinatorSettings:
    """The facts of a run that do not change.

    Attributes:
        run: the run's name.
        number: the run's number, part of every message.
        workers: the ranks that take part besides rank 0.
        has_own_worker: whether rank 0 computes as well.
        hosts: host to its ranks; rank 0's own host comes first.
        heartbeat_s: ranks of other hosts get a sign of life this often; 0 sends none.
    """

    run: str
    number: int
    workers: Sequence[int]
    has_own_worker: bool = False
    hosts: Mapping[str, Iterable[int]] = field(default_factory=dict)
    heartbeat_s: float = 0.0
