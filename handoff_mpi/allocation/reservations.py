"""Reservations for functions that the scheduler skipped too often: amounts and one slot in one resource group.

This is the backfilling of batch schedulers (EASY: Lifka, "The ANL/IBM SP Scheduling System", 1995; Mu'alem and
Feitelson, IEEE TPDS 12(6), 2001): the waiter at the head gets a reservation, and younger ones use what that leaves.
Batch schedulers know when each job will end. Here nobody does, so a reservation counts on claims instead. A claim
*blocks* the waiter if the waiter does not fit beside it even if nobody else holds anything: the waiter cannot start
before that claim ends, so the amounts that the claim will give back need not be kept from what is free. The reservation
keeps of each pool the waiter's amount less what its blockers will give back. So a waiter that needs a whole host keeps
each core that becomes free, while one that needs what another large function holds keeps nothing until that one ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.placement_index import Changes
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.reserved import Hold, ReservedAmounts, kept_of
from handoff_mpi.allocation.resource_groups import SLOT, Claim, ResourceGroup
from handoff_mpi.allocation.topology import Topology
from handoff_mpi.resources.amounts import GPU, UNIT

#: At most this many reservations at a time, so that a decision stays cheap; further waiters get theirs as these end.
MAX_RESERVATIONS = 32
#: At most this many groups of ranks are compared to find the one that will have room first.
MAX_COMPARED = 64
#: Seconds until a claim is expected to be released.
Remaining: TypeAlias = Callable[[Claim], float]


@dataclass(slots=True, eq=False)
class Reservation(ReservedAmounts):
    """The reservation for the tasks of one class.

    Attributes:
        group: the group of ranks where the waiter will run; None if only pools of the job are kept.
        groups: the groups of ranks that draw on the reserved pools, except the pools of the whole job.
        blockers: the claims that must end before the waiter can start.
    """

    group: ResourceGroup | None
    groups: list[ResourceGroup]
    blockers: dict[Claim, None] = field(default_factory=dict)

    def blocks(self, claim: Claim) -> bool:
        """Whether the waiter does not fit beside this claim, even if nobody else held anything."""
        holds = self.holds
        return any(key in holds and amount > holds[key].spare for key, amount in claim.parts())

    def count_on(self, claim: Claim) -> None:
        """Count on what a new claim will give back if it blocks the waiter."""
        if self.blocks(claim):
            self.blockers[claim] = None
            self._count(claim, 1)

    def count_off(self, claim: Claim) -> None:
        """``claim`` was released: what it gave back is kept from now on."""
        if claim in self.blockers:
            del self.blockers[claim]
            self._count(claim, -1)

    def _count(self, claim: Claim, sign: int) -> None:
        for key, amount in claim.parts():
            if key in self.holds:
                self.holds[key].coming += sign * amount


class Reservations:
    """The reservations of a job.

    Args:
        topology: who sits where.
        job: resource name to pool of the whole job.
        changes: told of each group whose room has changed.

    Attributes:
        all: those there are, in the order in which they were made.
    """

    def __init__(self, topology: Topology, job: Mapping[str, Pool], changes: Changes) -> None:
        self.all: list[Reservation] = []
        self._topology = topology
        self._job = job
        self._changes = changes

    # -- make and drop ----------------------------------------------------------------------------

    def make(
        self, cost: RequestClass, order: tuple[int, int], eaten: Collection[str], remaining: Remaining
    ) -> Reservation | None:
        """Keep what ``cost`` needs where it is expected to be free soonest; None if that would help nowhere.

        It helps only where younger claims took of everything that is missing: if something else is missing too, that is
        what the waiter waits for.

        Args:
            order: the waiter's place in the order of service.
            eaten: names of what the waiter lacked and younger claims took.
        """
        is_short = [pool.name for pool, amount in cost.job if pool.free < amount]
        if any(name not in eaten for name in is_short):
            return None
        group = None
        if not is_short or not any(group.fits(cost) for group in self.eligible(cost)):
            group = self._soonest(cost, order, eaten, remaining)
            if group is None:
                return None
        if not self._make_room(order):
            return None
        holds = self._holds(cost, group, remaining)
        made = Reservation(cost.plain or cost, order, holds, False, group, self._groups_of(group, holds))
        for other in self._in_the_way(made):
            self.drop(other)
        for claim in self._claims(None if cost.job else [each.number for each in made.groups]):
            made.count_on(claim)
        self.all.append(made)
        self._join(made)
        return made

    def _make_room(self, order: tuple[int, int]) -> bool:
        """Drop the youngest reservation if there are too many; return whether one at ``order`` may be made."""
        if len(self.all) < MAX_RESERVATIONS:
            return True
        youngest = max(self.all, key=lambda each: each.order)
        if youngest.order < order:
            return False
        self.drop(youngest)
        return True

    def _in_the_way(self, made: Reservation) -> list[Reservation]:
        """Return the younger reservations that cannot be satisfied together with ``made``."""

        def clash(other: Reservation) -> bool:
            return any(key in other.holds and other.holds[key].need > hold.spare for key, hold in made.holds.items())

        return [each for each in self.all if each.order > made.order and clash(each)]

    def drop(self, reservation: Reservation) -> None:
        """Drop this reservation."""
        if reservation in self.all:
            self.all.remove(reservation)
            for group in reservation.groups:
                group.reservations.remove(reservation)
                self._changes.note(group)

    def drop_all(self) -> None:
        """Resource groups are formed again: drop all reservations."""
        for reservation in list(self.all):
            self.drop(reservation)

    def drop_in(self, group: ResourceGroup) -> None:
        """Drop the reservations in ``group``, whose ranks or amounts have changed, so that they may no longer fit."""
        for reservation in [each for each in self.all if group in each.groups]:
            self.drop(reservation)

    def _join(self, reservation: Reservation) -> None:
        for group in reservation.groups:
            group.reservations.append(reservation)
            self._changes.note(group)

    def _groups_of(self, group: ResourceGroup | None, holds: Mapping[object, Hold]) -> list[ResourceGroup]:
        """Return the groups of ranks that draw on what is kept."""
        if group is None:
            return []
        numbers = {group.number: None}
        for key in holds:
            if isinstance(key, Pool):
                numbers.update(dict.fromkeys(key.groups))
        if group.devices is not None:
            numbers.update(dict.fromkeys(group.devices.groups))
        return [self._topology.groups[number] for number in numbers]

    def after(self, order: tuple[int, int]) -> list[Reservation]:
        """Return the reservations that a task with this place in the order of service need not mind."""
        return [each for each in self.all if each.order > order]

    def lift(self, reservations: Iterable[Reservation], is_lifted: bool) -> None:
        """Let ``reservations`` bind nobody for now, or bind again."""
        for reservation in reservations:
            if reservation in self.all:
                reservation.is_lifted = is_lifted
                for group in reservation.groups:
                    self._changes.note(group)

    # -- where ------------------------------------------------------------------------------------

    def eligible(self, cost: RequestClass) -> Iterator[ResourceGroup]:
        """Yield the groups where the class may run and which could hold it."""
        if cost.rank is not None:
            rank_state = self._topology.rank_states.get(cost.rank)
            groups = [rank_state.group] if rank_state is not None and rank_state.is_present else []
        elif cost.host is not None:
            groups = self._topology.groups_of_host.get(cost.host, [])
        else:
            groups = self._topology.groups
        return (group for group in groups if group.could_hold(cost))

    def _soonest(
        self, cost: RequestClass, order: tuple[int, int], eaten: Collection[str], remaining: Remaining
    ) -> ResourceGroup | None:
        """Return the group of ranks that is expected to have room first, if younger claims kept off what it lacks."""

        def score(group: ResourceGroup) -> tuple[float, float, int]:
            lacking = group.lacks(cost)
            wait_s = max((self._wait_s(cost, group, name, remaining) for name in lacking), default=0.0)
            return (wait_s, sum(self._missing(cost, group, name) for name in lacking), group.number)

        helps = (
            group
            for group in self.eligible(cost)
            if all(name in eaten or name == SLOT for name in group.lacks(cost))
            and not self._is_taken(cost, group, order)
        )
        return min(itertools.islice(helps, MAX_COMPARED), key=score, default=None)

    def _is_taken(self, cost: RequestClass, group: ResourceGroup, order: tuple[int, int]) -> bool:
        """Whether an older reservation leaves no room for one more of this class."""
        older = [each for each in group.reservations if each.order < order]
        if not older:
            return False
        for name, amount in cost.pool_amounts:
            pool = group.pools[name]
            if amount + sum(each.holds[pool].need for each in older if pool in each.holds) > pool.capacity:
                return True
        return bool(cost.gpu) and not group.has_devices(cost, older)

    def _missing(self, cost: RequestClass, group: ResourceGroup, name: str) -> float:
        """Return how much is missing of a resource, as a share of what the waiter needs."""
        if name in (SLOT, GPU):
            return 1.0
        return 1.0 - group.pools[name].free / dict(cost.pool_amounts)[name]

    def _wait_s(self, cost: RequestClass, group: ResourceGroup, name: str, remaining: Remaining) -> float:
        """Return when enough of a resource is expected to be free if nobody else claims it."""
        if name == GPU:
            return self._wait_for_devices_s(cost, group, remaining)
        pool = group.pools.get(name)
        need = 1 if pool is None else dict(cost.pool_amounts)[name]
        found = [(0.0, 0 if pool is None else pool.free)]
        for claim in self._claims([group.number] if pool is None else pool.groups):
            given_back = sum(amount for key, amount in claim.parts() if key is (pool or group))
            if given_back:
                found.append((remaining(claim), given_back))
        return _time_until(need, found)

    def _wait_for_devices_s(self, cost: RequestClass, group: ResourceGroup, remaining: Remaining) -> float:
        return sorted(self._device_waits(cost, group, remaining).values())[max(1, cost.gpu // UNIT) - 1]

    def _device_waits(self, cost: RequestClass, group: ResourceGroup, remaining: Remaining) -> dict[str, float]:
        """Return when enough of each visible device is expected to be free."""
        assert group.devices is not None
        part, free = min(cost.gpu, UNIT), group.devices.free
        given_back: dict[str, list[tuple[float, int]]] = {uuid: [(0.0, free[uuid])] for uuid in group.devices_for(cost)}
        for claim in self._claims(group.devices.groups):
            for uuid, amount in claim.devices:
                if uuid in given_back:
                    given_back[uuid].append((remaining(claim), amount))
        return {uuid: _time_until(part, parts) for uuid, parts in given_back.items()}

    def _claims(self, numbers: Iterable[int] | None = None) -> Iterator[Claim]:
        groups = self._topology.groups if numbers is None else (self._topology.groups[number] for number in numbers)
        for group in groups:
            for rank_state in group.rank_states.values():
                yield from filter(None, rank_state.claims)

    def _holds(self, cost: RequestClass, group: ResourceGroup | None, remaining: Remaining) -> dict[object, Hold]:
        pools = [(pool, amount) for pool, amount in cost.job if amount]
        holds: dict[object, Hold] = {}
        if group is not None:
            pools += [(group.pools[name], amount) for name, amount in cost.pool_amounts if amount]
            slots = sum(rank_state.slots for rank_state in group.rank_states.values())
            holds[group] = Hold(1, slots - 1, group.count_idle)
            holds.update(self._device_holds(cost, group, remaining))
        for pool, amount in pools:
            holds[pool] = Hold(amount, pool.capacity - amount, _reader(pool))
        return holds

    def _device_holds(self, cost: RequestClass, group: ResourceGroup, remaining: Remaining) -> dict[object, Hold]:
        """Keep the devices that are expected to be free first, each for one waiter."""
        if not cost.gpu or group.devices is None:
            return {}
        part, free = min(cost.gpu, UNIT), group.devices.free
        taken = {key for each in group.reservations for key in each.holds}
        waits = self._device_waits(cost, group, remaining)
        uuids = sorted(
            (uuid for uuid in group.devices_for(cost) if uuid not in taken), key=lambda uuid: (waits[uuid], -free[uuid])
        )
        return {uuid: Hold(part, UNIT - part, _device_reader(free, uuid)) for uuid in uuids[: max(1, cost.gpu // UNIT)]}

    # -- what changes -----------------------------------------------------------------------------

    def count_on(self, claim: Claim) -> None:
        """``claim`` was made."""
        for reservation in self.all:
            reservation.count_on(claim)

    def count_off(self, claim: Claim) -> None:
        """``claim`` was released."""
        for reservation in self.all:
            reservation.count_off(claim)

    # -- what others may do -----------------------------------------------------------------------

    def has_job_room(self, cost: RequestClass) -> bool:
        """Whether the job's pools have room for the class beside what is kept of them."""
        binding = [each for each in self.all if each.binds(cost)]
        return all(pool.free - kept_of(pool, binding) >= amount for pool, amount in cost.job)

    def may_stay(self, claim: Claim, order: tuple[int, int]) -> bool:
        """Whether a slot whose calls have ended may keep its claim: as if that were released and claimed.

        The same amounts would be free, but more may be kept of them: a waiter could count on the claim until then.

        Args:
            order: the place of the next task in the order of service.
        """
        binding = [each for each in self.all if each.binds(claim.cost) and each.order < order]
        if not binding:
            return True
        for key, amount in claim.parts():
            holds = [(each.holds[key], claim in each.blockers) for each in binding if key in each.holds]
            if holds and amount:
                kept = sum(hold.kept(amount if is_blocker else 0) for hold, is_blocker in holds)
                if holds[0][0].free() < kept:
                    return False
        return True


def _time_until(need: int, given_back: Iterable[tuple[float, int]]) -> float:
    """Return when ``need`` will be there, of amounts that are given back after some seconds each."""
    total = 0
    for seconds, amount in sorted(given_back):
        total += amount
        if total >= need:
            return seconds
    return float("inf")


def _reader(pool: Pool) -> Callable[[], int]:
    return lambda: pool.free


def _device_reader(free: Mapping[str, int], uuid: str) -> Callable[[], int]:
    return lambda: free[uuid]
