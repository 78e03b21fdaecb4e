"""Who sits where: ranks, in bays of those that draw on exactly the same pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from handoff_mpi.allocation.bays import Bay, Seat
from handoff_mpi.allocation.costs import GPU
from handoff_mpi.allocation.pools import DevicePool, Pool
from handoff_mpi.resources import Amounts, Capability
from handoff_mpi.resources.amounts import UNIT


class Seating:
    """The seats of a job's ranks, in bays.

    Args:
        capabilities: what each rank that computes offers.
        slots: rank to number of slots.

    Attributes:
        seats: rank to its place.
        bays: by their numbers.
        bays_of_host: host to its bays.
        equipment: what bays offer, and the first bay that offers it; the same numbers as :attr:`Bay.equipment`.
        ranks_of_host: host to how many ranks of the job are on it, lost ones included.
    """

    def __init__(self, capabilities: Iterable[Capability], slots: Mapping[int, int]) -> None:
        self.seats: dict[int, Seat] = {}
        self.bays: list[Bay] = []
        self.equipment: dict[Any, Bay] = {}
        self.bays_of_host: dict[str, list[Bay]] = {}
        self.ranks_of_host: Counter[str] = Counter()
        self._hosts: dict[str, dict[str, Pool]] = {}
        self._devices: dict[str, DevicePool] = {}
        self._registered_devices: dict[int, DevicePool] = {}
        self._bay_of: dict[Any, Bay] = {}
        capabilities = list(capabilities)
        for capability in capabilities:
            self._pool_host(capability)
        for capability in capabilities:
            self._pool_registered(capability)
        for capability in capabilities:
            self._seat(capability, slots[capability.rank])

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
        self.ranks_of_host[seat.host] += 1
        self.enter(seat)

    def enter(self, seat: Seat) -> None:
        """Give ``seat`` a place in the bay of those that draw on the same pools, which is made if there is none."""
        own = GPU in seat.registered
        if own:
            visible = tuple(f"rank{seat.rank}-{index}" for index in range(seat.registered[GPU] // UNIT))
            seat.devices = {uuid: index for index, uuid in enumerate(visible)}
        else:
            visible = tuple(sorted(seat.devices))
        key = (seat.host, visible, seat.rank if seat.registered else None)
        bay = self._bay_of.get(key)
        if bay is None:
            bay = self._bay_of[key] = self._new_bay(seat, visible, own)
        bay.enter(seat)

    def _new_bay(self, seat: Seat, visible: tuple[str, ...], own_devices: bool) -> Bay:
        own = {name: Pool(name, amount, amount) for name, amount in seat.registered.items() if name != GPU}
        pools = {**self._hosts[seat.host], **own} if own else self._hosts[seat.host]
        devices = self._own_devices(seat.rank, visible) if own_devices else self._devices[seat.host]
        offer = (len(visible), *sorted((name, pool.capacity) for name, pool in pools.items()))
        first = self.equipment.get(offer)
        equipment = len(self.equipment) if first is None else first.equipment
        bay = Bay(len(self.bays), seat.host, pools, devices if visible else None, visible, equipment)
        self.equipment.setdefault(offer, bay)
        self.bays.append(bay)
        self.bays_of_host.setdefault(bay.host, []).append(bay)
        for pool in pools.values():
            pool.bays.append(bay.number)
        devices.bays.append(bay.number)
        return bay

    def _own_devices(self, rank: int, visible: tuple[str, ...]) -> DevicePool:
        """Return the pool of devices registered for ``rank``; one that lives on keeps its claims."""
        pool = self._registered_devices.setdefault(rank, DevicePool({}))
        for uuid in visible:
            pool.free.setdefault(uuid, UNIT)
        return pool

    def reseat(self, seat: Seat, amounts: Amounts) -> None:
        """Register ``amounts`` for the rank of ``seat`` alone, and give it the place that goes with them."""
        before = seat.bay
        before.leave(seat)
        self._bay_of.pop((seat.host, before.visible, seat.rank), None)
        seat.registered = {**seat.registered, **amounts}
        self.enter(seat)
