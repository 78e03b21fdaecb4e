"""A call as data, for those that pass it on: what it needs, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handoff_mpi.arrays.columns import Packed
from handoff_mpi.arrays.columns import nbytes_of as column_nbytes
from handoff_mpi.messages import ErrorReport, LeaseElements, LeaseReport
from handoff_mpi.resources.device_names import Devices
from handoff_mpi.serialization import Payload, nbytes_of
from handoff_mpi.worker.elements import ElementLoop


class CallSpec:
    """All that a call needs.

    It is no dataclass: most calls keep the defaults, which take no time as attributes of the class.

    Attributes:
        values: of each input ``(payload, codec or None, rank that encoded it or -1)``.
        devices: those of its claim.
        elements: those of a lease; None for a function.
        loop: that of a lease which runs in this process, and that another thread may stop; None makes one.
    """

    values: Sequence[tuple[Payload, object, int]] = ()
    elements: LeaseElements | None = None
    loop: ElementLoop | None = None

    def __init__(
        self,
        id: object,
        attempt: int,
        call_template: Any,
        values: Sequence[tuple[Payload, object, int]],
        cores: float,
        devices: Devices,
        elements: LeaseElements | None = None,
        loop: ElementLoop | None = None,
    ) -> None:
        self.id = id
        self.attempt = attempt
        self.call_template = call_template
        self.values = values
        self.cores = cores
        self.devices = devices
        self.elements = elements
        self.loop = loop


@dataclass(slots=True)
class Outcome:
    """How a call ended: a payload, or the report of a lease, if status is OK, else an error; duration in seconds.

    Attributes:
        column: the values of the report as objects of this process, for leases that follow; None where they may change.
    """

    status: int
    payload: Payload | None
    error: ErrorReport | None
    duration: float
    report: LeaseReport | None = None
    column: Packed | None = None

    @property
    def nbytes(self) -> int:
        """The size of the payload, or of the values of a lease; 0 if there is none."""
        if self.report is not None:
            column = self.report.column
            assert isinstance(column, tuple)
            return column_nbytes(column)
        return 0 if self.payload is None else nbytes_of(self.payload)
