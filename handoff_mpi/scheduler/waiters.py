"""Counts how often waiting functions are skipped, and reserves something for those that were skipped too often.

Younger functions skip one that finds no room, and use what it cannot. Such starts count, and the waiter notes which of
the resources it lacks they took. A waiter that was skipped too often gets a reservation
(:mod:`handoff_mpi.allocation.reservations`), but only while younger functions take of all that it lacks. If it lacks
something else as well, say a device that an older function holds, younger functions do not delay it.

A look at all waiters after each start would double the cost of a start, and most waiters start before a few others
have skipped them. So this module looks at a sample of the starts, and each counts for those since the last one of the
sample. The error is at most about an eighth of the skips that are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from handoff_mpi.allocation import Claim, Ledger, RequestClass, ResourceGroup
from handoff_mpi.allocation.reservations import Remaining
from handoff_mpi.allocation.resource_groups import SLOT
from handoff_mpi.resources.amounts import GPU
from handoff_mpi.scheduler.queues import MIN_SKIPS, SKIPS_PER_RANK, ReadyQueue
from handoff_mpi.scheduler.ready import ReadyTasks

#: One start in this many is in the sample, on average; more are on few ranks, where few skips are allowed.
MAX_SAMPLE_EVERY = 16
#: The same while functions wait for one host, since few skips are allowed there.
LOCAL_SAMPLE_EVERY = 2
#: A waiter is looked at once in this many skips, or more often if few ranks could run it.
MAX_LOOK_EVERY = 64
#: Multiples of the golden ratio are spread evenly: samples at such distances meet any pattern among younger functions.
_RANGE = 1 << 32
_GOLDEN = 0x9E3779B1


class Waiters:
    """Counts skips, and asks the ledger for reservations.

    Args:
        ledger: the capability of the job.
        ready: the queues.
        remaining: seconds until a claim is expected to be released.
    """

    def __init__(self, ledger: Ledger, ready: ReadyTasks, remaining: Remaining) -> None:
        self._ledger = ledger
        self._ready = ready
        self._reservations = ledger.reservations
        self._remaining = remaining
        self._owners: dict[ReadyQueue, None] = {}
        self._overdue: dict[ReadyQueue, None] = {}  # those that were skipped as often as they may be
        self._sample_every = min(MAX_SAMPLE_EVERY, 1 + ledger.feasibility.ranks_on(None) // 2)
        self._samples = 0
        self._starts = 0  # since the last sample
        self._next_sample = 1

    # -- what happens -------------------------------------------------------------------------------

    def review(self) -> None:
        """Drop the reservations of queues that no longer wait, and forget those that the ledger has dropped."""
        for queue in [*self._owners]:
            if queue.reservation not in self._reservations.all:
                self._forget(queue)
            elif not queue.tasks:
                self.served(queue)

    def served(self, queue: ReadyQueue) -> None:
        """The head of ``queue`` was sent off: what was counted and kept was for it."""
        queue.skips = queue.looked = queue.next_try = 0
        queue.eaten.clear()
        self._overdue.pop(queue, None)
        if queue.reservation is not None:
            self._reservations.drop(queue.reservation)
            self._forget(queue)

    def _forget(self, queue: ReadyQueue) -> None:
        queue.reservation = None
        self._owners.pop(queue, None)

    def is_sample(self, count: int = 1) -> bool:
        """Count the start of ``count`` tasks; return whether it is one of the sample, for :meth:`skipped`."""
        if not self._ready.has_several_queues:
            return False
        self._starts += count
        return self._starts >= self._next_sample

    def skipped(self, waiters: Iterable[ReadyQueue], claim: Claim) -> None:
        """A start of the sample skipped ``waiters``; it counts for all starts since the last one of the sample.

        Args:
            claim: the claim of the task that started.
        """
        count, self._starts = self._starts, 0
        self._next_sample = self._distance()
        for waiter in waiters:
            before = waiter.skips
            waiter.skips = skips = before + count
            is_overdue = skips >= waiter.max_skips
            if is_overdue:
                self._overdue[waiter] = None
            # most waiters are served before they are seen again
            if before and (skips - waiter.looked >= waiter.look_every or (is_overdue and skips < 8 * waiter.max_skips)):
                self._look(waiter, claim)

    def _distance(self) -> int:
        """Return how many starts lie between this sample and the next: any number, but the right one on average."""
        every = LOCAL_SAMPLE_EVERY if self._ready.has_local else self._sample_every
        self._samples += 1
        return 1 + (self._samples * _GOLDEN % _RANGE * (2 * every - 1) >> 32)

    # -- what younger ones take ---------------------------------------------------------------------

    def _look(self, waiter: ReadyQueue, claim: Claim) -> None:
        """Note what ``claim`` holds that the waiter lacks, as if all that skipped it since the last look took that."""
        count = waiter.skips - waiter.looked
        waiter.looked = waiter.skips
        if not waiter.look_every:
            enough = MIN_SKIPS + SKIPS_PER_RANK * self._ledger.feasibility.ranks_that_hold(waiter.cost)
            waiter.look_every = min(MAX_LOOK_EVERY, enough // 16)
        names = self._taken(waiter.cost, claim)
        group = self._where(waiter.cost, claim) if names else None
        if group is None:
            return
        for name in names:
            waiter.eaten[name] = waiter.eaten.get(name, 0) + count
        if self._is_due(waiter, claim) and self._is_delayed(waiter, group):
            self._reserve(waiter)

    def _taken(self, cost: RequestClass, claim: Claim) -> list[str]:
        """Return the names of what ``claim`` holds and a task of class ``cost`` lacks there."""
        needs = cost.amounts
        names = [pool.name for pool, amount in claim.draws if amount and pool.free < needs.get(pool.name, 0)]
        if claim.devices and cost.gpu and not _has_devices(claim.group, cost):
            names.append(GPU)
        if not claim.group.idle:
            names.append(SLOT)
        return names

    def _where(self, cost: RequestClass, claim: Claim) -> ResourceGroup | None:
        """Return a group of ranks where the class could run and would miss what ``claim`` holds, if there is one."""
        could_run = self._ledger.feasibility.could_run
        if could_run(cost, claim.group):
            return claim.group
        if any(pool in dict(claim.draws) for pool, _ in cost.job):
            return next(self._reservations.eligible(cost), None)
        groups = (self._ledger.groups[number] for pool, _ in claim.draws for number in pool.groups)
        return next((group for group in groups if could_run(cost, group)), None)

    def _is_due(self, waiter: ReadyQueue, claim: Claim) -> bool:
        """Whether the waiter was skipped too often, by all younger tasks or by those that took what it lacks."""
        if waiter.skips < waiter.next_try:
            return False
        if waiter.skips >= waiter.max_skips:
            return True
        allowed = (max(waiter.eaten.values()) - MIN_SKIPS) // SKIPS_PER_RANK
        return allowed > 0 and allowed >= self._eaters(waiter, claim)

    def _eaters(self, waiter: ReadyQueue, claim: Claim) -> int:
        """Return how many younger tasks at most could take what the waiter lacks at the same time, about."""
        ranks = self._ledger.feasibility.ranks_that_hold(waiter.cost)
        if not waiter.cost.job:
            return ranks
        scarce = [pool for pool, _ in waiter.cost.job if pool.name in waiter.eaten]
        holders = [(pool.capacity - pool.free) // amount for pool, amount in claim.draws if pool in scarce and amount]
        return min([ranks, *holders])

    def _is_delayed(self, waiter: ReadyQueue, group: ResourceGroup) -> bool:
        """Whether younger tasks took of all that the waiter lacks in ``group``, and it lacks more than a slot."""
        cost, eaten = waiter.cost, waiter.eaten
        lacking = group.lacks(cost) + [pool.name for pool, amount in cost.job if pool.free < amount]
        return any(name != SLOT for name in lacking) and all(name == SLOT or name in eaten for name in lacking)

    def _reserve(self, waiter: ReadyQueue) -> None:
        """Reserve for the waiter; once more if it was skipped as often again, another group may have room sooner."""
        if waiter.reservation is not None:
            self._reservations.drop(waiter.reservation)
        order = waiter.order_with_tasks()
        waiter.reservation = self._reservations.make(waiter.cost, order, waiter.eaten, self._remaining)
        waiter.next_try = waiter.skips + waiter.max_skips // (8 if waiter.reservation is None else 1)
        if waiter.reservation is None:
            self._owners.pop(waiter, None)
        else:
            self._owners[waiter] = None

    # -- slots that keep their claims ---------------------------------------------------------------------------

    def may_go_on(self, queue: ReadyQueue, claim: Claim, may_start_more: Callable[[], bool]) -> bool:
        """Whether the slot of ``claim`` may continue with ``queue`` although older queues may wait.

        Args:
            may_start_more: whether more slots may be claimed; while none may, each claim is what the others lack.
        """
        if not self._ready.is_age_all(queue):
            older = self._ready.older_than(queue, queue.tasks[0], claim.group.host)
            if not self._may_go_before(older, queue, claim, not may_start_more()):
                return False
        elif self._overdue:
            order = queue.order_with_tasks()
            older = [each for each in self._overdue if each.tasks and each.order_with_tasks() < order]
            if not self._may_go_before(older, queue, claim, not may_start_more()):
                return False
        return not self._reservations.all or self._reservations.may_stay(claim, queue.order_with_tasks())

    def _may_go_before(self, waiters: Iterable[ReadyQueue], queue: ReadyQueue, claim: Claim, is_full: bool) -> bool:
        """Whether none of these older queues has a better right to what the claim holds."""
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
        return True

    def _would_help(self, cost: RequestClass, claim: Claim) -> bool:
        """Whether there would be room for the class if ``claim`` were released."""
        group = claim.group
        if cost.rank not in (None, claim.rank) or cost.avoid == claim.rank:
            return False
        back = dict(claim.draws)
        if any(pool.free + back.get(pool, 0) < amount for pool, amount in cost.job):
            return False
        for name, amount in cost.pool_amounts:
            pool = group.pools.get(name)
            if pool is None or pool.free + back.get(pool, 0) < amount:
                return False
        if cost.gpu and not _has_devices(group, cost, claim):
            return False
        return self._ledger.feasibility.could_run(cost, group)


def _has_devices(group: ResourceGroup, cost: RequestClass, released: Claim | None = None) -> bool:
    """Whether the devices that the class needs are free in ``group``, or would be if a claim were released."""
    if group.devices is None:
        return False
    kept = dict.fromkeys(group.visible, 0)
    if released is not None:
        kept.update((uuid, -part) for uuid, part in released.devices if uuid in kept)
    return group.devices.has(cost.gpu, group.devices_for(cost), kept)
