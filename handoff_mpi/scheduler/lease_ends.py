"""The ends of leases: what becomes of the elements of an array that a rank has computed, or tried to."""

from __future__ import annotations

from typing import Any

from handoff_mpi.messages import OK, RAISED, ErrorReport, LeaseReport
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.crash_tracker import CrashTracker
from handoff_mpi.scheduler.device_losses import DeviceLosses
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.failures import Failures
from handoff_mpi.scheduler.tasks import TaskTable


class LeaseEnds:
    """Ends leases, and has those of their elements that failed judged as failed tasks are.

    Args:
        arrays, tasks: the scheduler's tables.
        failures: judges.
        crash_tracker: knows deaths.
        durations: learns how long leases take.
        device_losses: knows the devices that failed under leases.
    """

    def __init__(
        self,
        arrays: Arrays,
        tasks: TaskTable,
        failures: Failures,
        crash_tracker: CrashTracker,
        durations: Durations,
        device_losses: DeviceLosses,
    ) -> None:
        self._arrays = arrays
        self._tasks = tasks
        self._failures = failures
        self._crash_tracker = crash_tracker
        self._durations = durations
        self._device_losses = device_losses

    def finished(self, lease: int, rank: int, status: int, value: Any, duration: float, now: float) -> bool:
        """A rank reports that a lease has ended; return whether all of its elements that began have values.

        Args:
            status: OK also if elements failed, see ``value``.
            value: a :class:`~handoff_mpi.messages.LeaseReport` if the status is OK, else an
                :class:`~handoff_mpi.messages.ErrorReport`.
            duration: of the lease, in seconds.
        """
        if status != OK:
            self._arrays.broken_off(lease)
            if not self._arrays.has_work(lease):  # all that it could fail at had been reported
                self._tasks.end_lease(lease, rank)
                self._end(lease)
                return False
            error = ErrorReport(*value)
            if error.element >= 0:
                self._arrays.charge(lease, error.element)
            self._failures.failed(lease, rank, status, error, duration, now)
            return False
        self._durations.learn(lease, duration)
        failed = self._arrays.ended(lease, LeaseReport(*value))
        for each, _ in failed[1:]:
            self._failures.copy(lease, each)
        for each, error in failed:
            self._failures.failed(each, rank, RAISED, error, duration, now)
        if not failed:
            self._tasks.end_lease(lease, rank)
            self._failures.succeeded(lease, rank, now)
            self._end(lease)
        return not failed

    def settle(self) -> None:
        """End the leases that were skipped."""
        for lease in self._tasks.take_skipped_leases():
            self._arrays.skip(lease)
            self._forget(lease)

    def failed(self, task: int) -> None:
        """``task`` has failed for good: an array, a lease, or neither."""
        if task in self._arrays.leases:
            self._arrays.fail(task)
            self._forget(task)
        elif task in self._arrays.of:
            self._arrays.drop(task)

    def _end(self, lease: int) -> None:
        self._arrays.end(lease)
        self._forget(lease)

    def _forget(self, lease: int) -> None:
        """The number of the lease will stand for other elements."""
        self._crash_tracker.forget(lease)
        self._failures.forget(lease)
        self._device_losses.forget(lease)
        self._tasks.ran_on.pop(lease, None)
