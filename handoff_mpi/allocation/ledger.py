"""The ledger of claims on the pools of a job.

Ranks of one host that draw on exactly the same pools form a *resource group* (:mod:`handoff_mpi.allocation.topology`).
A host without registered resources is one group, however many ranks share it; a rank with its own resources is a group
of its own. The ledger checks whether a cost fits once per group, never once per rank, and keeps the ranks of a group in
order as well, so a placement costs the same with one rank a host and with hundreds.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.feasibility import Feasibility
from handoff_mpi.allocation.placement_index import Changes, PlacementIndex, Score
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.reservations import Reservations
from handoff_mpi.allocation.resource_groups import Claim, ResourceGroup
from handoff_mpi.allocation.topology import Topology
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Amounts, Capability
from handoff_mpi.resources.amounts import GPU, GPU_MEMORY, UNIT, plain_number
from handoff_mpi.resources.device_names import Devices, is_for_cuda

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
        rank_states: rank to its place.
        groups: by their numbers.
        classes: by their numbers.
        idle_slots: how many slots may be claimed.
        was_updated: whether any rank's resources have changed, so that claims may exceed what there is.
        changes: which groups have changed.
        feasibility: what could be run if nothing else ran.
        reservations: what is kept for those that were skipped too often.
        cordoned: rank to why it is offered nothing for now.
    """

    def __init__(
        self, capabilities: Iterable[Capability], slots: Mapping[int, int], job: Amounts | None = None
    ) -> None:
        self._topology = topology = Topology(capabilities, slots)
        self.rank_states = topology.rank_states
        self.groups = topology.groups
        self.classes: list[RequestClass] = []
        self.job = {name: Pool(name, amount, amount) for name, amount in (job or {}).items()}
        self.idle_slots = sum(len(rank_state.offered) for rank_state in self.rank_states.values())
        self.was_updated = False
        self.cordoned: dict[int, set[str]] = {}
        self.changes = Changes(self.groups)
        self.feasibility = Feasibility(topology, self.job)
        self.reservations = Reservations(topology, self.job, self.changes)
        self._placement_index = PlacementIndex(topology, self.changes)
        self._class_of: dict[object, RequestClass] = {}

    def capacity(self) -> dict[str, int | float]:
        """Return how much of each resource there is in all pools together, as users write it."""
        pools = {id(pool): pool for group in self.groups for pool in group.pools.values()}
        devices = {id(group.devices): group.devices for group in self.groups if group.devices is not None}
        total = Counter({GPU: sum(len(each.free) for each in devices.values()) * UNIT})
        for pool in (*pools.values(), *self.job.values()):
            total[pool.name] += pool.capacity
        return {name: plain_number(amount) for name, amount in total.items() if amount}

    def close(self) -> None:
        """Break the reference cycles; the ledger is of no use afterwards."""
        self.reservations.drop_all()
        for group in self.groups:
            group.rank_states.clear()

    # -- capability -------------------------------------------------------------------------------

    def update(self, rank: int, amounts: Amounts) -> None:
        """Register ``amounts`` for ``rank`` alone, in place of what it drew on; its claims move along.

        Raises:
            AllocationError: there is no such living rank, or a pool of the whole job has that name.
        """
        rank_state = self.rank_states.get(rank)
        if rank_state is None or not rank_state.is_present:
            raise AllocationError(f"rank {rank} takes no part in this run, so its resources cannot be updated")
        shared = [name for name in amounts if name in self.job]
        if shared:
            raise AllocationError(f"{', '.join(shared)} belongs to the whole job (resources=), not to a rank")
        self.was_updated = True
        before = rank_state.group
        self._topology.move_rank(rank_state, amounts)
        self.reservations.drop_all()
        for claim in filter(None, rank_state.claims):
            claim.group = rank_state.group
            claim.draws = [(self._move(pool, amount, rank_state.group), amount) for pool, amount in claim.draws]
        self._touch(before)
        self._touch(rank_state.group)

    def withdraw_device(self, host: str, uuid: str) -> list[int]:
        """Have no rank of ``host`` offer a device any more; return the ranks that did. Claims of it stay."""
        self.reservations.drop_all()
        seeing = [each for each in self.rank_states.values() if each.host == host and uuid in each.devices]
        for rank_state in seeing:
            before = rank_state.group
            self._topology.hide_device(rank_state, uuid)
            for claim in filter(None, rank_state.claims):
                claim.group = rank_state.group
            self._touch(before)
            self._touch(rank_state.group)
        return [rank_state.rank for rank_state in seeing]

    def suspect_device(self, host: str, uuid: str) -> None:
        """Prefer other devices to one that has failed."""
        self._topology.device_pool(host).suspects.add(uuid)
        self.was_updated = True

    def trust_device(self, host: str, uuid: str) -> None:
        """A device that had failed works."""
        self._topology.device_pool(host).suspects.discard(uuid)

    def offered_by(self, rank: int) -> dict[str, int | float]:
        """Return what ``rank`` offers, as users write it."""
        return self.rank_states[rank].group.offered_amounts()

    def add_slots(self, rank: int, slots: int) -> None:
        """Let ``rank`` run ``slots`` calls at once from now on, if those are more than before."""
        rank_state = self.rank_states[rank]
        more = range(rank_state.slots, slots)
        if not more:
            return
        self.idle_slots -= len(rank_state.offered)
        rank_state.group.withdraw(rank_state)
        rank_state.idle[:0] = reversed(more)
        rank_state.claims += [None] * len(more)
        rank_state.slots = slots
        self.idle_slots += len(rank_state.offered)
        rank_state.group.offer(rank_state)
        self._touch(rank_state.group)

    def _move(self, pool: Pool, amount: int, group: ResourceGroup) -> Pool:
        """Take ``amount`` from the pool of that name that the rank draws on now, and give it back to ``pool``."""
        new = group.pools.get(pool.name, pool)
        if new is pool or pool is self.job.get(pool.name):
            return pool
        pool.free += amount
        new.free -= amount
        for number in pool.groups:
            self._touch(self.groups[number])
        return new

    def remove(self, rank: int) -> None:
        """Take ``rank`` out: it is lost. Its claims must have been released."""
        rank_state = self.rank_states[rank]
        if rank_state.is_present:
            self.idle_slots -= len(rank_state.offered)
            rank_state.is_present = False
            rank_state.group.leave(rank_state)
            self._touch(rank_state.group)

    def restore(self, rank: int) -> None:
        """Take ``rank`` in again: it was silent, and is back."""
        rank_state = self.rank_states[rank]
        if not rank_state.is_present:
            rank_state.is_present = True
            self.idle_slots += len(rank_state.offered)
            self._topology.enter(rank_state)
            self._touch(rank_state.group)

    def cordon(self, rank: int, why: str = SUSPECT) -> None:
        """Offer the idle slots of ``rank`` to nobody for now; its claims stay."""
        self.cordoned.setdefault(rank, set()).add(why)
        self._set_cordoned(rank, True)

    def uncordon(self, rank: int, why: str = SUSPECT) -> None:
        """Lift the cordon of ``rank`` for this reason; other reasons still apply."""
        reasons = self.cordoned.get(rank, set())
        reasons.discard(why)
        if not reasons:
            self.cordoned.pop(rank, None)
            self._set_cordoned(rank, False)

    @contextmanager
    def lifted(self, ranks: Sequence[int], reasons: Collection[str]) -> Iterator[None]:
        """Set ``reasons`` to cordon ``ranks`` aside inside; a rank that is cordoned for another as well stays so."""
        lifted = [(rank, why) for rank in ranks for why in reasons if why in self.cordoned.get(rank, ())]
        for rank, why in lifted:
            self.uncordon(rank, why)
        try:
            yield
        finally:
            for rank, why in lifted:
                self.cordon(rank, why)

    def _set_cordoned(self, rank: int, is_cordoned: bool) -> None:
        rank_state = self.rank_states.get(rank)
        if rank_state is None or rank_state.is_cordoned == is_cordoned:
            return
        self.idle_slots -= len(rank_state.offered)
        rank_state.group.withdraw(rank_state)
        rank_state.is_cordoned = is_cordoned
        self.idle_slots += len(rank_state.offered)
        rank_state.group.offer(rank_state)
        self._touch(rank_state.group)

    def _touch(self, group: ResourceGroup) -> None:
        """Note that the pools or the ranks of ``group`` have changed."""
        self.changes.note(group)
        self.feasibility.invalidate()
        self.reservations.drop_in(group)

    # -- cost classes -----------------------------------------------------------------------------

    def request_class(
        self,
        cost: Amounts,
        rank: int | None = None,
        host: str | None = None,
        avoid: int | None = None,
        avoid_hosts: frozenset[str] = frozenset(),
        need: Amounts | None = None,
    ) -> RequestClass:
        """Return the class of tasks with this cost and these wishes, making it at first sight.

        A class copies ``cost`` and ``need``: what it and the indexes derive from them never goes stale.
        """
        wishes = (rank, host, avoid, avoid_hosts, None if need is None else tuple(need.items()))
        key = (tuple(cost.items()), wishes)
        known = self._class_of.get(key)
        if known is None:
            avoids = avoid is not None or bool(avoid_hosts)
            plain = self.request_class(cost, rank, host, need=need) if avoids else None
            amounts = tuple(each for each in cost.items() if each[0] not in (GPU, GPU_MEMORY, *self.job))
            job = tuple((self.job[name], amount) for name, amount in cost.items() if name in self.job)
            cost = dict(cost)
            need = dict(need) if need else cost
            held_by_job = frozenset(
                name for name, amount in need.items() if name in self.job and amount <= self.job[name].capacity
            )
            number, memory = len(self.classes), cost.get(GPU_MEMORY, 0)
            gpu = self._topology.share_of_device(cost.get(GPU, 0), memory)
            wanted = rank, host, avoid, avoid_hosts
            known = RequestClass(number, cost, amounts, gpu, memory, job, need, held_by_job, *wanted, plain)
            self.classes.append(known)
            self._class_of[key] = known
        return known

    # -- placing ----------------------------------------------------------------------------------

    def order_by(self, score: Score) -> None:
        """Order groups by ``score`` from now on, least first."""
        self._placement_index.order_by(score)

    def best(self, cost: RequestClass) -> ResourceGroup | None:
        """Return the group with the least rating that has room for the class now, if any."""
        if not self.idle_slots or not self.has_job_room(cost):
            return None
        return self._placement_index.best(cost)

    def has_job_room(self, cost: RequestClass) -> bool:
        """Whether the pools of the whole job have room for one more claim of this class."""
        if not cost.job:
            return True
        if self.reservations.all:
            return self.reservations.has_job_room(cost)
        return all(pool.free >= amount for pool, amount in cost.job)

    def claim(self, cost: RequestClass, rank: int) -> Claim:
        """Take what ``cost`` needs for an idle slot of ``rank``.

        Raises:
            AllocationError: it does not fit there now, or there is no such rank.
        """
        rank_state = self.rank_states.get(rank)
        if rank_state is None or not rank_state.is_present:
            raise AllocationError(f"there is no rank {rank} to place a task on")
        group = rank_state.group
        if not cost.is_plain and (cost.rank not in (None, rank) or rank == cost.avoid):
            raise AllocationError(f"a task was placed on rank {rank}, where it must not run")
        if not rank_state.offered or not group.fits(cost) or not self.has_job_room(cost):
            raise AllocationError(f"a task was placed on rank {rank}, which has no room for it")
        pools = group.pools
        draws = [(pools[name], amount) for name, amount in cost.pool_amounts]
        if cost.job:
            draws += cost.job
        for pool, amount in draws:
            pool.free -= amount
        devices: tuple[tuple[str, int], ...] = ()
        if cost.gpu and group.devices is not None:
            kept = group.kept_devices(cost) if group.reservations else None
            devices = group.devices.take(cost.gpu, group.devices_for(cost), rank, kept)
        slot = rank_state.idle.pop()
        self.idle_slots -= 1
        if not rank_state.idle:
            group.idle.remove(rank)
        claim = rank_state.claims[slot] = Claim(
            cost, rank, slot, draws, devices, group.devices if devices else None, group
        )
        if group.by_load is not None:
            group.note_load(rank_state)
        self.changes.note_shared(group, draws, claim.device_pool)
        if self.reservations.all:
            self.reservations.count_on(claim)
        return claim

    def covers(self, claim: Claim) -> bool:
        """Whether the claim's rank still has what it claimed, after an update, and none of its devices has failed."""
        if any(pool.free < 0 for pool, _ in claim.draws):
            return False
        if claim.device_pool is None:
            return True
        group, suspects = self.rank_states[claim.rank].group, claim.device_pool.suspects
        is_sound = all(uuid in group.visible and uuid not in suspects for uuid, _ in claim.devices)
        return group.devices is claim.device_pool and is_sound

    def release(self, claim: Claim) -> None:
        """Give back what ``claim`` took."""
        rank_state = self.rank_states[claim.rank]
        group = rank_state.group
        for pool, amount in claim.draws:
            pool.free += amount
        if claim.device_pool is not None:
            for uuid, amount in claim.devices:
                claim.device_pool.free[uuid] += amount
        was_idle = bool(rank_state.idle)
        if was_idle:
            bisect.insort(rank_state.idle, claim.slot, key=_downwards)
        else:
            rank_state.idle.append(claim.slot)
        if rank_state.offered:
            self.idle_slots += 1
            if not was_idle:
                bisect.insort(group.idle, claim.rank)
            if group.by_load is not None:
                group.note_load(rank_state)
        rank_state.claims[claim.slot] = None
        if self.reservations.all:
            self.reservations.count_off(claim)
        self.changes.note_shared(group, claim.draws, claim.device_pool)

    def claimed_devices(self, claim: Claim) -> Devices:
        """Return the claimed devices, with their indices in the claim's rank."""
        indices = self.rank_states[claim.rank].devices
        return tuple((indices[uuid], uuid) for uuid, _ in claim.devices if uuid in indices)

    def sees_several_devices(self, rank: int) -> bool:
        """Whether ``rank`` sees more devices of CUDA than a call with one has claimed."""
        devices = self.rank_states[rank].devices
        return len(devices) > 1 and any(map(is_for_cuda, devices))


def _downwards(slot: int) -> int:
    return -slot
