"""The topology of a job: ranks, in groups of those that draw on exactly the same pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from handoff_mpi.allocation.pools import DevicePool, Pool
from handoff_mpi.allocation.resource_groups import RankState, ResourceGroup
from handoff_mpi.resources import Amounts, Capability
from handoff_mpi.resources.amounts import GPU, GPU_MEMORY, UNIT


class Topology:
    """The state of each rank of a job, in resource groups.

    Args:
        capabilities: what each rank that computes offers.
        slots: rank to number of slots.

    Attributes:
        rank_states: rank to its place.
        groups: by their numbers.
        groups_of_host: host to its groups.
        equipment: what groups offer, to the first group that offers it; numbered as :attr:`ResourceGroup.equipment`.
        ranks_of_host: host to how many ranks of the job are on it, lost ones included.
        device_notes: host to why devices there are not offered.
    """

    def __init__(self, capabilities: Iterable[Capability], slots: Mapping[int, int]) -> None:
        self.rank_states: dict[int, RankState] = {}
        self.groups: list[ResourceGroup] = []
        self.equipment: dict[object, ResourceGroup] = {}
        self.groups_of_host: dict[str, list[ResourceGroup]] = {}
        self.ranks_of_host: Counter[str] = Counter()
        self.device_notes: dict[str, str] = {}
        self._hosts: dict[str, dict[str, Pool]] = {}
        self._devices: dict[str, DevicePool] = {}
        self._registered_devices: dict[int, DevicePool] = {}
        self._group_of: dict[object, ResourceGroup] = {}
        capabilities = list(capabilities)
        for capability in capabilities:
            self._pool_host(capability)
        for capability in capabilities:
            self._pool_registered(capability)
        for capability in capabilities:
            self._add_rank(capability, slots[capability.rank])

    def _pool_host(self, capability: Capability) -> None:
        """Count detected resources once for the host, regardless of how many ranks detected them."""
        pools = self._hosts.setdefault(capability.host, {})
        for name, amount in capability.host_amounts.items():
            pool = pools.setdefault(name, Pool(name, 0, 0))
            if pool.capacity < amount:
                pool.free = pool.capacity = amount
        devices = self._devices.setdefault(capability.host, DevicePool({}))
        for device in capability.devices:
            devices.free.setdefault(device.uuid, UNIT)
            if device.memory_mb:
                devices.memory[device.uuid] = device.memory_mb * UNIT
            if device.is_far:
                devices.far.setdefault(capability.rank, set()).add(device.uuid)
        for note in capability.device_notes:
            self.device_notes.setdefault(capability.host, note)

    def _pool_registered(self, capability: Capability) -> None:
        """Let resources registered for a host replace those that its ranks detected."""
        for name, amount in capability.host_registered.items():
            self._hosts[capability.host][name] = Pool(name, amount, amount)

    def _add_rank(self, capability: Capability, slots: int) -> None:
        devices = {device.uuid: device.index for device in capability.devices}
        idle = list(range(slots))[::-1]
        registered = dict(capability.registered)
        rank_state = RankState(capability.rank, capability.host, slots, idle, devices, registered, [None] * slots)
        self.rank_states[rank_state.rank] = rank_state
        self.ranks_of_host[rank_state.host] += 1
        self.enter(rank_state)

    def enter(self, rank_state: RankState) -> None:
        """Put the rank into the group of those that draw on the same pools; make the group if there is none."""
        own = GPU in rank_state.registered
        if own:
            visible = tuple(f"rank{rank_state.rank}-{index}" for index in range(rank_state.registered[GPU] // UNIT))
            rank_state.devices = {uuid: index for index, uuid in enumerate(visible)}
        else:
            visible = tuple(sorted(rank_state.devices))
        key = (rank_state.host, visible, rank_state.rank if rank_state.registered else None)
        group = self._group_of.get(key)
        if group is None:
            group = self._group_of[key] = self._new_group(rank_state, visible, own)
        group.enter(rank_state)

    def _new_group(self, rank_state: RankState, visible: tuple[str, ...], own_devices: bool) -> ResourceGroup:
        of_devices = (GPU, GPU_MEMORY)
        own = {name: Pool(name, each, each) for name, each in rank_state.registered.items() if name not in of_devices}
        pools = {**self._hosts[rank_state.host], **own} if own else self._hosts[rank_state.host]
        devices = self._own_devices(rank_state, visible) if own_devices else self._devices[rank_state.host]
        memory = tuple(sorted(devices.memory.get(uuid, 0) for uuid in visible))
        offer = (memory, *sorted((name, pool.capacity) for name, pool in pools.items()))
        first = self.equipment.get(offer)
        equipment = len(self.equipment) if first is None else first.equipment
        group = ResourceGroup(
            len(self.groups), rank_state.host, pools, devices if visible else None, visible, equipment
        )
        self.equipment.setdefault(offer, group)
        self.groups.append(group)
        self.groups_of_host.setdefault(group.host, []).append(group)
        for pool in pools.values():
            pool.groups.append(group.number)
        devices.groups.append(group.number)
        return group

    def _own_devices(self, rank_state: RankState, visible: tuple[str, ...]) -> DevicePool:
        """Return the pool of devices registered for a rank; one that lives on keeps its claims."""
        pool = self._registered_devices.setdefault(rank_state.rank, DevicePool({}))
        memory = rank_state.registered.get(GPU_MEMORY, 0)
        for uuid in visible:
            pool.free.setdefault(uuid, UNIT)
            if memory:
                pool.memory[uuid] = memory
        return pool

    def share_of_device(self, gpu: int, memory: int) -> int:
        """Return the share of a device that takes so much of it, at least ``gpu``, and so much of its memory.

        The smallest device that has this memory counts, so that the share suffices on any. Whole devices stay whole.
        """
        if not memory or gpu >= UNIT:
            return gpu
        pools = [*self._devices.values(), *self._registered_devices.values()]
        least = min((most for pool in pools for most in pool.memory.values() if most >= memory), default=0)
        return min(UNIT, max(gpu, -(-memory * UNIT // least))) if least else gpu

    def device_pool(self, host: str) -> DevicePool:
        """Return the devices that ranks of ``host`` have detected."""
        return self._devices[host]

    def hide_device(self, rank_state: RankState, uuid: str) -> None:
        """Have the rank of ``rank_state`` see a device no more, and give it the place that goes with the others."""
        if rank_state.is_present:
            rank_state.group.leave(rank_state)
        del rank_state.devices[uuid]
        if rank_state.is_present:
            self.enter(rank_state)

    def move_rank(self, rank_state: RankState, amounts: Amounts) -> None:
        """Register ``amounts`` for the rank of ``rank_state`` alone, and give it the place that goes with them."""
        before = rank_state.group
        before.leave(rank_state)
        self._group_of.pop((rank_state.host, before.visible, rank_state.rank), None)
        rank_state.registered = {**rank_state.registered, **amounts}
        self.enter(rank_state)
