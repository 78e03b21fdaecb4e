"""The ends of leases: what becomes of the elements of an array that a rank has computed, or tried to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handoff_mpi.messages import OK, RAISED, ErrorReport, Interval, LeaseReport
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.crash_tracker import CrashTracker
from handoff_mpi.scheduler.device_losses import DeviceLosses
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.failures import Failures
from handoff_mpi.scheduler.lifecycle import READY, WAITING, Cause
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

    def part_ended(self, lease: int, rank: int, report: LeaseReport, duration: float, now: float) -> None:
        """A part of a lease has ended: what succeeded speaks for the rank, and then what failed is judged."""
        failed = self._arrays.progress(lease, report)
        for each, _ in failed:
            self._failures.copy(lease, each)
        if report.left:
            self._give_back(lease, report.left, rank)
        if report.ended:
            self._failures.evidence.wins[rank] += 1
            self._failures.succeeded(lease, rank, now)
        for each, error in failed:
            self._judge(each, rank, RAISED, error, duration, now)
        if failed:
            self._failures.probe_ended(lease, now, has_failed=True)

    def finished(self, lease: int, rank: int, status: int, value: Any, duration: float, now: float) -> None:
        """A rank reports that a lease has ended.

        Args:
            status: OK also if elements failed, see ``value``.
            value: a :class:`~handoff_mpi.messages.LeaseReport` if the status is OK, else an
                :class:`~handoff_mpi.messages.ErrorReport`.
            duration: of the lease, in seconds.
        """
        self._arrays.landed(lease)
        self._arrays.leases[lease].follows = -1  # it has begun: what it takes is at rank 0
        if status != OK:
            self._broke_off(lease, rank, status, ErrorReport(*value), duration, now)
            return
        self._durations.learn(lease, duration)
        self.part_ended(lease, rank, LeaseReport(*value), duration, now)
        self._give_back(lease, self._arrays.leases[lease].intervals.intervals(), rank)
        self._end_well(lease, rank, now)

    def _broke_off(self, lease: int, rank: int, status: int, error: ErrorReport, duration: float, now: float) -> None:
        """The process of a lease has died or was ended, or could not begin: what was reported before counts."""
        if not self._arrays.has_work(lease):
            self._end_well(lease, rank, now)
            return
        element = error.element
        if element in self._arrays.leases[lease].intervals:
            begun = self._requeue(lease, self._arrays.split_begun(lease, element), rank)
            rest = self._arrays.leases[lease].intervals.copy()
            rest.discard(element, element + 1)
            for part in (begun, self._give_back(lease, rest.intervals(), rank)):
                self._crash_tracker.forget(part)  # it is known which element is to blame
        self._judge(lease, rank, status, error, duration, now)

    def _give_back(self, lease: int, intervals: Sequence[Interval], rank: int) -> int:
        """Elements of a lease, which have not begun, wait to be leased again; return the lease of them, -1 if none."""
        return self._requeue(lease, self._arrays.give_back(lease, intervals), rank)

    def _requeue(self, lease: int, part: int, rank: int) -> int:
        """A part of a lease comes back from its rank: it waits as that lease would; -1 is none."""
        if part >= 0:
            self._failures.copy(lease, part)
            self._tasks.move(part, Cause.RETRACTED, rank)
            self._tasks.requeue(part)
            self.end_if_dropped(part)
        return part

    def _judge(self, lease: int, rank: int, status: int, error: ErrorReport, duration: float, now: float) -> None:
        failed = self._arrays.leases[lease]
        failed.incidents += 1
        failed.failure = rank, error
        self._failures.failed(lease, rank, status, error, duration, now, is_last=self._arrays.is_dropped(lease))
        self.end_if_dropped(lease)

    def end_if_dropped(self, lease: int) -> None:
        """End a lease that came back from a rank, if its array begins nothing more, or nothing is left of it."""
        is_over = self._arrays.is_dropped(lease) or not self._arrays.has_work(lease)
        if is_over and self._tasks.state[lease] in (READY, WAITING):
            self._arrays.end_waiting([lease])

    def settle(self) -> None:
        """End the leases that were skipped, or given up with their arrays, and the selections of arrays that were."""
        while self._arrays.given_up:
            lease = self._arrays.given_up.pop()
            self._arrays.fail(lease)
            self._forget(lease)
        while numbers := self._tasks.take_set_aside():
            for number in numbers:
                if number in self._arrays.selections.of:
                    self._arrays.selections.settle(number)
                else:
                    self._arrays.skip(number)
                    self._forget(number)

    def failed(self, task: int) -> Sequence[int]:
        """``task`` has failed for good: an array, a lease, or neither.

        Returns:
            The array of which nothing more begins from now on, if there is one.
        """
        if task in self._arrays.leases:
            array = self._arrays.task_of(task)
            is_dropped = self._arrays.fail(task)
            self._forget(task)
            if is_dropped:
                leases, state = self._arrays.of[array].leases, self._tasks.state
                self._arrays.end_waiting([each for each in leases if state[each] in (READY, WAITING)])
                return (array,)
        elif task in self._arrays.of:
            self._arrays.drop(task)
        return ()

    def _end_well(self, lease: int, rank: int, now: float) -> None:
        """No element is left of a lease: those that ended and failed have been counted."""
        self._failures.probe_ended(lease, now, has_failed=False)
        self._tasks.end_lease(lease, rank)
        self._arrays.end(lease)
        self._forget(lease)

    def _forget(self, lease: int) -> None:
        """The number of the lease will stand for other elements."""
        self._crash_tracker.forget(lease)
        self._failures.forget(lease)
        self._device_losses.forget(lease)
        self._tasks.ran_on.pop(lease, None)
