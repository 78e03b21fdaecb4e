"""Events for the scheduler, and its commands: plain records, carried by the coordinator."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from handoff_mpi.allocation import Claim
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.selections import Selection
from handoff_mpi.membership import RankLost, RankReturned, RankSuspected, RankUnreachable
from handoff_mpi.messages import Entry, ErrorReport, Interval, LeaseReport
from handoff_mpi.resources import Amounts


class ValueLocation(IntEnum):
    """The location of the value of a task that an earlier launch finished."""

    NOWHERE = 0  # nobody needs it
    HOME = 1
    FILE = 2


@dataclass(slots=True)
class Submitted:
    """Tasks were added; their numbers follow those there already.

    Attributes:
        restored: tasks that an earlier launch of the run did, and where their values are.
        suspects: tasks that were in flight when an earlier launch ended without a word.
        deaths: how often each task's process died in earlier launches.
        elements: array number to the elements that an earlier launch computed.
        selections: elements of arrays that some of the tasks take; their numbers follow those of the tasks.
        suspect_elements: array number to groups of elements, disjoint ones, which were at a rank together when an
            earlier launch ended without a word.
    """

    specs: Sequence[TaskSpec]
    restored: Mapping[int, ValueLocation] = field(default_factory=dict)
    suspects: Collection[int] = ()
    deaths: Mapping[int, int] = field(default_factory=dict)
    elements: Mapping[int, IntervalSet] = field(default_factory=dict)
    selections: Sequence[Selection] = ()
    suspect_elements: Mapping[int, Sequence[Sequence[Interval]]] = field(default_factory=dict)


@dataclass(slots=True)
class Closed:
    """No more tasks will be submitted."""


@dataclass(slots=True)
class Finished:
    """A rank reports calls that ended."""

    rank: int
    entries: Sequence[Entry]


@dataclass(slots=True)
class ElementsEnded:
    """A rank reports a part of a lease, the rest of which still runs."""

    rank: int
    task: int
    attempt: int
    report: LeaseReport


@dataclass(slots=True)
class ElementsPulled:
    """Elements of a windowed array have come.

    Attributes:
        array: its number.
        count: how many have come altogether.
        done: those of the new ones that an earlier launch computed.
        is_last: whether no more come.
        error: why not, if its iterables failed.
    """

    array: int
    count: int
    done: Sequence[Interval] = ()
    is_last: bool = False
    error: ErrorReport | None = None


@dataclass(slots=True)
class Restored:
    """As elements of windowed arrays have come, it is known that an earlier launch computed this from the same.

    What it takes may not have ended, nor have come: the event of elements comes before that of those which they take.

    Attributes:
        elements: array number to its elements.
        tasks: where the values of tasks are that wait for these.
    """

    elements: Mapping[int, Sequence[Interval]]
    tasks: Mapping[int, ValueLocation] = field(default_factory=dict)


@dataclass(slots=True)
class Retracted:
    """A rank gives back tasks it had not started."""

    rank: int
    entries: Sequence[tuple[int, int]]


@dataclass(slots=True)
class Unfetched:
    """A rank could not get inputs of a task: ``(input, ranks that were asked)``, none asked meaning a file."""

    rank: int
    task: int
    attempt: int
    missing: Sequence[tuple[int, Sequence[int]]]


@dataclass(slots=True)
class Persisted:
    """The value of a task lies in a file now."""

    task: int


@dataclass(slots=True)
class ValueLost:
    """These ranks no longer hold the value of a task."""

    task: int
    ranks: Sequence[int]


@dataclass(slots=True)
class HomeValueLost:
    """The value of a task was at rank 0, and the user's store does not give it back."""

    task: int


@dataclass(slots=True)
class ResourcesUpdated:
    """A rank's own resources are other ones from now on."""

    rank: int
    amounts: Amounts


@dataclass(slots=True)
class MemoryTold:
    """A rank is too short of memory for new tasks, or no longer is; and by what measure, in words."""

    rank: int
    is_short: bool
    words: str


@dataclass(slots=True)
class Refused:
    """The user's resource tracker refused a placement; nothing was sent.

    Attributes:
        is_error: whether it failed, instead of answering.
        seconds: how long it took.
    """

    task: int
    attempt: int
    reason: str
    is_error: bool = False
    seconds: float = 0.0


@dataclass(slots=True)
class StopRequested:
    """Dispatch nothing more; end when what runs has ended."""

    reason: str


Event: TypeAlias = (
    Submitted
    | Closed
    | Finished
    | ElementsEnded
    | ElementsPulled
    | Restored
    | Retracted
    | Unfetched
    | Persisted
    | ValueLost
    | HomeValueLost
    | RankSuspected
    | RankUnreachable
    | RankReturned
    | RankLost
    | ResourcesUpdated
    | MemoryTold
    | Refused
    | StopRequested
)


@dataclass(slots=True)
class Dispatch:
    """Send tasks to a slot; ``claim`` is given when the slot starts on a new one."""

    rank: int
    slot: int
    claim: Claim | None
    tasks: list[tuple[int, int]]


@dataclass(slots=True)
class Retract:
    """Ask a rank for tasks back that it has not started."""

    rank: int
    tasks: list[tuple[int, int]]


@dataclass(slots=True)
class Forget:
    """Tell a rank that these values are no longer needed."""

    rank: int
    tasks: list[int]


@dataclass(slots=True)
class BroadcastLoss:
    """Tell all ranks that one is lost: what they wait for from it will not come."""

    rank: int


Command: TypeAlias = Dispatch | Retract | Forget | BroadcastLoss


@dataclass(slots=True)
class Failure:
    """Why a task failed for good.

    Attributes:
        kind: the exception's class name, or one of :mod:`handoff_mpi.messages`' kinds.
        ranks: where each attempt ran, in order.
        place: "file:line" of the innermost frame that is the user's; empty where there is none.
        output: the last lines that the last attempt printed, of the first failures.
    """

    kind: str
    message: str
    traceback: str
    attempts: int
    ranks: tuple[int, ...]
    place: str = ""
    output: str = ""
