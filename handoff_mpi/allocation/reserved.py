"""The amounts that a reservation keeps from the tasks of other classes; :mod:`~.reservations` makes and drops them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from handoff_mpi.allocation.costs import RequestClass


@dataclass(slots=True)
class Hold:
    """The part of one pool, of one device, or of the slots of a group that is kept.

    Attributes:
        need: the waiter's amount.
        spare: what others may hold when the waiter starts.
        free: returns what is free of it now.
        coming: what the blocking claims will give back.
    """

    need: int
    spare: int
    free: Callable[[], int]
    coming: int = 0

    def kept(self, but: int = 0) -> int:
        """Return what others must leave of the free amount; ``but`` of what is coming does not count."""
        return max(0, self.need - self.coming + but)


@dataclass(slots=True, eq=False)
class ReservedAmounts:
    """The part of a reservation that the resource groups read, whose amounts it keeps.

    Attributes:
        cost: the class of the waiter, without a wish to avoid a rank or hosts.
        order: the place of the waiter in the order of service: those before it need not mind the reservation.
        holds: what is kept of each pool, of each device (by uuid), and of the slots (by group).
        is_lifted: whether it binds nobody for now.
    """

    cost: RequestClass
    order: tuple[int, int]
    holds: dict[object, Hold]
    is_lifted: bool

    def binds(self, cost: RequestClass) -> bool:
        """Whether tasks of class ``cost`` must leave what is kept."""
        return not self.is_lifted and self.cost is not (cost.plain or cost)


def kept_of(key: object, reservations: Iterable[ReservedAmounts]) -> int:
    """Return how much ``reservations`` keep of a pool, of a device or of a group's slots."""
    return sum(each.holds[key].kept() for each in reservations if key in each.holds)
