"""Who holds what: the claims taken from the pools of a job, and given back.

Ranks are grouped in *bays* (:mod:`handoff_mpi.allocation.seating`): the ranks of one host that draw on exactly the same
pools. A host without registered resources is one bay, however many ranks share it; a rank with resources of its own is
a bay of its own. Whether a cost fits is asked once per bay, never once per rank, and within a bay the ranks are kept in
order as well: so a placement costs the same with one rank a host and with hundreds.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from handoff_mpi.allocation.bays import Bay, Claim
from handoff_mpi.allocation.costs import GPU, CostClass
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.ranking import Changes, Ranking, Rate
from handoff_mpi.allocation.reach import Reach
from handoff_mpi.allocation.reservations import Reservations
from handoff_mpi.allocation.seating import Seating
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Amounts, Capability
from handoff_mpi.resources.amounts import UNIT, plain_number

# Why a rank is offered nothing for now.
SUSPECT = "suspect"
MEMORY = "memory"
PROBATION = "probation"


class Ledger:
    """The capability of a job and the claims on it.

    Args:
        capabilities: what each rank that computes offers.
        slots: rank to number of slots.
        job: resource name to amount, pools of the whole job.

    Attributes:
        seats: rank to its place.
        bays: by their numbers.
        classes: by their numbers.
        idle_slots: how many slots may be claimed.
        was_updated: whether any rank's resources have changed, so that claims may exceed what there is.
        changes: which bays have changed.
        reach: what could be run if nothing else ran.
        reservations: what is kept for those that were skipped too often.
        withheld: rank to why it is offered nothing for now.
    """

    def __init__(
        self, capabilities: Iterable[Capability], slots: Mapping[int, int], job: Amounts | None = None
    ) -> None:
        self._seating = seating = Seating(capabilities, slots)
        self.seats = seating.seats
        self.bays = seating.bays
        self.classes: list[CostClass] = []
        self.job = {name: Pool(name, amount, amount) for name, amount in (job or {}).items()}
        self.idle_slots = sum(len(seat.offered) for seat in self.seats.values())
        self.was_updated = False
        self.withheld: dict[int, set[str]] = {}
        self.changes = Changes(self.bays)
        self.reach = Reach(seating, self.job, self.withheld)
        self.reservations = Reservations(seating, self.job, self.changes)
        self._ranking = Ranking(seating, self.changes)
        self._class_of: dict[Any, CostClass] = {}

    def capacity(self) -> dict[str, int | float]:
        """Return how much of each resource there is in all pools together, as users write it."""
        pools = {id(pool): pool for bay in self.bays for pool in bay.pools.values()}
        devices = {id(bay.devices): bay.devices for bay in self.bays if bay.devices is not None}
        total = Counter({GPU: sum(len(each.free) for each in devices.values()) * UNIT})
        for pool in (*pools.values(), *self.job.values()):
            total[pool.name] += pool.capacity
        return {name: plain_number(amount) for name, amount in total.items() if amount}

    def close(self) -> None:
        """Break the reference cycles; the ledger is of no use afterwards."""
        self.reservations.drop_all()
        for bay in self.bays:
            bay.seats.clear()

    # -- capability -------------------------------------------------------------------------------

    def update(self, rank: int, amounts: Amounts) -> None:
        """Register ``amounts`` for ``rank`` alone, in place of what it drew on; its claims move along.

        Raises:
            AllocationError: there is no such living rank, or a pool of the whole job has that name.
        """
        seat = self.seats.get(rank)
        if seat is None or not seat.is_alive:
            raise AllocationError(f"rank {rank} takes no part in this run, so its resources cannot be updated")
        shared = [name for name in amounts if name in self.job]
        if shared:
            raise AllocationError(f"{', '.join(shared)} belongs to the whole job (resources=), not to a rank")
        self.was_updated = True
        before = seat.bay
        self._seating.reseat(seat, amounts)
        self.reservations.drop_all()
        for claim in filter(None, seat.claims):
            claim.bay = seat.bay
            claim.bill = [(self._move(pool, amount, seat.bay), amount) for pool, amount in claim.bill]
        self._touch(before)
        self._touch(seat.bay)

    def offered_by(self, rank: int) -> dict[str, int | float]:
        """Return what ``rank`` offers, as users write it."""
        return self.seats[rank].bay.offered_amounts()

    def add_slots(self, rank: int, slots: int) -> None:
        """Let ``rank`` run ``slots`` calls at once from now on, if those are more than before."""
        seat = self.seats[rank]
        more = range(seat.slots, slots)
        if not more:
            return
        self.idle_slots -= len(seat.offered)
        seat.bay.withdraw(seat)
        seat.idle[:0] = reversed(more)
        seat.claims += [None] * len(more)
        seat.slots = slots
        self.idle_slots += len(seat.offered)
        seat.bay.offer(seat)
        self._touch(seat.bay)

    def _move(self, pool: Pool, amount: int, bay: Bay) -> Pool:
        """Take ``amount`` from the pool of that name that the rank draws on now, and give it back to ``pool``."""
        new = bay.pools.get(pool.name, pool)
        if new is pool or pool is self.job.get(pool.name):
            return pool
        pool.free += amount
        new.free -= amount
        for number in pool.bays:
            self._touch(self.bays[number])
        return new

    def remove(self, rank: int) -> None:
        """Take ``rank`` out: it is lost. Its claims must have been released."""
        seat = self.seats[rank]
        if seat.is_alive:
            self.idle_slots -= len(seat.offered)
            seat.is_alive = False
            seat.bay.leave(seat)
            self._touch(seat.bay)

    def restore(self, rank: int) -> None:
        """Take ``rank`` in again: it was silent, and is back."""
        seat = self.seats[rank]
        if not seat.is_alive:
            seat.is_alive = True
            self.idle_slots += len(seat.offered)
            self._seating.enter(seat)
            self._touch(seat.bay)

    def withhold(self, rank: int, why: str = SUSPECT) -> None:
        """Offer the idle slots of ``rank`` to nobody for now; its claims stay."""
        self.withheld.setdefault(rank, set()).add(why)
        self._set_withheld(rank, True)

    def offer_again(self, rank: int, why: str = SUSPECT) -> None:
        """Withhold ``rank`` for this reason no more; any other reason holds on."""
        reasons = self.withheld.get(rank, set())
        reasons.discard(why)
        if not reasons:
            self.withheld.pop(rank, None)
            self._set_withheld(rank, False)

    @contextmanager
    def lifted(self, ranks: Sequence[int], reasons: Collection[str]) -> Iterator[None]:
        """Set ``reasons`` to withhold ``ranks`` aside inside; a rank that is withheld for another as well stays so."""
        lifted = [(rank, why) for rank in ranks for why in reasons if why in self.withheld.get(rank, ())]
        for rank, why in lifted:
            self.offer_again(rank, why)
        try:
            yield
        finally:
            for rank, why in lifted:
                self.withhold(rank, why)

    def _set_withheld(self, rank: int, is_withheld: bool) -> None:
        seat = self.seats.get(rank)
        if seat is None or seat.is_withheld == is_withheld:
            return
        self.idle_slots -= len(seat.offered)
        seat.bay.withdraw(seat)
        seat.is_withheld = is_withheld
        self.idle_slots += len(seat.offered)
        seat.bay.offer(seat)
        self._touch(seat.bay)

    def _touch(self, bay: Bay) -> None:
        """What ``bay`` has or who sits there has changed."""
        self.changes.note(bay)
        self.reach.look_anew()
        self.reservations.drop_in(bay)

    # -- cost classes -----------------------------------------------------------------------------

    def cost_class(
        self,
        cost: Amounts,
        rank: int | None = None,
        host: str | None = None,
        avoid: int | None = None,
        avoid_hosts: frozenset[str] = frozenset(),
        need: Amounts | None = None,
    ) -> CostClass:
        """Return the class of tasks with this cost and these wishes, making it at first sight.

        A class copies ``cost`` and ``need``: what it and the indexes derive from them never goes stale.
        """
        wishes = (rank, host, avoid, avoid_hosts, None if need is None else tuple(need.items()))
        key = (tuple(cost.items()), wishes)
        known = self._class_of.get(key)
        if known is None:
            avoids = avoid is not None or bool(avoid_hosts)
            plain = self.cost_class(cost, rank, host, need=need) if avoids else None
            amounts = tuple((name, amount) for name, amount in cost.items() if name != GPU and name not in self.job)
            job = tuple((self.job[name], amount) for name, amount in cost.items() if name in self.job)
            cost = dict(cost)
            need = dict(need) if need else cost
            held_by_job = frozenset(
                name for name, amount in need.items() if name in self.job and amount <= self.job[name].capacity
            )
            number, gpu = len(self.classes), cost.get(GPU, 0)
            wanted = rank, host, avoid, avoid_hosts
            known = CostClass(number, cost, amounts, gpu, job, need, held_by_job, *wanted, plain)
            self.classes.append(known)
            self._class_of[key] = known
        return known

    # -- placing ----------------------------------------------------------------------------------

    def order_by(self, rate: Rate) -> None:
        """Order bays by ``rate`` from now on, least first."""
        self._ranking.order_by(rate)

    def best(self, cost: CostClass) -> Bay | None:
        """Return the bay with the least rating that has room for the class now, if any."""
        if not self.idle_slots or not self.has_job_room(cost):
            return None
        return self._ranking.best(cost)

    def has_job_room(self, cost: CostClass) -> bool:
        """Whether the pools of the whole job have room for one more claim of this class."""
        if not cost.job:
            return True
        if self.reservations.all:
            return self.reservations.has_job_room(cost)
        return all(pool.free >= amount for pool, amount in cost.job)

    def claim(self, cost: CostClass, rank: int) -> Claim:
        """Take what ``cost`` needs for an idle slot of ``rank``.

        Raises:
            AllocationError: it does not fit there now, or there is no such rank.
        """
        seat = self.seats.get(rank)
        if seat is None or not seat.is_alive:
            raise AllocationError(f"there is no rank {rank} to place a task on")
        bay = seat.bay
        if not cost.is_plain and (cost.rank not in (None, rank) or rank == cost.avoid):
            raise AllocationError(f"a task was placed on rank {rank}, where it must not run")
        if not seat.offered or not bay.fits(cost) or not self.has_job_room(cost):
            raise AllocationError(f"a task was placed on rank {rank}, which has no room for it")
        pools = bay.pools
        bill = [(pools[name], amount) for name, amount in cost.amounts]
        if cost.job:
            bill += cost.job
        for pool, amount in bill:
            pool.free -= amount
        devices: tuple[tuple[str, int], ...] = ()
        if cost.gpu and bay.devices is not None:
            kept = bay.kept_devices(cost) if bay.reservations else None
            devices = bay.devices.take(cost.gpu, bay.visible, rank, kept)
        slot = seat.idle.pop()
        self.idle_slots -= 1
        if not seat.idle:
            bay.idle.remove(rank)
        claim = seat.claims[slot] = Claim(cost, rank, slot, bill, devices, bay.devices if devices else None, bay)
        if bay.calm is not None:
            bay.note_busy(seat)
        self.changes.note_shared(bay, bill, claim.device_pool)
        if self.reservations.all:
            self.reservations.count_on(claim)
        return claim

    def covers(self, claim: Claim) -> bool:
        """Whether the claim's rank still has what it claimed, after an update."""
        if any(pool.free < 0 for pool, _ in claim.bill):
            return False
        if not claim.devices:
            return True
        bay = self.seats[claim.rank].bay
        return bay.devices is claim.device_pool and all(uuid in bay.visible for uuid, _ in claim.devices)

    def release(self, claim: Claim) -> None:
        """Give back what ``claim`` took."""
        seat = self.seats[claim.rank]
        bay = seat.bay
        for pool, amount in claim.bill:
            pool.free += amount
        if claim.device_pool is not None:
            for uuid, amount in claim.devices:
                claim.device_pool.free[uuid] += amount
        was_idle = bool(seat.idle)
        if was_idle:
            bisect.insort(seat.idle, claim.slot, key=_downwards)
        else:
            seat.idle.append(claim.slot)
        if seat.offered:
            self.idle_slots += 1
            if not was_idle:
                bisect.insort(bay.idle, claim.rank)
            if bay.calm is not None:
                bay.note_busy(seat)
        seat.claims[claim.slot] = None
        if self.reservations.all:
            self.reservations.count_off(claim)
        self.changes.note_shared(bay, claim.bill, claim.device_pool)

    def device_indices(self, claim: Claim) -> tuple[int, ...]:
        """Return the claimed devices' indices, as the claim's rank numbers them."""
        seat = self.seats[claim.rank]
        return tuple(seat.devices[uuid] for uuid, _ in claim.devices if uuid in seat.devices)


def _downwards(slot: int) -> int:
    return -slot
