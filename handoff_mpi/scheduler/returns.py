"""Takes back tasks that were at a rank and have no outcome: retracted, refused, without an input, or lost with it."""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.lifecycle import READY, Cause
from handoff_mpi.scheduler.probation import Probation
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.retractions import Retractions
from handoff_mpi.scheduler.slots import Slot, SlotTable
from handoff_mpi.scheduler.tasks import TaskTable


class Returns:
    """Tasks that come back from ranks.

    Args:
        tasks, ready, slots: the scheduler's tables.
        retractions: what ranks were asked to give back.
        probation: a probe that comes back without an outcome says nothing about its rank.
        arrays: end a lease if nothing more of its array begins, or nothing is left of it.

    Attributes:
        has_work: whether a number stands for anything whose end is not known.
    """

    def __init__(
        self,
        tasks: TaskTable,
        ready: ReadyTasks,
        slots: SlotTable,
        retractions: Retractions,
        probation: Probation,
        arrays: Arrays,
    ) -> None:
        self._tasks = tasks
        self._deferred = ready.deferred
        self._slots = slots
        self._retractions = retractions
        self._probation = probation
        self.has_work = arrays.has_work
        self._leases, self._arrays = arrays.leases, arrays

    def take_back(self, task: int, cause: Cause, now: float, detail: object = None) -> Slot:
        """Take ``task`` back from its rank, for this cause; return the slot where it was."""
        slot = self._slots.land(task, now)
        self._retractions.asked.discard(task)
        self.put_back(task, cause, slot.rank, now, detail)
        return slot

    def put_back(self, task: int, cause: Cause, rank: int, now: float, detail: object = None) -> None:
        """As :meth:`take_back`, of a task that was in a slot of ``rank`` and is in none any more."""
        if task in self._probation.probes:
            self._probation.came_back(task, now, has_failed=False)
        self._tasks.move(task, cause, rank, detail)
        if task in self._leases:
            self._arrays.landed(task)
            self._leases[task].incidents += cause in (Cause.RANK_LOST, Cause.DEVICE_LOST)
            if self._leases[task].follows >= 0 and not self._arrays.is_dropped(task):
                self._arrays.links.await_again(self._leases[task])

    def suspect_followers(self, tasks: Sequence[int]) -> None:
        """The rank of ``tasks`` has died, maybe in a lease that follows another one, whose end rank 0 does not know.

        Its elements wait again, and run in a child process then.
        """
        for task in tasks:
            if self._arrays.leader_of(task) >= 0:
                lease = self._leases[task]
                self._arrays.of[lease.array].suspects.append(lease.intervals.intervals())

    def is_shared(self, task: int) -> bool:
        """Whether a number stands for several elements of an array, one of which ran at most."""
        lease = self._leases.get(task)
        return lease is not None and len(lease.intervals) > 1

    def requeue(self, tasks: Sequence[int]) -> None:
        """Put READY tasks back at the heads of their queues, in the order they had; not those that must wait.

        Leases of which nothing is left to do, or of arrays of which nothing more begins, end.
        """
        for task in reversed(tasks):
            if self._leases and (self._arrays.is_dropped(task) or not self.has_work(task)):
                self._arrays.end_waiting([task])
            elif self._tasks.state[task] == READY and task not in self._deferred:
                self._tasks.requeue(task)
