"""The facts that the scheduler has of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from handoff_mpi.arrays.links import OWN, Link
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.dag.retry_on import Names
from handoff_mpi.resources import Amounts


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """The facts that the scheduler has of an array.

    Attributes:
        count: how many elements it has; 0 if it has a window, as its elements come while it runs.
        chunk: at most so many elements are leased at once; None sets no limit.
        max_failures: once more elements than this have failed, no further ones begin; None sets no limit.
        element_s: seconds that an element is expected to take, as those of an earlier array did; None if that is
            unknown.
        min_count: at least so many elements are leased at once, where that many are left.
        links: the elements of arrays that its elements take.
        tree: the levels of an array that folds values, whose own value is that of its last element; else None.
        handles: elements that are values of tasks, or of selections: index to their numbers.
        window: at most so many elements have come and have not ended; None where all are known before the run. An array
            with links takes elements of one that has this window: it has as many elements as those.
        fan_in: how many values a block has of an array that folds values, the number of which is known while it runs;
            else None.
    """

    count: int
    chunk: int | None = None
    max_failures: int | None = None
    element_s: float | None = None
    min_count: int = 1
    links: Sequence[Link] = ()
    tree: Tree | None = None
    handles: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    window: int | None = None
    fan_in: int | None = None

    @property
    def is_fold(self) -> bool:
        """Whether it folds values."""
        return self.tree is not None or self.fan_in is not None


@dataclass(slots=True)
class TaskSpec:
    """The facts that the scheduler has of a task. Equal tasks without inputs share one.

    Attributes:
        inputs: the numbers of the tasks whose values it takes, each once; of an array, those that all elements take.
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
        takes: ``inputs`` with the numbers of selections in the place of arrays of which it takes some elements; None
            where it takes the values of all inputs whole.
        element_inputs: of an array, the tasks whose values, or elements, some of its elements are.
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
    takes: tuple[int, ...] | None = None
    element_inputs: tuple[int, ...] = ()

    @property
    def needs(self) -> tuple[int, ...]:
        """The tasks whose values, or values of whose elements, it or one of its elements takes, each once."""
        if self.array is None or not (self.array.links or self.element_inputs):
            return self.inputs
        sources = [link.source for link in self.array.links if link.source != OWN]
        return tuple(dict.fromkeys([*self.inputs, *sources, *self.element_inputs]))

    def with_array(self, array: ArraySpec | None, code: int, keep: bool) -> TaskSpec:
        """Return a copy with these; ``dataclasses.replace`` takes five times as long, which counts in a short map."""
        return TaskSpec(
            self.inputs,
            self.cost,
            self.priority,
            self.max_retries,
            self.timeout_s,
            self.pin,
            self.group,
            keep,
            code,
            self.stays,
            self.retry_on,
            self.retry_delay_s,
            array,
            self.takes,
            self.element_inputs,
        )
