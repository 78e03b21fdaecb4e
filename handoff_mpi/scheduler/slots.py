"""The slots of all ranks: what each has claimed, and which tasks are in flight there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from handoff_mpi.allocation import Claim, Ledger
from handoff_mpi.scheduler.ready import ReadyQueue


@dataclass(slots=True, eq=False)
class Slot:
    """A slot of a rank: its claim and the tasks in flight there, the running one first.

    Attributes:
        queue: whose tasks it runs under its claim.
        since: when its first task was dispatched, or became first.
    """

    rank: int
    number: int
    claim: Claim | None = None
    queue: ReadyQueue | None = None
    tasks: deque[int] = field(default_factory=deque)
    since: float = 0.0


class SlotTable:
    """All slots.

    Args:
        ledger: where claims are taken and given back.

    Attributes:
        of_rank: rank to its slots.
        of_task: the slot where a task is in flight.
        in_flight: how many tasks are.
        claimed: how many slots hold a claim.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.of_rank = {
            rank: [Slot(rank, number) for number in range(seat.slots)] for rank, seat in ledger.seats.items()
        }
        self.of_task: dict[int, Slot] = {}
        self.in_flight = 0
        self.claimed = 0
        self._ledger = ledger
        self._touched: dict[int, Slot] = {}

    def claim(self, queue: ReadyQueue, rank: int) -> Slot:
        """Claim what ``queue``'s tasks need on ``rank``, and return the slot that holds it.

        Raises:
            AllocationError: it does not fit there.
        """
        claim = self._ledger.claim(queue.cost, rank)
        slot = self.of_rank[rank][claim.slot]
        slot.claim, slot.queue = claim, queue
        queue.slots += 1
        self.claimed += 1
        return slot

    def release(self, slot: Slot) -> None:
        """Give back what ``slot`` has claimed."""
        assert slot.claim is not None
        assert slot.queue is not None
        self._ledger.release(slot.claim)
        self.claimed -= 1
        slot.queue.slots -= 1
        slot.claim = slot.queue = None

    def send_off(self, slot: Slot, tasks: list[int], now: float) -> None:
        """``tasks`` are in flight at ``slot`` from now on."""
        slot.since = now
        slot.tasks.extend(tasks)
        self.in_flight += len(tasks)
        for task in tasks:
            self.of_task[task] = slot

    def land(self, task: int, now: float) -> Slot:
        """``task`` is in flight no more; its slot will be looked at in this turn."""
        slot = self.of_task.pop(task)
        tasks = slot.tasks
        if tasks[0] == task:
            tasks.popleft()
            slot.since = now
        else:
            tasks.remove(task)
        self.in_flight -= 1
        self._touched[id(slot)] = slot
        return slot

    def touched(self) -> list[Slot]:
        """Return the slots where tasks landed since this was last asked."""
        touched, self._touched = self._touched, {}
        return list(touched.values())

    def waiting_behind(self, rank: int) -> list[int]:
        """Return the tasks that wait at ``rank`` behind a running one."""
        return [task for slot in self.of_rank[rank] for task in list(slot.tasks)[1:]]
