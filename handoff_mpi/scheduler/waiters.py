"""Counts how often waiting functions are skipped, and reserves something for those that were skipped too often.

Younger functions skip one that finds no room, and use what it cannot. Each such start counts, and the waiter notes
which of the resources it lacks they took. A waiter that was skipped too often gets a reservation
(:mod:`handoff_mpi.allocation.reservations`), but only while younger functions take of all that it lacks. If it lacks
something else as well, say a device that an older function holds, younger functions do not delay it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from handoff_mpi.allocation import Bay, Claim, CostClass, Ledger
from handoff_mpi.allocation.bays import SLOT
from handoff_mpi.allocation.costs import GPU
from handoff_mpi.allocation.reservations import Remaining
from handoff_mpi.scheduler.queues import MIN_SKIPS, SKIPS_A_RANK, ReadyQueue

#: At most one skip in this many is looked at, and counts for as many.
LOOK_EVERY = 4
LOOK_EVERY_OF_MANY = 16
#: Which ones are: multiples of the golden ratio are spread evenly, so no pattern among the younger tasks escapes.
_RANGE = 1 << 32
_GOLDEN = 0x9E3779B1


def _look_every(skips: int, max_skips: int) -> int:
    """Return how rarely a skip is looked at: all are when it comes to the point."""
    if max_skips <= skips < max_skips + LOOK_EVERY_OF_MANY:
        return 1
    return LOOK_EVERY if skips < 8 * max_skips else LOOK_EVERY_OF_MANY


class Waiters:
    """Counts skips, and asks the ledger for reservations.

    Args:
        ledger: the capability of the job.
        remaining: seconds until a claim is expected to be released.
    """

    def __init__(self, ledger: Ledger, remaining: Remaining) -> None:
        self._ledger = ledger
        self._reservations = ledger.reservations
        self._remaining = remaining
        self._owners: dict[ReadyQueue, None] = {}

    # -- what happens -------------------------------------------------------------------------------

    def review(self) -> None:
        """Drop the reservations of queues that wait no more, and forget those that the ledger has dropped."""
        for queue in [*self._owners]:
            if queue.reservation not in self._reservations.all:
                self._forget(queue)
            elif not queue.tasks:
                self.served(queue)

    def served(self, queue: ReadyQueue) -> None:
        """The head of ``queue`` was sent off: what was counted and kept was for it."""
        queue.skips = queue.next_try = 0
        queue.eaten.clear()
        if queue.reservation is not None:
            self._reservations.drop(queue.reservation)
            self._forget(queue)

    def _forget(self, queue: ReadyQueue) -> None:
        queue.reservation = None
        self._owners.pop(queue, None)

    def skipped(self, waiters: Iterable[ReadyQueue], claim: Claim, count: int = 1) -> None:
        """``count`` tasks younger than the heads of ``waiters`` were sent off under ``claim``."""
        for waiter in waiters:
            waiter.skips = skips = waiter.skips + count
            every = _look_every(skips, waiter.max_skips)
            if every == 1 or (skips * _GOLDEN) % _RANGE < _RANGE // every:
                names = self._taken(waiter.cost, claim)
                if names:
                    self._note_taken(waiter, names, claim, every * count)

    # -- what younger ones take ---------------------------------------------------------------------

    def _taken(self, cost: CostClass, claim: Claim) -> list[str]:
        """Return the names of what ``claim`` holds and a task of class ``cost`` lacks there."""
        needs = cost.cost
        names = [pool.name for pool, amount in claim.bill if amount and pool.free < needs.get(pool.name, 0)]
        if claim.devices and cost.gpu and not _has_devices(claim.bay, cost):
            names.append(GPU)
        if not claim.bay.idle:
            names.append(SLOT)
        return names

    def _note_taken(self, waiter: ReadyQueue, names: Sequence[str], claim: Claim, count: int) -> None:
        bay = self._where(waiter.cost, claim)
        if bay is None:
            return
        for name in names:
            waiter.eaten[name] = waiter.eaten.get(name, 0) + count
        if self._is_due(waiter, claim) and self._is_delayed(waiter, bay):
            self._reserve(waiter)

    def _where(self, cost: CostClass, claim: Claim) -> Bay | None:
        """Return a group of ranks where the class could run and would miss what ``claim`` holds, if there is one."""
        could_run = self._reservations.could_run
        if could_run(cost, claim.bay):
            return claim.bay
        if any(pool in dict(claim.bill) for pool, _ in cost.job):
            return next(self._reservations.eligible(cost), None)
        bays = (self._ledger.bays[number] for pool, _ in claim.bill for number in pool.bays)
        return next((bay for bay in bays if could_run(cost, bay)), None)

    def _is_due(self, waiter: ReadyQueue, claim: Claim) -> bool:
        """Whether the waiter was skipped too often, by all younger tasks or by those that took what it lacks."""
        if waiter.skips < waiter.next_try:
            return False
        if waiter.skips >= waiter.max_skips:
            return True
        return max(waiter.eaten.values()) >= MIN_SKIPS + SKIPS_A_RANK * self._eaters(waiter, claim)

    def _eaters(self, waiter: ReadyQueue, claim: Claim) -> int:
        """Return how many younger tasks at most could take what the waiter lacks at the same time, about."""
        ranks = self._ledger.reach.ranks_that_hold(waiter.cost)
        scarce = [pool for pool, _ in waiter.cost.job if pool.name in waiter.eaten]
        holders = [(pool.capacity - pool.free) // amount for pool, amount in claim.bill if pool in scarce and amount]
        return min([ranks, *holders])

    def _is_delayed(self, waiter: ReadyQueue, bay: Bay) -> bool:
        """Whether younger tasks took of everything that the waiter lacks in ``bay``, and it lacks more than a slot."""
        cost, eaten = waiter.cost, waiter.eaten
        lacking = bay.lacks(cost) + [pool.name for pool, amount in cost.job if pool.free < amount]
        return any(name != SLOT for name in lacking) and all(name == SLOT or name in eaten for name in lacking)

    def _reserve(self, waiter: ReadyQueue) -> None:
        """Reserve for the waiter; anew if it was skipped as often again, since another group may have room sooner."""
        if waiter.reservation is not None:
            self._reservations.drop(waiter.reservation)
        order = waiter.order_with_tasks()
        waiter.reservation = self._reservations.make(waiter.cost, order, waiter.eaten, self._remaining)
        waiter.next_try = waiter.skips + (MIN_SKIPS if waiter.reservation is None else waiter.max_skips)
        if waiter.reservation is None:
            self._owners.pop(waiter, None)
        else:
            self._owners[waiter] = None

    # -- slots that go on ---------------------------------------------------------------------------

    def may_go_on(self, waiters: Iterable[ReadyQueue], queue: ReadyQueue, claim: Claim, is_full: bool) -> bool:
        """Whether the slot of ``claim`` may go on with ``queue`` although older queues wait.

        Args:
            waiters: those, in order.
            is_full: whether as many slots are claimed as may be: then each claim is what they lack.
        """
        for waiter in waiters:
            if waiter.outweighs_plain and queue.cost is waiter.cost.plain:
                return False
            is_retry = waiter.cost.plain is not None  # it failed elsewhere, and this is where it may be tried again
            if is_retry or waiter.priority > queue.priority or waiter.skips >= waiter.max_skips:
                if self._ledger.best(waiter.cost) is not None:
                    if is_full:
                        return False
                elif self._would_help(waiter.cost, claim):
                    return False
        return self._reservations.may_stay(claim, queue.order_with_tasks()) if self._reservations.all else True

    def _would_help(self, cost: CostClass, claim: Claim) -> bool:
        """Whether there would be room for the class if ``claim`` were released."""
        bay = claim.bay
        if cost.rank not in (None, claim.rank) or cost.avoid == claim.rank:
            return False
        back = dict(claim.bill)
        if any(pool.free + back.get(pool, 0) < amount for pool, amount in cost.job):
            return False
        for name, amount in cost.amounts:
            pool = bay.pools.get(name)
            if pool is None or pool.free + back.get(pool, 0) < amount:
                return False
        if cost.gpu and not _has_devices(bay, cost, claim):
            return False
        return self._reservations.could_run(cost, bay)


def _has_devices(bay: Bay, cost: CostClass, released: Claim | None = None) -> bool:
    """Whether the devices that the class needs are free in ``bay``, or would be if a claim were released."""
    if bay.devices is None:
        return False
    kept = dict.fromkeys(bay.visible, 0)
    if released is not None:
        kept.update((uuid, -part) for uuid, part in released.devices if uuid in kept)
    return bay.devices.has(cost.gpu, bay.visible, kept)
