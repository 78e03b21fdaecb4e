"""Sends tasks to slots: the books change at once, and the coordinator gets a command for each batch."""

from __future__ import annotations

from handoff_mpi.allocation import Claim
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.chained_leases import ChainedLeases
from handoff_mpi.scheduler.events import Dispatch
from handoff_mpi.scheduler.lifecycle import Cause
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.slots import Slot, SlotTable
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.transitions import Claimed, Released


class Dispatches:
    """The dispatches of a turn.

    Args:
        tasks, ready, slots: the scheduler's tables.
        arrays: the arrays, and their leases.
        chained_leases: makes leases, which are sent in the places of arrays.

    Attributes:
        fed: the slots that got tasks in this turn, or lost one and still have others.
        has_bound: whether a collocated group was bound to a rank, so that its other members may be placed.
        logs_claims: whether claims and their release go into the log.
    """

    def __init__(
        self, tasks: TaskTable, ready: ReadyTasks, slots: SlotTable, arrays: Arrays, chained_leases: ChainedLeases
    ) -> None:
        self.fed: dict[Slot, None] = {}
        self.has_bound = False
        self.logs_claims = False
        self._tasks = tasks
        self._ready = ready
        self._leaders = ready.groups.leaders
        self._slots = slots
        self._arrays = arrays
        self._chained_leases = chained_leases
        self._of_arrays = arrays.of
        self._commands: list[Dispatch] = []

    def send(self, slot: Slot, tasks: list[int], claim: Claim | None, now: float, cause: Cause = Cause.PLACED) -> None:
        """Send ``tasks`` to ``slot``; ``claim`` is given when the slot starts on a new one."""
        if self._of_arrays:
            lease, arrays = self._chained_leases.lease, self._of_arrays
            tasks = [each for task in tasks for each in (lease(task, slot) if task in arrays else (task,))]
        attempts, move, rank = self._tasks.attempts, self._tasks.move, slot.rank
        self._slots.send_off(slot, tasks, now)
        sent = []
        for task in tasks:
            attempts[task] += 1
            move(task, cause, rank)
            sent.append((task, attempts[task]))
        if self._of_arrays:
            self._note_leases(tasks, now)
        self._commands.append(Dispatch(rank, slot.number, claim, sent))
        if self._leaders:
            for task in tasks:
                self.has_bound |= self._ready.bind(task, rank)

    def _note_leases(self, tasks: list[int], now: float) -> None:
        for task in tasks:
            if task in self._arrays.leases:
                self._arrays.sent(task, now)

    def log_claimed(self, slot: Slot) -> None:
        """Log that ``slot`` has taken a claim, for its first task."""
        assert slot.claim is not None
        self._tasks.log_rank(slot.rank, Claimed(slot.tasks[0], slot.claim.cost.amounts))

    def log_released(self, slot: Slot) -> None:
        """Log that ``slot`` releases its claim."""
        assert slot.claim is not None
        self._tasks.log_rank(slot.rank, Released(slot.claim.cost.amounts))

    def take_commands(self) -> list[Dispatch]:
        """Return the commands of this turn."""
        commands, self._commands = self._commands, []
        return commands
