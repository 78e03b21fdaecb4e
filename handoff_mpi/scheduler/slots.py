"""The slots of all ranks: what each has claimed, and which tasks are in flight there."""

from __future__ import annotations

from dataclasses import dataclass, field

from handoff_mpi.allocation import Claim, Ledger
from handoff_mpi.scheduler.queues import ReadyQueue


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
    tasks: list[int] = field(default_factory=list)  # a batch at most; an empty deque takes ten times the room
    since: float = 0.0


class SlotTable:
    """All slots.

    Args:
        ledger: where claims are taken and given back.
        max_claimed: how many slots may hold a claim at once; None sets no limit.

    Attributes:
        of_rank: rank to its slots.
        of_task: the slot where a task is in flight.
        in_flight: how many tasks are.
        claimed: how many slots hold a claim.
        deep: slots where tasks wait behind a running one that were not asked for again, by their ``since``.
    """

    def __init__(self, ledger: Ledger, max_claimed: int | None = None) -> None:
        self.of_rank = {
            rank: [Slot(rank, number) for number in range(rank_state.slots)]
            for rank, rank_state in ledger.rank_states.items()
        }
        self.of_task: dict[int, Slot] = {}
        self.in_flight = 0
        self.claimed = 0
        self.deep: dict[Slot, None] = {}
        self._ledger = ledger
        self._max_claimed = max_claimed
        self._touched: dict[Slot, None] = {}

    def follow(self, rank: int) -> None:
        """Take in the slots that ``rank`` has been given since it joined."""
        slots = self.of_rank[rank]
        slots += [Slot(rank, number) for number in range(len(slots), self._ledger.rank_states[rank].slots)]

    def may_claim_more(self) -> bool:
        """Whether one more slot may hold a claim."""
        return self._max_claimed is None or self.claimed < self._max_claimed

    def claim(self, queue: ReadyQueue, rank: int) -> tuple[Slot, Claim]:
        """Claim what ``queue``'s tasks need on ``rank``; return the slot that holds it, and the claim.

        Raises:
            AllocationError: it does not fit there.
        """
        claim = self._ledger.claim(queue.cost, rank)
        slot = self.of_rank[rank][claim.slot]
        slot.claim, slot.queue = claim, queue
        queue.slots += 1
        self.claimed += 1
        return slot, claim

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
        slot.tasks += tasks
        self.in_flight += len(tasks)
        for task in tasks:
            self.of_task[task] = slot
        if self.deep or len(slot.tasks) > 1:
            self._place_by_since(slot)

    def land(self, task: int, now: float) -> Slot:
        """``task`` is no longer in flight; the scheduler will look at its slot in this turn."""
        slot = self.of_task.pop(task)
        tasks = slot.tasks
        if tasks[0] == task:
            del tasks[0]
            if slot.since != now or len(tasks) < 2:  # else it has its place since another task landed in this turn
                slot.since = now
                if self.deep:
                    self._place_by_since(slot)
        else:
            tasks.remove(task)
        self.in_flight -= 1
        self._touched[slot] = None
        return slot

    def _place_by_since(self, slot: Slot) -> None:
        """Keep :attr:`deep` in order: the time of ``slot`` is the latest now."""
        deep = self.deep
        if len(deep) != 1 or slot not in deep or len(slot.tasks) < 2:  # one alone is in order
            deep.pop(slot, None)
            if len(slot.tasks) > 1:
                deep[slot] = None

    def long_since(self, moment: float, count: int) -> list[Slot]:
        """Take out and return slots whose running task began at ``moment`` or before, with others behind it.

        Args:
            count: how many at most; the oldest come first.
        """
        found: list[Slot] = []
        for slot in self.deep:
            if slot.since > moment or len(found) == count:
                break
            found.append(slot)
        for slot in found:
            del self.deep[slot]
        return found

    def touched(self) -> list[Slot]:
        """Return the slots where tasks landed since this was last asked."""
        touched, self._touched = self._touched, {}
        return list(touched)

    def running(self) -> list[int]:
        """Return the tasks that run now, as far as is known: the first one of each slot."""
        return [slot.tasks[0] for slots in self.of_rank.values() for slot in slots if slot.tasks]

    def waiting_behind(self, rank: int) -> list[int]:
        """Return the tasks that wait at ``rank`` behind a running one."""
        return [task for slot in self.of_rank[rank] for task in slot.tasks[1:]]
