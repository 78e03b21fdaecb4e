"""A call as data, for those that pass it on: what it needs, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handoff_mpi.messages import ErrorReport
from handoff_mpi.serialization import Payload


@dataclass(slots=True)
class CallSpec:
    """All that a call needs.

    Attributes:
        values: of each input ``(payload, codec or None, rank that encoded it or -1)``.
    """

    id: Any
    attempt: int
    call_template: Any
    values: Sequence[tuple[Payload, Any, int]]
    cores: float
    gpus: tuple[int, ...]


@dataclass(slots=True)
class Outcome:
    """How a call ended: a payload if status is OK, else an error; duration in seconds."""

    status: int
    payload: Payload | None
    error: ErrorReport | None
    duration: float
