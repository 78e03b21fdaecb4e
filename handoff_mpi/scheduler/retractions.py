"""Asks ranks to give back tasks that they have not started, when another slot could run them or none should."""

from __future__ import annotations

from handoff_mpi.allocation import Ledger
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.events import Command, Retract
from handoff_mpi.scheduler.slots import Slot, SlotTable
from handoff_mpi.scheduler.tasks import TaskTable

#: A task that has waited behind a running one for this long is asked for again when another slot is idle.
LONG_TASK_S = 0.02


class Retractions:
    """The tasks that ranks were asked to give back.

    Args:
        ledger, tasks, slots, arrays: the scheduler's tables.
        commands: the commands of this turn, which :meth:`retract_queued` adds to.

    Attributes:
        asked: tasks that were asked for, and are in flight still.
    """

    def __init__(
        self, ledger: Ledger, tasks: TaskTable, slots: SlotTable, arrays: Arrays, commands: list[Command]
    ) -> None:
        self.asked: set[int] = set()
        self._leases, self._of_arrays = arrays.leases, arrays.of
        self._next_recall = 0.0
        self._ledger = ledger
        self._tasks = tasks
        self._slots = slots
        self._commands = commands

    def retract_queued(self, rank: int) -> None:
        """Ask for what has not started at ``rank``, and was not asked for before."""
        tasks = [task for task in self._slots.waiting_behind(rank) if task not in self.asked]
        if tasks:
            self.asked.update(tasks)
            self._commands.append(Retract(rank, [(task, self._tasks.attempts[task]) for task in tasks]))

    def retract_for_idle(self, now: float) -> list[Retract]:
        """Ask for tasks that wait behind a long one when a slot is idle, unless the long one makes their input."""
        if self._slots.in_flight <= self._slots.claimed or not self._ledger.idle_slots:
            return []
        missing, attempts = self._tasks.missing, self._tasks.attempts
        found: dict[int, list[tuple[int, int]]] = {}
        for slot in self._slots.long_since(now - LONG_TASK_S):
            assert slot.queue is not None
            if self._ledger.best(slot.queue.cost) is None:
                continue
            tasks = [task for task in slot.tasks[1:] if not missing[task] and task not in self.asked]
            self.asked.update(tasks)
            found.setdefault(slot.rank, []).extend((task, attempts[task]) for task in tasks)
        return [Retract(rank, tasks) for rank, tasks in sorted(found.items()) if tasks]

    def recall_all(self) -> None:
        """Ask running leases for the elements that have not begun."""
        for lease in self._recallable():
            self._commands.append(self._recall(lease))

    def recall_array(self, array: int) -> None:
        """Nothing more of an array begins: ask its leases, also those behind a running one, for what has not begun."""
        leases = [number for number in self._of_arrays[array].leases if number not in self.asked]
        self._commands += [self._recall(lease) for lease in leases if lease in self._slots.of_task]

    def recall_for_idle(self, now: float) -> list[Retract]:
        """Ask long running leases for the elements that have not begun, when a slot is idle and nothing else waits."""
        if not self._ledger.idle_slots or now < self._next_recall:
            return []
        self._next_recall = now + LONG_TASK_S
        recalled = []
        for lease in self._recallable():
            slot = self._slots.of_task[lease]
            is_exhausted = not self._of_arrays[self._leases[lease].array].todo
            if is_exhausted and now - slot.since >= LONG_TASK_S and self._has_room(slot):
                recalled.append(self._recall(lease))
        return recalled

    def _has_room(self, slot: Slot) -> bool:
        return slot.queue is not None and self._ledger.best(slot.queue.cost) is not None

    def _recallable(self) -> list[int]:
        """Return the leases that run, have more than one element, and were not asked for any."""
        of_task = self._slots.of_task
        return [
            number
            for number, lease in self._leases.items()
            if len(lease.intervals) > 1
            and number not in self.asked
            and (slot := of_task.get(number)) is not None
            and slot.tasks[0] == number
        ]

    def _recall(self, lease: int) -> Retract:
        self.asked.add(lease)
        return Retract(self._slots.of_task[lease].rank, [(lease, self._tasks.attempts[lease])])

    def next_wakeup(self, now: float) -> float:
        """Return when tasks that wait behind a long one should be asked for again."""
        if self._leases and self._ledger.idle_slots:
            return now + LONG_TASK_S
        if self._ledger.idle_slots and self._slots.in_flight > self._slots.claimed:
            return now + LONG_TASK_S
        return float("inf")
