"""What ranks could run if nothing else ran, and what the job offers at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from handoff_mpi.allocation.bays import Bay, Seat
from handoff_mpi.allocation.costs import GPU, CostClass
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.seating import Seating
from handoff_mpi.resources.amounts import UNIT, format_amounts


class Reach:
    """What is within reach of the ranks of a job, however much of it is claimed now.

    Args:
        seating: who sits where.
        job: resource name to pool of the whole job.
        withheld: the ranks that are offered nothing for now.

    Attributes:
        shunned: the ranks on probation.
    """

    def __init__(self, seating: Seating, job: Mapping[str, Pool], withheld: Collection[int]) -> None:
        self._seating = seating
        self._job = job
        self._withheld = withheld
        self._holders: dict[int, Seat | None] = {}
        self.shunned: Collection[int] = frozenset()
        self._is_left: dict[int, bool] = {}
        self._bound: dict[int, CostClass] = {}
        self._looked_at = 0  # so many classes, for ``_bound``
        self._ranks: dict[int, int] = {}
        self._sufficient: dict[int, tuple[int, set[int]]] = {}

    def look_anew(self) -> None:
        """Who sits where or what they draw on has changed."""
        self._holders.clear()
        self._ranks.clear()
        self._forget_left()

    def set_shunned(self, ranks: Collection[int]) -> None:
        """These ranks are on probation from now on."""
        self.shunned = frozenset(ranks)
        self._forget_left()

    def _forget_left(self) -> None:
        self._is_left.clear()
        self._bound.clear()
        self._looked_at = 0

    def only_host(self, cost: CostClass) -> str | None:
        """Return the only host where tasks of this class may run, if there is only one."""
        if cost.rank is None:
            return cost.host
        return self._seating.seats[cost.rank].host if cost.rank in self._seating.seats else None

    def ranks_on(self, host: str | None) -> int:
        """Return how many ranks of the job are on ``host``; None means any host."""
        return len(self._seating.seats) if host is None else self._seating.ranks_of_host[host]

    def could_run(self, cost: CostClass, bay: Bay) -> bool:
        """Whether a task of the class could run in ``bay`` if nothing else ran."""
        return cost.host in (None, bay.host) and bay.equipment in self._that_suffices(cost) and bay.admits(cost)

    def ranks_that_hold(self, cost: CostClass) -> int:
        """Return how many living ranks could run a task of this class if nothing else ran, avoided ones too."""
        plain = cost.plain or cost
        known = self._ranks.get(plain.number)
        if known is None:
            known = self._ranks[plain.number] = self._count_ranks(plain)
        return known

    def _count_ranks(self, cost: CostClass) -> int:
        if cost.rank is not None:
            return len(list(self._eligible(cost)))
        bays = self._seating.bays if cost.host is None else self._seating.bays_of_host.get(cost.host, [])
        sufficient = self._that_suffices(cost)
        return sum([len(bay.seats) for bay in bays if bay.equipment in sufficient])

    def _that_suffices(self, cost: CostClass) -> set[int]:
        """Return the equipment that could hold the need of the class."""
        kinds = self._seating.equipment
        checked, sufficient = self._sufficient.get(cost.number, (0, None))
        if sufficient is None or checked < len(kinds):
            sufficient = {number for number, bay in enumerate(kinds.values()) if bay.offers(cost)}
            self._sufficient[cost.number] = len(kinds), sufficient
        return sufficient

    def could_fit(self, cost: CostClass) -> bool:
        """Whether some living rank could run a task of this class if nothing else ran."""
        if cost.plain is not None:
            holder = self._holder(cost.plain)
            if holder is None or not (cost.avoid in holder.bay.seats or holder.host in cost.avoid_hosts):
                return holder is not None
        return self._holder(cost) is not None

    def _holder(self, cost: CostClass) -> Seat | None:
        """Return a living rank that could run a task of this class if nothing else ran; looked for once a change."""
        if cost.number not in self._holders:
            eligible = (seat for seat in self._eligible(cost) if seat.could_hold(cost))
            self._holders[cost.number] = next(iter(eligible), None)
        return self._holders[cost.number]

    def is_left(self, cost: CostClass) -> bool:
        """Whether some living rank that is not on probation could run a task of this class if nothing else ran."""
        if not self.shunned:
            return self.could_fit(cost)
        known = self._is_left.get(cost.number)
        if known is None:
            known = self._is_left[cost.number] = self._can_hold(cost, self.shunned)
        return known

    def bound(self, classes: Sequence[CostClass]) -> Mapping[int, CostClass]:
        """Return by their numbers the classes that only ranks on probation could run; each is looked at once a change.

        Args:
            classes: all, in the order of their numbers.
        """
        for cost in classes[self._looked_at :]:
            if not self.is_left(cost) and self.could_fit(cost):
                self._bound[cost.number] = cost
        self._looked_at = len(classes)
        return self._bound

    def is_offered(self, cost: CostClass) -> bool:
        """Whether some rank that is not withheld could run a task of this class if nothing else ran."""
        if not self._withheld:
            return self.could_fit(cost)
        return self._can_hold(cost, self._withheld)

    def _can_hold(self, cost: CostClass, withheld: Collection[int]) -> bool:
        return any(seat.could_hold(cost) for seat in self._eligible(cost, withheld))

    def _eligible(self, cost: CostClass, withheld: Collection[int] = ()) -> Iterable[Seat]:
        if cost.rank is not None:
            seat = self._seating.seats.get(cost.rank)
            return [seat] if seat is not None and seat.is_alive and seat.rank not in withheld else []
        out = {cost.avoid, *withheld}
        bays = self._seating.bays if cost.host is None else self._seating.bays_of_host.get(cost.host, [])
        seats = (next((seat for seat in bay.seats.values() if seat.rank not in out), None) for bay in bays)
        return (seat for seat in seats if seat is not None and seat.host not in cost.avoid_hosts)

    def offered(self, cost: CostClass) -> dict[str, int] | None:
        """Return the most of each resource that any rank offers where tasks of this class may run, in fixed point.

        None if no such rank lives.
        """
        bays = {seat.bay.number: seat.bay for seat in self._eligible(cost)}
        if not bays:
            return None
        offered = {name: pool.capacity for name, pool in self._job.items()}
        for bay in bays.values():
            for name, pool in bay.pools.items():
                offered[name] = max(offered.get(name, 0), pool.capacity)
            offered[GPU] = max(offered.get(GPU, 0), UNIT * len(bay.visible))
        return offered

    def largest(self) -> str:
        """Return what the host with the most cores and memory offers, in words."""

        def size(bay: Bay) -> tuple[int, ...]:
            capacity = (bay.pools[name].capacity if name in bay.pools else 0 for name in ("cpu", "memory"))
            return (len(bay.visible), *capacity)

        bay = max((bay for bay in self._seating.bays if bay.seats), key=size, default=None)
        if bay is None:
            return "nothing: no rank computes"
        offered = {name: pool.capacity for name, pool in bay.pools.items()}
        if bay.visible:
            offered[GPU] = UNIT * len(bay.visible)
        offered.update({name: pool.capacity for name, pool in self._job.items()})
        return f"{format_amounts(offered)} ({bay.host})"

    def supply(self) -> dict[str, int]:
        """Return the capacity of the whole job by resource, in fixed point."""
        pools = {id(pool): pool for bay in self._seating.bays if bay.seats for pool in bay.pools.values()}
        total = {name: pool.capacity for name, pool in self._job.items()}
        for pool in pools.values():
            total[pool.name] = total.get(pool.name, 0) + pool.capacity
        devices = {(id(bay.devices), uuid) for bay in self._seating.bays if bay.seats for uuid in bay.visible}
        return {**total, GPU: len(devices) * UNIT} if devices else total
