"""Records of the scheduler's log: what a turn did to tasks, ranks and claims.

Most of the log are changes of tasks, some for each function: these are plain tuples. What happened to a rank or to a
claim is rare, and one of the records below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from handoff_mpi.resources import Amounts

#: One line of the log: (task, state, cause, attempt, rank or -1, detail). ``detail`` of a task is a record, words or
#: None. For a rank or a claim, task, state and cause are -1, and ``detail`` is a :data:`RankRecord`.
Transition: TypeAlias = "tuple[int, int, int, int, int, Any]"


class FailedAttempt(NamedTuple):
    """An attempt of a task has failed; ``kind`` is the exception's class name or one of the kinds of messages."""

    kind: str
    message: str


class TrackerRefusal(NamedTuple):
    """The user's resource tracker has refused a placement."""

    reason: str


class Suspected(NamedTuple):
    """A rank is silent."""

    reason: str


class Returned(NamedTuple):
    """A rank that was silent or lost gave a sign of life."""


class Lost(NamedTuple):
    """A rank is lost."""

    reason: str


class Blamed(NamedTuple):
    """A task was the only one on a rank that died, and is blamed for that."""

    task: int
    attempt: int
    reason: str


class Forgiven(NamedTuple):
    """So many deaths were the fault of a rank or host, not of the task."""

    task: int
    deaths: int


class ProbationBegun(NamedTuple):
    """A rank or a host (``place``) is given only probes from now on."""

    place: int | str
    ranks: tuple[int, ...]
    reason: str


class ProbationEnded(NamedTuple):
    """A rank or a host (``place``) is trusted again."""

    place: int | str
    ranks: tuple[int, ...]
    reason: str


class DeviceWithdrawn(NamedTuple):
    """A device of ``host`` has failed; no rank there offers it any more."""

    host: str
    uuid: str
    reason: str


class MemoryHigh(NamedTuple):
    """A rank is too short of memory for new tasks; ``reason`` tells by what measure."""

    reason: str


class MemoryNormal(NamedTuple):
    """A rank is no longer short of memory."""

    reason: str


class LetGo(NamedTuple):
    """A rank that is cordoned was given a task all the same."""

    reason: str


class Updated(NamedTuple):
    """A rank has these resources from now on."""

    amounts: Amounts


class NotUpdated(NamedTuple):
    """The resources of a rank could not be updated."""

    reason: str


class RefusedForLong(NamedTuple):
    """``task``, one of so many, has waited long for the user's resource tracker."""

    task: int
    tasks: int
    reason: str


class Claimed(NamedTuple):
    """A slot has claimed these amounts for ``task``."""

    task: int
    amounts: Amounts


class Released(NamedTuple):
    """A slot has released the amounts that it had claimed, which may have served many tasks."""

    amounts: Amounts


RankRecord: TypeAlias = (
    Suspected
    | Returned
    | Lost
    | Blamed
    | Forgiven
    | ProbationBegun
    | ProbationEnded
    | DeviceWithdrawn
    | MemoryHigh
    | MemoryNormal
    | LetGo
    | Updated
    | NotUpdated
    | RefusedForLong
    | Claimed
    | Released
)


def how_lost(ranks: Sequence[int] | None) -> str:
    """Return how a value was lost, in words.

    Args:
        ranks: those that held it last, none where it lay in a file; None where it was not kept.
    """
    if ranks is None:
        return "its value was not kept, and is needed again"
    if not ranks:
        return "the file of its value is missing or damaged"
    return f"its value was lost on rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
