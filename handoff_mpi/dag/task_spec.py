"""The facts that the scheduler has of a task."""

from __future__ import annotations

from dataclasses import dataclass

from handoff_mpi.dag.retry_on import Names
from handoff_mpi.resources import Amounts


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """The facts that the scheduler has of an array.

    Attributes:
        count: how many elements it has; 0 of a windowed array, whose elements come while it runs.
        chunk: at most so many elements are leased at once; None sets no limit.
        max_failures: once more elements than this have failed, no further ones begin; None sets no limit.
        window: at most so many elements have come and have not ended; None where all are known before the run.
    """

    count: int
    chunk: int | None = None
    max_failures: int | None = None
    window: int | None = None


@dataclass(slots=True)
class TaskSpec:
    """The facts that the scheduler has of a task. Equal tasks without inputs share one.

    Attributes:
        inputs: the numbers of the tasks whose values it takes, each once.
        cost: in fixed point.
        priority: larger ones first.
        max_retries: None inherits the run's.
        timeout_s: seconds from its start on the rank, or None.
        pin: a rank, a host name, or None.
        group: a number shared by tasks that are collocated, or None.
        keep: whether its value must outlast the run.
        code: number of its code; tasks of one code are taken to last alike.
        stays: its value must stay where it was made until asked for (a consumer encodes it there).
        retry_on: the names of the exceptions after which it is tried again; None inherits the run's.
        retry_delay_s: seconds before its first retry; None inherits the run's.
        array: of an array, whose elements the attributes above describe one by one; None for a single function.
    """

    inputs: tuple[int, ...]
    cost: Amounts
    priority: int = 0
    max_retries: int | None = None
    timeout_s: float | None = None
    pin: int | str | None = None
    group: int | None = None
    keep: bool = False
    code: int = 0
    stays: bool = False
    retry_on: Names | None = None
    retry_delay_s: float | None = None
    array: ArraySpec | None = None
