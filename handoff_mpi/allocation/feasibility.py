"""Knows which requests ranks could run if nothing else ran, and the total offer of the job."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.resource_groups import RankState, ResourceGroup
from handoff_mpi.allocation.topology import Topology
from handoff_mpi.resources.amounts import GPU, GPU_MEMORY, UNIT, format_amounts


class Feasibility:
    """The requests that the ranks of a job could hold, regardless of present claims.

    Args:
        topology: who sits where.
        job: resource name to pool of the whole job.

    Attributes:
        shunned: the ranks on probation.
    """

    def __init__(self, topology: Topology, job: Mapping[str, Pool]) -> None:
        self._topology = topology
        self._job = job
        self._holders: dict[int, RankState | None] = {}
        self.shunned: Collection[int] = frozenset()
        self._is_left: dict[int, bool] = {}
        self._bound: dict[int, RequestClass] = {}
        self._looked_at = 0  # number of classes examined, for ``_bound``
        self._ranks: dict[int, int] = {}
        self._sufficient: dict[int, tuple[int, set[int]]] = {}

    def invalidate(self) -> None:
        """Note that ranks or their pools have changed."""
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

    def only_host(self, cost: RequestClass) -> str | None:
        """Return the only host where tasks of this class may run, if there is only one."""
        if cost.rank is None:
            return cost.host
        return self._topology.rank_states[cost.rank].host if cost.rank in self._topology.rank_states else None

    def ranks_on(self, host: str | None) -> int:
        """Return how many ranks of the job are on ``host``; None means any host."""
        return len(self._topology.rank_states) if host is None else self._topology.ranks_of_host[host]

    def could_run(self, cost: RequestClass, group: ResourceGroup) -> bool:
        """Whether a task of the class could run in ``group`` if nothing else ran."""
        return cost.host in (None, group.host) and group.equipment in self._that_suffices(cost) and group.admits(cost)

    def ranks_that_hold(self, cost: RequestClass) -> int:
        """Return how many living ranks could run a task of this class if nothing else ran, avoided ones too."""
        plain = cost.plain or cost
        known = self._ranks.get(plain.number)
        if known is None:
            known = self._ranks[plain.number] = self._count_ranks(plain)
        return known

    def _count_ranks(self, cost: RequestClass) -> int:
        if cost.rank is not None:
            return len(list(self._eligible(cost)))
        groups = self._topology.groups if cost.host is None else self._topology.groups_of_host.get(cost.host, [])
        sufficient = self._that_suffices(cost)
        return sum([len(group.rank_states) for group in groups if group.equipment in sufficient])

    def _that_suffices(self, cost: RequestClass) -> set[int]:
        """Return the equipment that could hold the need of the class."""
        kinds = self._topology.equipment
        checked, sufficient = self._sufficient.get(cost.number, (0, None))
        if sufficient is None or checked < len(kinds):
            sufficient = {number for number, group in enumerate(kinds.values()) if group.offers(cost)}
            self._sufficient[cost.number] = len(kinds), sufficient
        return sufficient

    def could_fit(self, cost: RequestClass) -> bool:
        """Whether some living rank could run a task of this class if nothing else ran."""
        if cost.plain is not None:
            holder = self._holder(cost.plain)
            if holder is None or not (cost.avoid in holder.group.rank_states or holder.host in cost.avoid_hosts):
                return holder is not None
        return self._holder(cost) is not None

    def _holder(self, cost: RequestClass) -> RankState | None:
        """Return a living rank that could run a task of this class if nothing else ran; looked for once a change."""
        if cost.number not in self._holders:
            eligible = (rank_state for rank_state in self._eligible(cost) if rank_state.could_hold(cost))
            self._holders[cost.number] = next(iter(eligible), None)
        return self._holders[cost.number]

    def is_left(self, cost: RequestClass) -> bool:
        """Whether some living rank that is not on probation could run a task of this class if nothing else ran."""
        if not self.shunned:
            return self.could_fit(cost)
        known = self._is_left.get(cost.number)
        if known is None:
            known = self._is_left[cost.number] = self._can_hold(cost, self.shunned)
        return known

    def bound(self, classes: Sequence[RequestClass]) -> Mapping[int, RequestClass]:
        """Return by their numbers the classes that only ranks on probation could run; each is looked at once a change.

        Args:
            classes: all, in the order of their numbers.
        """
        for cost in classes[self._looked_at :]:
            if not self.is_left(cost) and self.could_fit(cost):
                self._bound[cost.number] = cost
        self._looked_at = len(classes)
        return self._bound

    def _can_hold(self, cost: RequestClass, left_out: Collection[int]) -> bool:
        return any(rank_state.could_hold(cost) for rank_state in self._eligible(cost, left_out))

    def _eligible(self, cost: RequestClass, left_out: Collection[int] = ()) -> Iterable[RankState]:
        if cost.rank is not None:
            rank_state = self._topology.rank_states.get(cost.rank)
            return (
                [rank_state]
                if rank_state is not None and rank_state.is_present and rank_state.rank not in left_out
                else []
            )
        out = {cost.avoid, *left_out}
        groups = self._topology.groups if cost.host is None else self._topology.groups_of_host.get(cost.host, [])
        rank_states = (
            next((rank_state for rank_state in group.rank_states.values() if rank_state.rank not in out), None)
            for group in groups
        )
        return (
            rank_state
            for rank_state in rank_states
            if rank_state is not None and rank_state.host not in cost.avoid_hosts
        )

    def offered(self, cost: RequestClass) -> dict[str, int] | None:
        """Return the most of each resource that any rank offers where tasks of this class may run, in fixed point.

        None if no such rank lives.
        """
        groups = {rank_state.group.number: rank_state.group for rank_state in self._eligible(cost)}
        if not groups:
            return None
        offered = {name: pool.capacity for name, pool in self._job.items()}
        for group in groups.values():
            for name, pool in group.pools.items():
                offered[name] = max(offered.get(name, 0), pool.capacity)
            offered[GPU] = max(offered.get(GPU, 0), UNIT * len(group.visible))
            offered[GPU_MEMORY] = max(offered.get(GPU_MEMORY, 0), group.max_device_memory())
        return offered

    def why_no_devices(self) -> str:
        """Return why a host does not offer devices that it seems to have; "" if there is no such host."""
        notes = self._topology.device_notes
        return next((f"on {host} {note}" for host, note in notes.items()), "")

    def largest(self) -> str:
        """Return what the host with the most cores and memory offers, in words."""

        def size(group: ResourceGroup) -> tuple[int, ...]:
            capacity = (group.pools[name].capacity if name in group.pools else 0 for name in ("cpu", "memory"))
            return (len(group.visible), *capacity)

        group = max((group for group in self._topology.groups if group.rank_states), key=size, default=None)
        if group is None:
            return "nothing: no rank computes"
        offered = {name: pool.capacity for name, pool in group.pools.items()}
        if group.visible:
            offered[GPU] = UNIT * len(group.visible)
        offered.update({name: pool.capacity for name, pool in self._job.items()})
        return f"{format_amounts(offered)} ({group.host})"

    def supply(self) -> dict[str, int]:
        """Return the capacity of the whole job by resource, in fixed point."""
        pools = {
            id(pool): pool for group in self._topology.groups if group.rank_states for pool in group.pools.values()
        }
        total = {name: pool.capacity for name, pool in self._job.items()}
        for pool in pools.values():
            total[pool.name] = total.get(pool.name, 0) + pool.capacity
        devices = {
            (id(group.devices), uuid) for group in self._topology.groups if group.rank_states for uuid in group.visible
        }
        return {**total, GPU: len(devices) * UNIT} if devices else total
