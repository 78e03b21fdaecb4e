"""The leases of arrays: entries of the task table, each for the elements that one slot computes next."""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.messages import Interval
from handoff_mpi.scheduler.array_failures import failures_of
from handoff_mpi.scheduler.array_state import Array, Lease
from handoff_mpi.scheduler.events import Failure
from handoff_mpi.scheduler.tasks import TaskTable


class LeaseTable:
    """Arrays, and the leases of their elements.

    Args:
        tasks: the scheduler's table.

    Attributes:
        of: array number to its elements.
        leases: lease number to its elements; those that ended in this turn are still there.
    """

    def __init__(self, tasks: TaskTable) -> None:
        self.of: dict[int, Array] = {}
        self.leases: dict[int, Lease] = {}
        self._tasks = tasks
        self._ended: list[int] = []

    def begin_turn(self) -> None:
        """The log of the turn before was read: the numbers of leases that ended may be used again."""
        for number in self._ended:
            lease = self.leases.pop(number)
            self._tasks.lease_failures.pop(number, None)
            array = self.of[lease.array]
            if self._tasks.specs[number] is array.lease_spec:
                array.free.append(number)
        self._ended.clear()

    def _begin(self, number: int, lease: int, intervals: Sequence[Interval]) -> None:
        """Note a lease, which the task table holds."""
        self.of[number].leases.add(lease)
        self.leases[lease] = Lease(number, IntervalSet(intervals))

    def follow(self, leader: int, number: int, start: int, stop: int) -> int:
        """Return a new lease of elements of array ``number``, which take the values of those of lease ``leader``."""
        array = self.of[number]
        lease = self._tasks.add_lease(array.lease_spec, array.free)
        self._begin(number, lease, [(start, stop)])
        self.leases[lease].follows = leader
        self._tasks.attempts[number] = 1
        return lease

    def sent(self, number: int, now: float) -> None:
        """A lease was sent to a rank."""
        self.of[self.leases[number].array].in_flight[number] = now

    def landed(self, number: int) -> None:
        """A lease is at no rank any more, or has no elements that could be asked for."""
        self.of[self.leases[number].array].in_flight.pop(number, None)

    def attempt(self, number: int) -> int:
        """Return the attempt of a task, or of the elements of a lease: another lease alone is no other attempt."""
        lease = self.leases.get(number)
        return self._tasks.attempts[number] if lease is None else lease.incidents + 1

    def has_work(self, number: int) -> bool:
        """Whether a number that is in flight stands for anything whose end is not known: a lease may have no more."""
        lease = self.leases.get(number)
        return lease is None or bool(lease.intervals)

    def leader_of(self, number: int) -> int:
        """Return the lease that a lease follows, if it has not ended; -1 for other numbers."""
        lease = self.leases.get(number)
        return -1 if lease is None else lease.follows

    def is_dropped(self, lease: int) -> bool:
        """Whether a number is that of a lease whose array begins nothing more."""
        return lease in self.leases and self.of[self.leases[lease].array].has_too_many_failures

    def failures_of(self, number: int) -> list[tuple[tuple[Interval, ...], Failure]]:
        """Return which elements of a lease have failed for good, in this turn, and why."""
        return failures_of(self.leases[number], self._tasks.lease_failures[number])
