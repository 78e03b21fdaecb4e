"""Who holds what: pools of capability, the ranks that draw on them, and the claims taken from them.

Ranks are grouped in *bays*: the ranks of one host that draw on exactly the same pools. A host without
registered resources is one bay, however many ranks share it; a rank with resources of its own is a bay of
its own. Whether a cost fits is asked once per bay, never once per rank.

For each cost class the ledger keeps an index of bays ordered by the strategy's rating. A claim or a release
touches one bay; the index looks only at bays that changed since it was last asked, so that a placement costs
the same with ten hosts and with ten thousand. Within a bay the ranks are kept in order as well, so that it costs
the same with one rank a host and with hundreds. Classes that differ in a wish alone (not that rank, only that host)
need no index of their own: there are as many of them as ranks.
"""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Amounts, Capability
from handoff_mpi.resources.amounts import UNIT, format_amounts

GPU = "gpu"

# Why a rank is offered nothing for now.
SUSPECT = "suspect"
MEMORY = "memory"

#: Gives a bay that fits a cost class its place in the order: least first.
Rate: TypeAlias = "Callable[[CostClass, Bay], Any]"


@dataclass(slots=True, eq=False)
class Pool:
    """An amount of one resource that ranks share, in fixed point."""

    name: str
    capacity: int
    free: int
    bays: list[Bay] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class DevicePool:
    """The devices of a host (or registered for one rank), by uuid.

    Attributes:
        free: uuid to what is left of the device, in fixed point.
        owner: uuid to the rank that last used it: a context made there is dear, so it is offered there first.
    """

    free: dict[str, int]
    owner: dict[str, int] = field(default_factory=dict)
    bays: list[Bay] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Seat:
    """One rank's place in the ledger.

    Attributes:
        slots: how many calls it runs at once.
        idle: slots without a claim, smallest last.
        claims: what each slot holds, or None.
        devices: uuid to the device's index in this rank.
        is_alive: False once the rank is lost.
        is_withheld: whether it is offered nothing for now.
    """

    rank: int
    host: str
    slots: int
    idle: list[int]
    devices: dict[str, int]
    registered: Amounts
    claims: list[Claim | None]
    bay: Bay = field(init=False)
    is_alive: bool = True
    is_withheld: bool = False

    @property
    def offered(self) -> list[int]:
        """The idle slots that may be claimed."""
        return self.idle if self.is_alive and not self.is_withheld else []

    @property
    def busy_fraction(self) -> float:
        return 1 - len(self.idle) / self.slots if self.slots else 1.0


@dataclass(slots=True, eq=False)
class Bay:
    """Ranks of one host that draw on the same pools.

    Attributes:
        pools: resource name to the pool it is drawn from.
        devices: the device pool, if any rank here sees a device.
        visible: uuids the ranks of this bay see.
        seats: its living ranks by number.
        idle: ranks of it with an idle slot, ascending.
    """

    number: int
    host: str
    pools: dict[str, Pool]
    devices: DevicePool | None
    visible: tuple[str, ...]
    seats: dict[int, Seat] = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)
    #: A heap of (busy fraction, rank), made when it is first asked for; its entries are checked when met.
    calm: list[tuple[float, int]] | None = None

    def first_idle(self, cost: CostClass) -> int:
        """Return the lowest rank with an idle slot that the class may run on."""
        if cost.rank is not None:
            return cost.rank
        return self.idle[0] if self.idle[0] != cost.avoid else self.idle[1]

    def calmest_idle(self, cost: CostClass) -> int:
        """Return the least busy rank with an idle slot that the class may run on; of equally busy ones the lowest."""
        if cost.rank is not None or len(self.idle) == 1:
            return self.first_idle(cost)
        heap = self.calm
        if heap is None or len(heap) > 4 * len(self.seats) + 64:
            heap = self.calm = [(self.seats[rank].busy_fraction, rank) for rank in self.idle]
            heapq.heapify(heap)
        avoided = []
        while True:
            busy, rank = heap[0]
            seat = self.seats.get(rank)
            if seat is None or not seat.offered or seat.busy_fraction != busy:
                heapq.heappop(heap)
            elif rank == cost.avoid:
                avoided.append(heapq.heappop(heap))
            else:
                break
        for entry in avoided:
            heapq.heappush(heap, entry)
        return rank

    def note_busy(self, seat: Seat) -> None:
        """A slot of ``seat`` was claimed, released or offered."""
        if self.calm is not None and seat.idle:
            heapq.heappush(self.calm, (seat.busy_fraction, seat.rank))

    def load(self) -> float:
        """Return the largest claimed fraction of any resource of this bay, from 0 to 1."""
        largest = 0.0
        for pool in self.pools.values():
            if pool.capacity > 0:
                fraction = 1 - pool.free / pool.capacity
                if fraction > largest:
                    largest = fraction
        if self.devices is not None and self.visible:
            free = sum(self.devices.free[uuid] for uuid in self.visible)
            largest = max(largest, 1 - free / (UNIT * len(self.visible)))
        return largest


@dataclass(slots=True, eq=False)
class CostClass:
    """Tasks that need the same, wherever they come from.

    Attributes:
        number: its place in the ledger's table.
        amounts: what a claim takes from the bay's pools (without devices and the job's own pools).
        gpu: devices wanted, in fixed point.
        job: what a claim takes from the job's pools.
        need: what the bay must be able to hold; more than the cost when others will be bound to the rank.
        rank: the only rank it may run on, if pinned.
        host: the only host it may run on, if pinned.
        avoid: a rank it should not run on: it failed there.
        plain: the class of the same tasks if they avoided no rank; None if they avoid none.
        is_plain: whether a bay with room and an idle slot is all that tasks of this class ask for.
    """

    number: int
    cost: Amounts
    amounts: tuple[tuple[str, int], ...]
    gpu: int
    job: tuple[tuple[Pool, int], ...]
    need: Amounts
    rank: int | None
    host: str | None
    avoid: int | None
    plain: CostClass | None
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_plain = self.need is self.cost and self.rank is None and self.host is None and self.avoid is None


@dataclass(slots=True, eq=False)
class Claim:
    """What one slot holds: taken from pools, and which devices."""

    cost: CostClass
    rank: int
    slot: int
    bill: list[tuple[Pool, int]]
    devices: tuple[tuple[str, int], ...]
    device_pool: DevicePool | None


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
        withheld: rank to why it is offered nothing for now.
    """

    def __init__(
        self, capabilities: Iterable[Capability], slots: Mapping[int, int], job: Amounts | None = None
    ) -> None:
        self.seats: dict[int, Seat] = {}
        self.bays: list[Bay] = []
        self.classes: list[CostClass] = []
        self.job = {name: Pool(name, amount, amount) for name, amount in (job or {}).items()}
        self.idle_slots = 0
        self.was_updated = False
        self.withheld: dict[int, set[str]] = {}
        self._hosts: dict[str, dict[str, Pool]] = {}
        self._devices: dict[str, DevicePool] = {}
        self._registered_devices: dict[int, DevicePool] = {}
        self._bay_of: dict[Any, Bay] = {}
        self._class_of: dict[Any, CostClass] = {}
        self._bays_of_host: dict[str, list[Bay]] = {}
        self._ranks_of_host: Counter[str] = Counter()
        self._holders: dict[int, Seat | None] = {}
        self._indexes: dict[int, _Index] = {}
        self._changes: list[int] = []
        self._dropped = 0
        self._rate: Rate = lambda cost, bay: bay.first_idle(cost)
        capabilities = list(capabilities)
        for capability in capabilities:
            self._pool_host(capability)
        for capability in capabilities:
            self._pool_registered(capability)
        for capability in capabilities:
            self._seat(capability, slots[capability.rank])

    # -- capability -------------------------------------------------------------------------------

    def _pool_host(self, capability: Capability) -> None:
        """What is detected belongs to the host, and is counted once however many ranks detected it."""
        pools = self._hosts.setdefault(capability.host, {})
        for name, amount in capability.host_amounts.items():
            pool = pools.setdefault(name, Pool(name, 0, 0))
            if pool.capacity < amount:
                pool.free = pool.capacity = amount
        devices = self._devices.setdefault(capability.host, DevicePool({}))
        for device in capability.devices:
            devices.free.setdefault(device.uuid, UNIT)

    def _pool_registered(self, capability: Capability) -> None:
        """What is registered for a host goes before what any of its ranks detected."""
        for name, amount in capability.host_registered.items():
            self._hosts[capability.host][name] = Pool(name, amount, amount)

    def _seat(self, capability: Capability, slots: int) -> None:
        devices = {device.uuid: device.index for device in capability.devices}
        idle = list(range(slots))[::-1]
        registered = dict(capability.registered)
        seat = Seat(capability.rank, capability.host, slots, idle, devices, registered, [None] * slots)
        self.seats[seat.rank] = seat
        self.idle_slots += slots
        self._ranks_of_host[seat.host] += 1
        self._enter_bay(seat)

    def _enter_bay(self, seat: Seat) -> None:
        own = GPU in seat.registered
        if own:
            visible = tuple(f"rank{seat.rank}-{index}" for index in range(seat.registered[GPU] // UNIT))
        else:
            visible = tuple(sorted(seat.devices))
        key = (seat.host, visible, seat.rank if seat.registered else None)
        bay = self._bay_of.get(key)
        if bay is None:
            bay = self._bay_of[key] = self._new_bay(seat, visible, own)
        if own:
            seat.devices = {uuid: index for index, uuid in enumerate(visible)}
        seat.bay = bay
        bay.seats[seat.rank] = seat
        if seat.offered:
            bisect.insort(bay.idle, seat.rank)
            bay.note_busy(seat)
        self._touch(bay)

    def _new_bay(self, seat: Seat, visible: tuple[str, ...], own_devices: bool) -> Bay:
        own = {name: Pool(name, amount, amount) for name, amount in seat.registered.items() if name != GPU}
        pools = {**self._hosts[seat.host], **own} if own else self._hosts[seat.host]
        devices = self._own_devices(seat.rank, visible) if own_devices else self._devices[seat.host]
        bay = Bay(len(self.bays), seat.host, pools, devices if visible else None, visible)
        self.bays.append(bay)
        self._bays_of_host.setdefault(bay.host, []).append(bay)
        for pool in pools.values():
            pool.bays.append(bay)
        devices.bays.append(bay)
        return bay

    def _own_devices(self, rank: int, visible: tuple[str, ...]) -> DevicePool:
        """Return the pool of devices registered for ``rank``; one that lives on keeps its claims."""
        pool = self._registered_devices.setdefault(rank, DevicePool({}))
        for uuid in visible:
            pool.free.setdefault(uuid, UNIT)
        return pool

    def update(self, rank: int, amounts: Amounts) -> None:
        """Register ``amounts`` for ``rank`` alone, in place of what it drew on; its claims move along.

        Raises:
            AllocationError: there is no such living rank.
        """
        seat = self.seats.get(rank)
        if seat is None or not seat.is_alive:
            raise AllocationError(f"rank {rank} takes no part in this run, so its resources cannot be updated")
        self.was_updated = True
        before = seat.bay
        self._leave_bay(seat)
        self._bay_of.pop((seat.host, before.visible, rank), None)
        seat.registered = {**seat.registered, **amounts}
        self._enter_bay(seat)
        for claim in filter(None, seat.claims):
            claim.bill = [(self._move(pool, amount, seat.bay), amount) for pool, amount in claim.bill]
        self._touch(before)

    def _move(self, pool: Pool, amount: int, bay: Bay) -> Pool:
        """Take ``amount`` from the pool of that name that the rank draws on now, and give it back to ``pool``."""
        new = bay.pools.get(pool.name, pool)
        if new is pool or pool is self.job.get(pool.name):
            return pool
        pool.free += amount
        new.free -= amount
        for other in pool.bays:
            self._touch(other)
        return new

    def _leave_bay(self, seat: Seat) -> None:
        bay = seat.bay
        bay.seats.pop(seat.rank, None)
        if seat.rank in bay.idle:
            bay.idle.remove(seat.rank)
        self._touch(bay)

    def remove(self, rank: int) -> None:
        """Take ``rank`` out: it is lost. Its claims must have been released."""
        seat = self.seats[rank]
        if seat.is_alive:
            self.idle_slots -= len(seat.offered)
            seat.is_alive = False
            self._leave_bay(seat)

    def restore(self, rank: int) -> None:
        """Take ``rank`` in again: it was silent, and is back."""
        seat = self.seats[rank]
        if not seat.is_alive:
            seat.is_alive = True
            self.idle_slots += len(seat.offered)
            self._enter_bay(seat)

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

    def _set_withheld(self, rank: int, is_withheld: bool) -> None:
        seat = self.seats.get(rank)
        if seat is None or seat.is_withheld == is_withheld:
            return
        self.idle_slots -= len(seat.offered)
        if rank in seat.bay.idle:
            seat.bay.idle.remove(rank)
        seat.is_withheld = is_withheld
        self.idle_slots += len(seat.offered)
        if seat.offered:
            bisect.insort(seat.bay.idle, rank)
            seat.bay.note_busy(seat)
        self._touch(seat.bay)

    # -- cost classes -----------------------------------------------------------------------------

    def cost_class(
        self,
        cost: Amounts,
        rank: int | None = None,
        host: str | None = None,
        avoid: int | None = None,
        need: Amounts | None = None,
    ) -> CostClass:
        """Return the class of tasks with this cost and these wishes, making it at first sight."""
        key = (tuple(cost.items()), rank, host, avoid, None if need is None else tuple(need.items()))
        known = self._class_of.get(key)
        if known is None:
            amounts = tuple((name, amount) for name, amount in cost.items() if name != GPU and name not in self.job)
            job = tuple((self.job[name], amount) for name, amount in cost.items() if name in self.job)
            plain = None if avoid is None else self.cost_class(cost, rank, host, None, need)
            known = CostClass(
                len(self.classes), cost, amounts, cost.get(GPU, 0), job, need or cost, rank, host, avoid, plain
            )
            self.classes.append(known)
            self._class_of[key] = known
        return known

    def only_host(self, cost: CostClass) -> str | None:
        """Return the only host where tasks of this class may run, if there is only one."""
        if cost.rank is None:
            return cost.host
        return self.seats[cost.rank].host if cost.rank in self.seats else None

    def ranks_on(self, host: str | None) -> int:
        """Return how many ranks of the job are on ``host``; None means any host."""
        return len(self.seats) if host is None else self._ranks_of_host[host]

    def could_fit(self, cost: CostClass) -> bool:
        """Whether some living rank could run a task of this class if nothing else ran."""
        if cost.plain is not None:
            holder = self._holder(cost.plain)
            if holder is None or cost.avoid not in holder.bay.seats:
                return holder is not None
        return self._holder(cost) is not None

    def _holder(self, cost: CostClass) -> Seat | None:
        """Return a living rank that could run a task of this class if nothing else ran; looked for once a change."""
        if cost.number not in self._holders:
            eligible = (seat for seat in self._eligible(cost) if self.could_hold(cost, seat))
            self._holders[cost.number] = next(iter(eligible), None)
        return self._holders[cost.number]

    def is_offered(self, cost: CostClass) -> bool:
        """Whether some rank that is not withheld could run a task of this class if nothing else ran."""
        if not self.withheld:
            return self.could_fit(cost)
        return any(self.could_hold(cost, seat) for seat in self._eligible(cost, self.withheld))

    def _eligible(self, cost: CostClass, withheld: Collection[int] = ()) -> Iterable[Seat]:
        if cost.rank is not None:
            seat = self.seats.get(cost.rank)
            return [seat] if seat is not None and seat.is_alive and seat.rank not in withheld else []
        out = {cost.avoid, *withheld}
        bays = self.bays if cost.host is None else self._bays_of_host.get(cost.host, [])
        seats = (next((seat for seat in bay.seats.values() if seat.rank not in out), None) for bay in bays)
        return (seat for seat in seats if seat is not None)

    def could_hold(self, cost: CostClass, seat: Seat) -> bool:
        """Whether ``seat``'s rank alone could hold the whole need of the class."""
        bay = seat.bay
        if not seat.slots:
            return False
        for name, amount in cost.need.items():
            if name == GPU:
                if amount > UNIT * len(bay.visible):
                    return False
            elif name in bay.pools:
                if amount > bay.pools[name].capacity:
                    return False
            elif name not in self.job or amount > self.job[name].capacity:
                return False
        return True

    def largest(self) -> str:
        """Return what the host with the most cores and memory offers, in words."""

        def size(bay: Bay) -> tuple[int, ...]:
            capacity = (bay.pools[name].capacity if name in bay.pools else 0 for name in ("cpu", "memory"))
            return (len(bay.visible), *capacity)

        bay = max((bay for bay in self.bays if bay.seats), key=size, default=None)
        if bay is None:
            return "nothing: no rank computes"
        offered = {name: pool.capacity for name, pool in bay.pools.items()}
        if bay.visible:
            offered[GPU] = UNIT * len(bay.visible)
        offered.update({name: pool.capacity for name, pool in self.job.items()})
        return f"{format_amounts(offered)} ({bay.host})"

    def supply(self) -> dict[str, int]:
        """Return the capacity of the whole job by resource, in fixed point."""
        pools = {id(pool): pool for bay in self.bays if bay.seats for pool in bay.pools.values()}
        total = {name: pool.capacity for name, pool in self.job.items()}
        for pool in pools.values():
            total[pool.name] = total.get(pool.name, 0) + pool.capacity
        devices = {(id(bay.devices), uuid) for bay in self.bays if bay.seats for uuid in bay.visible}
        return {**total, GPU: len(devices) * UNIT} if devices else total

    # -- placing ----------------------------------------------------------------------------------

    def order_by(self, rate: Rate) -> None:
        """Order bays by ``rate`` from now on, least first."""
        self._rate = rate
        self._indexes.clear()

    def best(self, cost: CostClass) -> Bay | None:
        """Return the bay with the least rating that has room for the class now, if any."""
        if not self.idle_slots or not self._has_job_room(cost):
            return None
        if cost.rank is not None:
            seat = self.seats.get(cost.rank)
            return seat.bay if seat is not None and seat.is_alive and self.fits(cost, seat.bay) else None
        if cost.host is not None:
            return self._best_of(cost, [(bay, None) for bay in self._bays_of_host.get(cost.host, ())])
        if cost.plain is not None:
            return self._best_elsewhere(cost, cost.plain)
        entry = self._index(cost).best(self._rate)
        return None if entry is None else self.bays[entry[1]]

    def _index(self, cost: CostClass) -> _Index:
        index = self._indexes.get(cost.number)
        if index is None:
            index = self._indexes[cost.number] = _Index(self, cost)
        return index

    def _best_elsewhere(self, cost: CostClass, plain: CostClass) -> Bay | None:
        """As :meth:`best`, for a class that avoids a rank: but for that rank's bay, all are as for the plain class."""
        seat = self.seats.get(cost.avoid) if cost.avoid is not None else None
        own = seat.bay if seat is not None else None
        entry = self._index(plain).best(self._rate, own)
        found: list[tuple[Bay, Any]] = [] if entry is None else [(self.bays[entry[1]], entry[0])]
        return self._best_of(cost, found if own is None else [*found, (own, None)])

    def _best_of(self, cost: CostClass, bays: Iterable[tuple[Bay, Any]]) -> Bay | None:
        """Return the best of a few bays, given with their ratings as far as they are known."""
        rated = [
            (rating if rating is not None else self._rate(cost, bay), bay.number)
            for bay, rating in bays
            if rating is not None or self.fits(cost, bay)
        ]
        return self.bays[min(rated)[1]] if rated else None

    def fits(self, cost: CostClass, bay: Bay) -> bool:
        """Whether ``bay`` has room for one more claim of this class, and an idle slot on a fitting rank."""
        idle = bay.idle
        if not idle:
            return False
        pools = bay.pools
        for name, amount in cost.amounts:
            pool = pools.get(name)
            if pool is None or pool.free < amount:
                return False
        if cost.is_plain:
            return not cost.gpu or self._has_devices(cost.gpu, bay)
        return self._grants_wishes(cost, bay) and (not cost.gpu or self._has_devices(cost.gpu, bay))

    def _grants_wishes(self, cost: CostClass, bay: Bay) -> bool:
        if cost.host is not None and cost.host != bay.host:
            return False
        if cost.avoid is not None and bay.idle == [cost.avoid]:
            return False
        if cost.rank is not None and not (cost.rank in bay.seats and bay.seats[cost.rank].offered):
            return False
        return cost.need is cost.cost or self.could_hold(cost, next(iter(bay.seats.values())))

    def _has_job_room(self, cost: CostClass) -> bool:
        return not cost.job or all(pool.free >= amount for pool, amount in cost.job)

    def _has_devices(self, gpu: int, bay: Bay) -> bool:
        if bay.devices is None:
            return False
        free = bay.devices.free
        if gpu < UNIT:
            return any(free[uuid] >= gpu for uuid in bay.visible)
        return sum(free[uuid] == UNIT for uuid in bay.visible) * UNIT >= gpu

    def pick(self, cost: CostClass, bay: Bay, spread: bool = False) -> int:
        """Return the rank of ``bay`` to run on: the first with an idle slot, or the least busy one."""
        if cost.gpu and cost.rank is None and bay.devices is not None:
            ranks = self._idle_owners(cost, bay)
            if ranks:
                return min(ranks, key=lambda rank: (bay.seats[rank].busy_fraction if spread else 0.0, rank))
        return bay.calmest_idle(cost) if spread else bay.first_idle(cost)

    def _idle_owners(self, cost: CostClass, bay: Bay) -> list[int]:
        """Return the ranks with an idle slot that used devices of ``bay`` last which have room for the class."""
        assert bay.devices is not None
        least = min(cost.gpu, UNIT)
        owner, free = bay.devices.owner, bay.devices.free
        owners = {owner[uuid] for uuid in bay.visible if uuid in owner and free[uuid] >= least}
        return [rank for rank in owners if rank != cost.avoid and rank in bay.seats and bay.seats[rank].offered]

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
        if not seat.offered or not self.fits(cost, bay) or not self._has_job_room(cost):
            raise AllocationError(f"a task was placed on rank {rank}, which has no room for it")
        pools = bay.pools
        bill = [(pools[name], amount) for name, amount in cost.amounts]
        if cost.job:
            bill += cost.job
        for pool, amount in bill:
            pool.free -= amount
        devices = self._take_devices(cost.gpu, seat) if cost.gpu else ()
        slot = seat.idle.pop()
        self.idle_slots -= 1
        if not seat.idle:
            bay.idle.remove(rank)
        claim = seat.claims[slot] = Claim(cost, rank, slot, bill, devices, bay.devices if devices else None)
        if bay.calm is not None:
            bay.note_busy(seat)
        self._touch_all(bay, bill, claim.device_pool)
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
        self._touch_all(bay, claim.bill, claim.device_pool)

    def _take_devices(self, gpu: int, seat: Seat) -> tuple[tuple[str, int], ...]:
        pool = seat.bay.devices
        assert pool is not None

        def preference(uuid: str) -> tuple[int, int]:
            owner = pool.owner.get(uuid)
            kept = 0 if owner == seat.rank else 1 if owner is None else 2
            return (kept, pool.free[uuid])  # fractions fill a device before they open another

        amount = min(gpu, UNIT)
        fitting = sorted((uuid for uuid in seat.bay.visible if pool.free[uuid] >= amount), key=preference)
        taken = tuple((uuid, amount) for uuid in fitting[: max(1, gpu // UNIT)])
        for uuid, part in taken:
            pool.free[uuid] -= part
            pool.owner[uuid] = seat.rank
        return taken

    def device_indices(self, claim: Claim) -> tuple[int, ...]:
        """Return the claimed devices' indices, as the claim's rank numbers them."""
        seat = self.seats[claim.rank]
        return tuple(seat.devices[uuid] for uuid, _ in claim.devices if uuid in seat.devices)

    # -- what changed -----------------------------------------------------------------------------

    def _touch(self, bay: Bay) -> None:
        """What ``bay`` has or who sits there has changed."""
        self._changes.append(bay.number)
        self._holders.clear()

    def _touch_all(self, bay: Bay, bill: list[tuple[Pool, int]], devices: DevicePool | None) -> None:
        changes = self._changes
        changes.append(bay.number)
        for pool, _ in bill:
            if len(pool.bays) > 1:
                changes.extend([other.number for other in pool.bays])
        if devices is not None and (len(devices.bays) > 1 or devices is not bay.devices):
            changes.extend([other.number for other in devices.bays])
        if len(changes) > 4 * len(self.bays) + 1024:
            half = len(changes) // 2  # an index that has not seen these looks at all bays when it is asked again
            del changes[:half]
            self._dropped += half

    def changed_since(self, seen: int) -> tuple[int, Collection[int] | None]:
        """Return what to ask with next time, and the numbers of the bays that changed; None: any may have.

        Args:
            seen: what the last call returned, -1 at first.
        """
        changes, first = self._changes, seen - self._dropped
        now = self._dropped + len(changes)
        if first < 0 or now - seen > len(self.bays):
            return now, None
        return now, changes[first:] if now - seen < 2 else dict.fromkeys(changes[first:])

    def check(self) -> None:
        """Derive everything from the claims alone and compare; for tests.

        Raises:
            AssertionError: the books do not balance.
        """
        taken: dict[int, int] = {}
        pools: dict[int, Pool] = {}
        used: dict[tuple[int, str], int] = {}
        for seat in self.seats.values():
            for claim in filter(None, seat.claims):
                for pool, amount in claim.bill:
                    taken[id(pool)] = taken.get(id(pool), 0) + amount
                for uuid, amount in claim.devices:
                    used[id(claim.device_pool), uuid] = used.get((id(claim.device_pool), uuid), 0) + amount
        for bay in self.bays:
            pools.update((id(pool), pool) for pool in bay.pools.values())
            assert bay.idle == sorted(rank for rank, seat in bay.seats.items() if seat.offered), bay
        pools.update((id(pool), pool) for pool in self.job.values())
        for key, pool in pools.items():
            assert pool.free == pool.capacity - taken.get(key, 0), pool.name
        for bay in self.bays:
            if bay.devices is not None and bay.seats:
                for uuid in bay.visible:
                    assert bay.devices.free[uuid] == UNIT - used.get((id(bay.devices), uuid), 0) >= 0, uuid
        for rank, seat in self.seats.items():
            assert sorted(seat.idle) == [slot for slot, claim in enumerate(seat.claims) if claim is None], rank
            assert seat.is_withheld == bool(self.withheld.get(rank)), rank
        assert self.idle_slots == sum(len(seat.offered) for seat in self.seats.values())


class _Index:
    """The bays with room for one cost class, ordered by rating: a heap whose entries are checked when met."""

    def __init__(self, ledger: Ledger, cost: CostClass) -> None:
        self._ledger = ledger
        self._cost = cost
        self._heap: list[tuple[Any, int]] = []
        self._rating: list[Any] = []
        self._seen = -1

    def best(self, rate: Rate, but: Bay | None = None) -> tuple[Any, int] | None:
        """Return the least ``(rating, number of the bay)``, that of ``but`` left aside."""
        self._catch_up(rate)
        heap, ratings = self._heap, self._rating
        aside = None
        while heap:
            entry = heap[0]
            if ratings[entry[1]] != entry[0]:
                heapq.heappop(heap)
            elif but is not None and entry[1] == but.number:
                aside = heapq.heappop(heap)
            else:
                break
        best = heap[0] if heap else None
        if aside is not None:
            heapq.heappush(heap, aside)
        return best

    def _catch_up(self, rate: Rate) -> None:
        ledger, cost, heap, ratings = self._ledger, self._cost, self._heap, self._rating
        bays = ledger.bays
        self._seen, changed = ledger.changed_since(self._seen)
        if changed is None:
            changed = range(len(bays))
        ratings += [None] * (len(bays) - len(ratings))
        for number in changed:
            bay = bays[number]
            rating = rate(cost, bay) if ledger.fits(cost, bay) else None
            if rating != ratings[number]:
                ratings[number] = rating
                if rating is not None:
                    heapq.heappush(heap, (rating, number))
        if len(heap) > 4 * len(bays) + 64:
            self._heap = [(rating, number) for number, rating in enumerate(ratings) if rating is not None]
            heapq.heapify(self._heap)


def _downwards(slot: int) -> int:
    return -slot
