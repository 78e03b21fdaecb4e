"""What ran where and when: one plain record a function, for everything that is drawn or told after a run.

Nothing here refers to a live object of the run, so that a record read from a file is as good as a new one.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setback:
    """Why a function had to be called again, or failed.

    Attributes:
        launch: number of the launch of the run, from 1.
        attempt: number of the call in that launch.
        rank: where it was.
        kind: the exception's class, "timeout", "death" (of the process that made the call), "rank-lost" or
            "value-lost" (after the call had ended well); also what a :class:`FunctionError` may have.
        reason: in words.
    """

    launch: int
    attempt: int
    rank: int
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What became of one function in one run.

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
        setbacks: why it was called more than once, or failed; those of earlier launches too.
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
    setbacks: tuple[Setback, ...] = ()
