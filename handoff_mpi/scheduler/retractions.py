"""Asks ranks to give back tasks that they have not started, when another slot could run them or none should."""

from __future__ import annotations

from handoff_mpi.allocation import Ledger
from handoff_mpi.scheduler.events import Command, Retract
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.tasks import TaskTable

#: A task that has waited behind a running one for this long is asked for again when another slot is idle.
LONG_TASK_S = 0.02


class Retractions:
    """The tasks that ranks were asked to give back.

    Args:
        ledger, tasks, slots: the scheduler's tables.
        commands: the commands of this turn, which :meth:`retract_queued` adds to.

    Attributes:
        asked: tasks that were asked for, and are in flight still.
    """

    def __init__(self, ledger: Ledger, tasks: TaskTable, slots: SlotTable, commands: list[Command]) -> None:
        self.asked: set[int] = set()
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

    def next_wakeup(self, now: float) -> float:
        """Return when tasks that wait behind a long one should be asked for again."""
        if self._ledger.idle_slots and self._slots.in_flight > self._slots.claimed:
            return now + LONG_TASK_S
        return float("inf")
