"""Asks ranks to give back tasks that they have not started, when another slot could run them or none should."""

from __future__ import annotations

from handoff_mpi.allocation import Ledger
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.events import Command, Retract
from handoff_mpi.scheduler.slots import Slot, SlotTable
from handoff_mpi.scheduler.tasks import TaskTable

#: A task that has waited behind a running one for this long is asked for again when another slot is idle.
LONG_TASK_S = 0.02
_NEVER = float("inf")


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
        self._arrays = arrays
        self._next_recall = 0.0
        self._due = _NEVER
        self._ledger = ledger
        self._tasks = tasks
        self._slots = slots
        self._commands = commands

    def retract_queued(self, rank: int) -> None:
        """Ask for what has not started at ``rank``, and was not asked for before."""
        tasks = [task for task in self._slots.waiting_behind(rank) if task not in self.asked]
        if tasks:
            for task in tasks:
                self._note_asked(task)
            self._commands.append(Retract(rank, [(task, self._tasks.attempts[task]) for task in tasks]))

    def retract_for_idle(self, now: float) -> list[Retract]:
        """Ask for tasks that wait behind a long one when slots are idle, unless the long one makes their input.

        Leases that follow others come back with these. What follows the running one has elements that could run, if
        that has reported those which they take.

        At most as many slots are asked as are idle, those first whose task has run for the longest time.
        """
        if self._slots.in_flight <= self._slots.claimed or not self._ledger.idle_slots:
            return []
        missing, attempts, leader_of = self._tasks.missing, self._tasks.attempts, self._arrays.leader_of
        found: dict[int, list[tuple[int, int]]] = {}
        for slot in self._slots.long_since(now - LONG_TASK_S, self._ledger.idle_slots):
            assert slot.queue is not None
            if self._ledger.best(slot.queue.cost) is None:
                continue
            running, *behind = slot.tasks
            tasks = [task for task in behind if not (missing[task] or task in self.asked)]
            tasks = [task for task in tasks if leader_of(task) in (-1, running)]
            for task in tasks:
                self._note_asked(task)
            found.setdefault(slot.rank, []).extend((task, attempts[task]) for task in tasks)
        return [Retract(rank, tasks) for rank, tasks in sorted(found.items()) if tasks]

    def recall_all(self) -> None:
        """Ask running leases for the elements that have not begun."""
        for array in self._arrays.of.values():
            recalled = [lease for lease in array.in_flight if self._is_first(lease) and self._has_several(lease)]
            self._commands += [self._recall(lease) for lease in recalled]

    def recall_array(self, array: int) -> None:
        """Nothing more of an array begins: ask its leases, also those behind a running one, for what has not begun."""
        leases = [lease for lease in self._arrays.of[array].leases if lease not in self.asked]
        self._commands += [self._recall(lease) for lease in leases if lease in self._slots.of_task]

    def recall_for_idle(self, now: float) -> list[Retract]:
        """Ask long running leases for the elements that have not begun, when slots are idle and nothing else waits.

        At most as many are asked as slots are idle, those first that are at their ranks for the longest time.
        """
        self._due = _NEVER
        idle = self._ledger.idle_slots
        if not (idle and self._arrays.ending and self._slots.may_claim_more()):
            return []
        if now < self._next_recall:
            self._due = self._next_recall
            return []
        recalled: list[Retract] = []
        for array in self._arrays.ending:
            recalled += self._recall_long(self._arrays.of[array].in_flight, now, idle - len(recalled))
            if len(recalled) == idle:
                break
        if recalled:
            self._next_recall = self._due = now + LONG_TASK_S
        return recalled

    def _recall_long(self, in_flight: dict[int, float], now: float, count: int) -> list[Retract]:
        """Ask at most ``count`` long running leases of an array; none of them is looked at again soon."""
        found: list[int] = []
        later: list[int] = []
        single: list[int] = []
        for lease, since in in_flight.items():
            if now - since < LONG_TASK_S:
                self._due = min(self._due, since + LONG_TASK_S)
                break
            if len(found) == count or not self._has_room(self._slots.of_task[lease]):
                break  # an event tells when there is room
            if not self._has_several(lease):
                single.append(lease)
            else:
                (found if self._is_first(lease) else later).append(lease)
        for lease in (*single, *later):
            del in_flight[lease]
        in_flight.update(dict.fromkeys(later, now))
        return [self._recall(lease) for lease in found]

    def _has_room(self, slot: Slot) -> bool:
        return slot.queue is not None and self._ledger.best(slot.queue.cost) is not None

    def _is_first(self, lease: int) -> bool:
        """Whether a lease runs, as far as is known: it waits behind no other task."""
        return self._slots.of_task[lease].tasks[0] == lease

    def _has_several(self, lease: int) -> bool:
        """Whether a lease has elements besides the one that runs."""
        return len(self._arrays.leases[lease].intervals) > 1

    def _recall(self, lease: int) -> Retract:
        self._note_asked(lease)
        return Retract(self._slots.of_task[lease].rank, [(lease, self._tasks.attempts[lease])])

    def _note_asked(self, task: int) -> None:
        self.asked.add(task)
        if task in self._arrays.leases:
            self._arrays.landed(task)

    def next_wakeup(self, now: float) -> float:
        """Return when tasks that wait behind a long one, or the elements of long leases, should be asked for."""
        if self._ledger.idle_slots and self._slots.in_flight > self._slots.claimed:
            return min(self._due, now + LONG_TASK_S)
        return self._due
