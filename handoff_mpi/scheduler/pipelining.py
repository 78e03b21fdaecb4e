"""Keeps slots busy without asking the strategy: a slot that keeps its claim gets further tasks before it runs dry.

Tasks of the class of a slot's claim follow to the slot and inherit the claim, so that short functions travel in
batches. If nothing is ready, a slot gets in advance what its own last task makes ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from handoff_mpi.allocation import Claim, Ledger
from handoff_mpi.scheduler.array_state import Array
from handoff_mpi.scheduler.arrays import MAX_LEASES
from handoff_mpi.scheduler.chained_leases import ChainedLeases
from handoff_mpi.scheduler.dispatches import Dispatches
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.lifecycle import WAITING, Cause
from handoff_mpi.scheduler.queues import ReadyQueue
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.retractions import LONG_TASK_S
from handoff_mpi.scheduler.slots import Slot, SlotTable
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.waiters import Waiters

#: A batch at a slot should last about this long: less wastes messages, more delays results.
BATCH_S = 0.004
#: A slot that waits for its next task loses some milliseconds: to longer functions than this they do not matter.
QUEUED_S = 0.25
#: Large inputs are fetched while their call waits: those at a slot should take no more memory than this.
AHEAD_NBYTES = 64 * 1024 * 1024


class Pipeline:
    """Gives slots further tasks, or releases their claims.

    Args:
        ledger, tasks, ready, slots: the scheduler's tables.
        waiters: what older queues may want.
        durations: how long calls take.
        dispatches: sends tasks.
        window: most tasks in flight at a slot; 0 where the strategy lets no slot keep its claim, but places each task.
        chained_leases: counts leases of arrays.
    """

    def __init__(
        self,
        ledger: Ledger,
        tasks: TaskTable,
        ready: ReadyTasks,
        slots: SlotTable,
        waiters: Waiters,
        durations: Durations,
        dispatches: Dispatches,
        window: int,
        chained_leases: ChainedLeases,
    ) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._ready = ready
        self._slots = slots
        self._waiters = waiters
        self._durations = durations
        self._mean_s = durations.mean_s
        self._dispatches = dispatches
        self._window = window
        self._reuses_claims = window > 0
        self._arrays: Mapping[int, Array] = chained_leases.arrays
        self._chained_leases = chained_leases

    # -- release --------------------------------------------------------------------------------------

    def release(self, now: float, may_refill: bool) -> None:
        """Give slots whose calls ended the next tasks of their class, or release their claims."""
        may_refill = may_refill and self._reuses_claims
        for slot in self._slots.touched():
            queue = slot.queue
            if queue is None or slot.claim is None:
                continue
            if may_refill and queue.tasks:
                self._continue(slot, queue, slot.claim, now)
            if slot.tasks:
                self._dispatches.fed[slot] = None
                continue
            if self._dispatches.logs_claims:
                self._dispatches.log_released(slot)
            self._slots.release(slot)

    def _continue(self, slot: Slot, queue: ReadyQueue, claim: Claim, now: float) -> None:
        """Send ``slot`` further tasks of ``queue``, unless an older queue waits for what its claim holds."""
        if not (self._durations.can_finish(queue.tasks[0]) and self._may_keep(claim)):
            return
        if self._waiters.may_go_on(queue, claim, self._slots.may_claim_more):
            head = queue.tasks[0]
            count = self._refill(slot, queue, now)
            if count and self._waiters.is_sample(count):
                self._waiters.skipped(self._ready.older_than(queue, head, claim.group.host), claim)

    def _may_keep(self, claim: Claim) -> bool:
        """Whether the claim's rank takes tasks, and still has what was claimed."""
        ledger = self._ledger
        return claim.rank not in ledger.cordoned and (not ledger.was_updated or ledger.covers(claim))

    def _refill(self, slot: Slot, queue: ReadyQueue, now: float) -> int:
        """Send a slot further tasks of its class; return how many."""
        if slot.tasks and now - slot.since >= LONG_TASK_S:
            return 0  # what runs there is longer than was thought
        if queue.tasks[0] in self._arrays:
            return self._lease(slot, queue, now)
        room = self._depth(queue.tasks[0]) - len(slot.tasks)
        if room < len(slot.tasks):
            return 0  # not worth a message yet
        share = -(-len(queue.tasks) // max(1, queue.slots))
        count = max(0, min(max(room, 0 if slot.tasks else 1), share))
        if count:
            if queue.skips:
                self._waiters.served(queue)
            self._dispatches.send(slot, queue.take_some(count), None, now)
        return count

    def _lease(self, slot: Slot, queue: ReadyQueue, now: float) -> int:
        """Send a slot leases of the array at the head of its queue; return how many."""
        count, depth = 0, self._lease_depth(queue.tasks[0])
        while self._chained_leases.count(slot.tasks) < depth and queue.tasks and queue.tasks[0] in self._arrays:
            if queue.skips:
                self._waiters.served(queue)
            self._dispatches.send(slot, [queue.take()], None, now)
            count += 1
        return count

    def _lease_depth(self, array: int) -> int:
        """Return how many leases of an array should be in flight at a slot; one while elements take long."""
        element_s = self._arrays[array].element_s
        return 1 if element_s is None or element_s > QUEUED_S else min(MAX_LEASES, self._window)

    def _depth(self, task: int) -> int:
        """Return how many tasks like this one should be in flight at a slot."""
        mean = self._mean_s.get(self._tasks.specs[task].code)
        if mean is None or mean > QUEUED_S:
            return 1
        depth = min(self._window, 2 + int(BATCH_S / max(mean, 1e-6)))
        if depth > 2 and self._tasks.holders:
            return max(2, min(depth, AHEAD_NBYTES // max(1, self._tasks.nbytes_to_fetch(task))))
        return depth

    # -- ahead ----------------------------------------------------------------------------------------

    def prefill(self, now: float) -> None:
        """If nothing is ready, send slots what will be: the first task that waits for nothing but their last one.

        It takes that value where it is made, so that a chain of short calls travels in batches too.
        """
        fed, self._dispatches.fed = self._dispatches.fed, {}
        if not fed or not self._reuses_claims:
            return
        if self._ready.is_queued():
            self._lease_behind(fed, now)
            return
        for slot in fed:
            if not slot.tasks or now - slot.since >= LONG_TASK_S:
                continue
            assert slot.claim is not None
            assert slot.queue is not None
            tasks = self._followers(slot, slot.queue)
            if tasks and self._may_keep(slot.claim):
                self._dispatches.send(slot, tasks, None, now, Cause.SENT_AHEAD)

    def _lease_behind(self, fed: Iterable[Slot], now: float) -> None:
        """Send slots that have just got a first lease of an array another one, if it is known how long leases take."""
        for slot in fed:
            queue, claim = slot.queue, slot.claim
            if queue is not None and claim is not None and queue.tasks and queue.tasks[0] in self._arrays:
                self._continue(slot, queue, claim, now)

    def _followers(self, slot: Slot, queue: ReadyQueue) -> list[int]:
        last, count = slot.tasks[-1], len(slot.tasks)
        followers: list[int] = []
        if self._depth(last) < 2 * count:
            return followers  # not worth a message yet
        while True:
            task = self._follower(last, queue)
            if task is None or self._depth(task) <= count + len(followers):
                return followers
            followers.append(task)
            last = task

    def _follower(self, last: int, queue: ReadyQueue) -> int | None:
        table = self._tasks
        for task in table.children[last]:
            if task in table.leases or task in self._arrays:
                continue  # an element that waits for this value, or an array: both are leased once they are ready
            if table.state[task] == WAITING and table.missing[task] == 1 and self._ready.is_like(task, queue):
                return task if self._durations.can_finish(task) else None
        return None
