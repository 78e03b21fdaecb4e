"""Ready tasks, by cost class and priority."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from handoff_mpi.allocation import CostClass


class ReadyQueue:
    """Ready tasks of one cost class and one priority, oldest first.

    Attributes:
        cost: their class.
        priority: theirs.
        slots: how many slots hold a claim of this class for this queue now.
        passed: how many placements younger or equal tasks got since its head could not be placed.
    """

    __slots__ = ("cost", "passed", "priority", "slots", "tasks")

    def __init__(self, cost: CostClass, priority: int) -> None:
        self.cost = cost
        self.priority = priority
        self.tasks: deque[int] = deque()
        self.slots = 0
        self.passed = 0

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> int:
        return self.tasks[index]

    def order(self) -> tuple[int, int]:
        """Higher priority first, then the older head."""
        return (-self.priority, self.tasks[0])


def in_order(queues: Iterable[ReadyQueue]) -> list[ReadyQueue]:
    """Return the queues that hold tasks, in the order in which they should be served."""
    return sorted((queue for queue in queues if queue.tasks), key=ReadyQueue.order)
