"""Cost classes: tasks that need the same."""

from __future__ import annotations

from dataclasses import dataclass, field

from handoff_mpi.allocation.pools import Pool
from handoff_mpi.resources import Amounts
from handoff_mpi.resources.amounts import plain_number


@dataclass(slots=True, eq=False)
class RequestClass:
    """Tasks that need the same, wherever they come from.

    Attributes:
        number: its place in the ledger's table.
        amounts: what one call asks for.
        pool_amounts: what a claim takes from the group's pools (without devices and the job's own pools).
        gpu: devices wanted, in fixed point: whole ones, or the share of one, at least that of its memory.
        gpu_memory: the least memory of each of these devices.
        job: what a claim takes from the job's pools.
        need: what the group must be able to hold; more than the cost when others will be bound to the rank.
        held_by_job: the resources of the need that the job's own pools could hold, where a group has no pool of them.
        rank: the only rank it may run on, if pinned.
        host: the only host it may run on, if pinned.
        avoid: a rank it should not run on: it failed there.
        avoid_hosts: hosts it should not run on: it failed there.
        plain: the class of the same tasks if they avoided nothing; None if they avoid nothing.
        is_plain: whether a group with room and an idle slot is all that tasks of this class ask for.
    """

    number: int
    amounts: Amounts
    pool_amounts: tuple[tuple[str, int], ...]
    gpu: int
    gpu_memory: int
    job: tuple[tuple[Pool, int], ...]
    need: Amounts
    held_by_job: frozenset[str]
    rank: int | None
    host: str | None
    avoid: int | None
    avoid_hosts: frozenset[str]
    plain: RequestClass | None
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        is_free = self.rank is None and self.host is None and self.avoid is None and not self.avoid_hosts
        self.is_plain = self.need is self.amounts and is_free

    def wanted(self) -> dict[str, int | float]:
        """Return what one call asks for, as users write it: cores, MB, devices."""
        return {name: plain_number(amount) for name, amount in self.amounts.items()}
