"""Resource groups (ranks of one host that draw on the same pools) and the state of each rank: what it has claimed."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.pools import DevicePool, Pool
from handoff_mpi.allocation.reserved import ReservedAmounts, kept_of
from handoff_mpi.resources import Amounts
from handoff_mpi.resources.amounts import GPU, GPU_MEMORY, UNIT, plain_number

#: Stands for an idle slot among the names of what is missing.
SLOT = "(a slot)"


@dataclass(slots=True, eq=False)
class Claim:
    """The claim of one slot: amounts drawn from pools, and devices."""

    cost: RequestClass
    rank: int
    slot: int
    draws: list[tuple[Pool, int]]
    devices: tuple[tuple[str, int], ...]
    device_pool: DevicePool | None
    group: ResourceGroup

    def parts(self) -> Iterator[tuple[object, int]]:
        """Yield what it takes: amounts of pools, of devices by uuid, and one slot of its group of ranks."""
        yield from self.draws
        yield from self.devices
        yield self.group, 1


@dataclass(slots=True, eq=False)
class RankState:
    """One rank's place in the ledger.

    Attributes:
        slots: how many calls it runs at once.
        idle: slots without a claim, smallest last.
        claims: what each slot holds, or None.
        devices: uuid to the device's index in this rank.
        is_present: whether the job has its resources: False while it is removed (:meth:`Ledger.remove`).
        is_cordoned: whether it is offered nothing for now.
    """

    rank: int
    host: str
    slots: int
    idle: list[int]
    devices: dict[str, int]
    registered: Amounts
    claims: list[Claim | None]
    group: ResourceGroup = field(init=False)
    is_present: bool = True
    is_cordoned: bool = False

    @property
    def offered(self) -> list[int]:
        """The idle slots that may be claimed."""
        return self.idle if self.is_present and not self.is_cordoned else []

    @property
    def busy_fraction(self) -> float:
        return 1 - len(self.idle) / self.slots if self.slots else 1.0

    def could_hold(self, cost: RequestClass) -> bool:
        """Whether this rank alone could hold the whole need of the class."""
        return bool(self.slots) and self.group.offers(cost)


@dataclass(slots=True, eq=False)
class ResourceGroup:
    """Ranks of one host that draw on the same pools.

    Attributes:
        pools: resource name to the pool it is drawn from.
        devices: the device pool, if any rank here sees a device.
        visible: uuids the ranks of this group see.
        equipment: a number that groups have in common which offer the same.
        rank_states: its living ranks by number.
        idle: ranks of it with an idle slot, ascending.
        reservations: those that keep some of what it draws on.
    """

    number: int
    host: str
    pools: dict[str, Pool]
    devices: DevicePool | None
    visible: tuple[str, ...]
    equipment: int
    rank_states: dict[int, RankState] = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)
    #: A heap of (busy fraction, rank), made when it is first asked for; its entries are checked when met.
    by_load: list[tuple[float, int]] | None = None
    reservations: list[ReservedAmounts] = field(default_factory=list)

    # -- its ranks --------------------------------------------------------------------------------

    def enter(self, rank_state: RankState) -> None:
        """Add a rank to the group."""
        rank_state.group = self
        self.rank_states[rank_state.rank] = rank_state
        self.offer(rank_state)

    def leave(self, rank_state: RankState) -> None:
        """Remove a rank from the group."""
        self.rank_states.pop(rank_state.rank, None)
        self.withdraw(rank_state)

    def offer(self, rank_state: RankState) -> None:
        """Offer the idle slots of a rank of which none was offered before."""
        if rank_state.offered:
            bisect.insort(self.idle, rank_state.rank)
            self.note_load(rank_state)

    def withdraw(self, rank_state: RankState) -> None:
        """Exclude the rank's slots from further claims."""
        if rank_state.rank in self.idle:
            self.idle.remove(rank_state.rank)

    # -- whether there is room --------------------------------------------------------------------

    def fits(self, cost: RequestClass) -> bool:
        """Whether there is room for one more claim of this class, and an idle slot on a fitting rank."""
        if not self.idle:
            return False
        pools = self.pools
        for name, amount in cost.pool_amounts:
            pool = pools.get(name)
            if pool is None or pool.free < amount:
                return False
        if not cost.is_plain and not self._meets_constraints(cost):
            return False
        if cost.gpu and (self.devices is None or not self.devices.has(cost.gpu, self.devices_for(cost))):
            return False
        return not self.reservations or self._leaves_reserved(cost)

    def _leaves_reserved(self, cost: RequestClass) -> bool:
        """Whether one more claim of this class would leave the amounts reserved for other classes."""
        binding = [each for each in self.reservations if each.binds(cost)]
        if not binding:
            return True
        for name, amount in cost.pool_amounts:
            pool = self.pools[name]
            if amount and pool.free - kept_of(pool, binding) < amount:
                return False
        if self.count_idle() <= kept_of(self, binding):
            return False
        return not cost.gpu or self.has_devices(cost, binding)

    def has_devices(self, cost: RequestClass, reservations: Iterable[ReservedAmounts]) -> bool:
        """Whether the devices that the class needs are free beside what ``reservations`` keep."""
        return self.devices is not None and self.devices.has(
            cost.gpu, self.devices_for(cost), {uuid: kept_of(uuid, reservations) for uuid in self.visible}
        )

    def devices_for(self, cost: RequestClass) -> tuple[str, ...]:
        """Return the visible devices that have the memory which the class needs; unknown memory suffices."""
        if not cost.gpu_memory or self.devices is None:
            return self.visible
        return self._with_memory(cost.gpu_memory)

    def _with_memory(self, least: int) -> tuple[str, ...]:
        memory = {} if self.devices is None else self.devices.memory
        return tuple(uuid for uuid in self.visible if memory.get(uuid, least) >= least)

    def kept_devices(self, cost: RequestClass) -> dict[str, int]:
        """Return how much of each visible device is kept from tasks of this class."""
        binding = [each for each in self.reservations if each.binds(cost)]
        return {uuid: kept_of(uuid, binding) for uuid in self.visible} if binding else {}

    def count_idle(self) -> int:
        """Return how many slots may be claimed."""
        return sum(len(self.rank_states[rank].idle) for rank in self.idle)

    def could_hold(self, cost: RequestClass) -> bool:
        """Whether a rank of it that is not cordoned could hold the whole need of the class."""
        return self.admits(cost) and self.offers(cost)

    def offers(self, cost: RequestClass) -> bool:
        """Whether it could hold the whole need of the class if nothing else ran."""
        for name, amount in cost.need.items():
            if name == GPU:
                if amount > UNIT * len(self._with_memory(cost.need.get(GPU_MEMORY, 0))):
                    return False
            elif name == GPU_MEMORY:
                continue
            elif name in self.pools:
                if amount > self.pools[name].capacity:
                    return False
            elif name not in cost.held_by_job:
                return False
        return True

    def admits(self, cost: RequestClass) -> bool:
        """Whether the class may run on a rank of it that has slots and is not cordoned."""
        if self.host in cost.avoid_hosts:
            return False
        if cost.rank is not None:
            rank_state = self.rank_states.get(cost.rank)
            return rank_state is not None and not rank_state.is_cordoned and bool(rank_state.slots)
        for rank, rank_state in self.rank_states.items():
            if not rank_state.is_cordoned and rank != cost.avoid:
                return bool(rank_state.slots)
        return False

    def lacks(self, cost: RequestClass) -> list[str]:
        """Return the names of the resources that one more claim of the class, which the group could hold, lacks."""
        missing = [name for name, amount in cost.pool_amounts if self.pools[name].free < amount]
        if cost.gpu and self.devices is not None and not self.devices.has(cost.gpu, self.devices_for(cost)):
            missing.append(GPU)
        if not (self.idle if cost.rank is None else self.rank_states[cost.rank].offered):
            missing.append(SLOT)
        return missing

    def _meets_constraints(self, cost: RequestClass) -> bool:
        if cost.host is not None and cost.host != self.host:
            return False
        if self.host in cost.avoid_hosts or (cost.avoid is not None and self.idle == [cost.avoid]):
            return False
        if cost.rank is not None and not (cost.rank in self.rank_states and self.rank_states[cost.rank].offered):
            return False
        return cost.need is cost.amounts or next(iter(self.rank_states.values())).could_hold(cost)

    # -- which rank -------------------------------------------------------------------------------

    def pick(self, cost: RequestClass, spread: bool = False) -> int:
        """Return the rank to run on: the lowest one with an idle slot, or the least loaded one; the class must fit."""
        if cost.gpu and cost.rank is None and self.devices is not None:
            ranks = self._idle_owners(cost, self.devices)
            if ranks:
                return min(ranks, key=lambda rank: (self.rank_states[rank].busy_fraction if spread else 0.0, rank))
        return self.least_loaded(cost) if spread else self.first_idle(cost)

    def _idle_owners(self, cost: RequestClass, devices: DevicePool) -> list[int]:
        """Return the ranks with an idle slot that used a device last which has room for the class."""
        least = min(cost.gpu, UNIT)
        owner, free = devices.owner, devices.free
        owners = {owner[uuid] for uuid in self.devices_for(cost) if uuid in owner and free[uuid] >= least}
        return [
            rank
            for rank in owners
            if rank != cost.avoid and rank in self.rank_states and self.rank_states[rank].offered
        ]

    def first_idle(self, cost: RequestClass) -> int:
        """Return the lowest rank with an idle slot that the class may run on."""
        if cost.rank is not None:
            return cost.rank
        return self.idle[0] if self.idle[0] != cost.avoid else self.idle[1]

    def least_loaded(self, cost: RequestClass) -> int:
        """Return the least loaded rank with an idle slot that the class may run on; of equals the lowest."""
        if cost.rank is not None or len(self.idle) == 1:
            return self.first_idle(cost)
        heap = self.by_load
        if heap is None or len(heap) > 4 * len(self.rank_states) + 64:
            heap = self.by_load = [(self.rank_states[rank].busy_fraction, rank) for rank in self.idle]
            heapq.heapify(heap)
        avoided = []
        while True:
            busy, rank = heap[0]
            rank_state = self.rank_states.get(rank)
            if rank_state is None or not rank_state.offered or rank_state.busy_fraction != busy:
                heapq.heappop(heap)
            elif rank == cost.avoid:
                avoided.append(heapq.heappop(heap))
            else:
                break
        for entry in avoided:
            heapq.heappush(heap, entry)
        return rank

    calmest_idle = least_loaded  # its old name, for one more release

    def note_load(self, rank_state: RankState) -> None:
        """Note the load of a rank, of which a slot was claimed, released or offered."""
        if self.by_load is not None and rank_state.idle:
            heapq.heappush(self.by_load, (rank_state.busy_fraction, rank_state.rank))

    def offered_amounts(self) -> dict[str, int | float]:
        """Return how much there is of each resource that it draws on, as users write it."""
        offered = {name: plain_number(pool.capacity) for name, pool in self.pools.items()}
        if self.visible:
            offered[GPU] = len(self.visible)
        return offered

    def max_device_memory(self) -> int:
        """Return the memory of its largest device, in fixed point; 0 if that is unknown."""
        return (
            0 if self.devices is None else max((self.devices.memory.get(uuid, 0) for uuid in self.visible), default=0)
        )

    def free_amounts(self) -> dict[str, int | float]:
        """Return what is free of each resource that it draws on, as users write it."""
        free = {name: plain_number(max(0, pool.free)) for name, pool in self.pools.items()}
        if self.devices is not None and self.visible:
            free[GPU] = plain_number(sum(self.devices.free[uuid] for uuid in self.visible))
        return free

    def load(self) -> float:
        """Return the largest claimed fraction of any resource of this group, from 0 to 1."""
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
