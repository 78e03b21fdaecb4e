"""What a strategy is: pure, told what is ready and what is free, it says which task goes where."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from handoff_mpi.allocation.bays import Bay
from handoff_mpi.allocation.costs import CostClass
from handoff_mpi.allocation.ledger import Ledger
from handoff_mpi.allocation.ranking import Rate
from handoff_mpi.callbacks import in_words, shown
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Amounts


class ReadyGroup(Protocol):
    """Ready tasks of one cost class and one priority, oldest first.

    A placement that the strategy yields is claimed, and its task taken out of the group, before the
    strategy is asked for the next one; so ``group[0]`` is always the next task.
    """

    @property
    def cost(self) -> CostClass: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> int: ...


@dataclass(slots=True)
class ClusterView:
    """What a strategy sees of the job; kept up to date, never rebuilt.

    Attributes:
        ledger: what is free, by bay (ranks that draw on the same pools), indexed by cost class; not for strategies of
            the user's, as its form changes.
        prices: resource name to price of one unit for one second.
        expected_s: called with a task, returns how long it is expected to take, in seconds.
        inputs: called with a task, returns its inputs as ``(bytes, ranks that hold the value)``; values at rank 0 are
            left out.
    """

    ledger: Ledger
    prices: dict[str, float] = field(default_factory=dict)
    expected_s: Callable[[int], float] = field(default=lambda task: 1.0)
    inputs: Callable[[int], Iterable[tuple[int, Collection[int]]]] = field(default=lambda task: ())

    def fits(self, cost: CostClass, rank: int) -> bool:
        """Whether ``rank`` has room for a task of this class now."""
        seat = self.ledger.seats.get(rank)
        if seat is None or not seat.offered or rank == cost.avoid:
            return False
        if cost.rank not in (None, rank) or not self.ledger.has_job_room(cost):
            return False
        return seat.bay.fits(cost)

    def ranks(self) -> Iterator[int]:
        """Yield the living ranks in order: for strategies that look at each (slow with many ranks)."""
        return (rank for rank, seat in sorted(self.ledger.seats.items()) if seat.is_alive)

    def load(self, rank: int) -> float:
        """Return the largest claimed fraction of any resource that ``rank`` draws on."""
        return self.ledger.seats[rank].bay.load()

    def free(self, rank: int) -> dict[str, int | float]:
        """Return what is free of the resources that ``rank`` draws on, as users write it: cores, MB, devices."""
        return self.ledger.seats[rank].bay.free_amounts()

    def host(self, rank: int) -> str:
        """Return the name of the host of ``rank``."""
        return self.ledger.seats[rank].host


@runtime_checkable
class AllocationStrategy(Protocol):
    """Says which ready task goes to which rank.

    A strategy of one's own is any object with this method; it may be given to ``execute`` by object, or by
    the name of an entry point in the group ``handoff_mpi.strategies``. It must be pure and deterministic.
    """

    def allocate(self, ready: Sequence[ReadyGroup], view: ClusterView, /) -> Iterable[tuple[int, int]]:
        """Yield placements ``(task, rank)``; tasks that are not placed stay ready.

        Args:
            ready: groups in the order in which they should be served: higher priority, then older first.
            view: the cluster as it is now; it reflects each placement once that was yielded.
        """
        ...


class RatedStrategy:
    """A strategy that is a rating of bays, least first: subclass it and say :meth:`rate`.

    The ledger keeps the ratings in order as claims come and go, so such a strategy looks at a few bays per
    placement however many there are. A rating may depend on the bay and on the class, on nothing else.

    Attributes:
        spread: whether calls go to the least busy rank of the chosen bay, or to its first idle one.
        inherits: whether a slot may go on with the next task of its class without being asked again.
    """

    spread = False
    inherits = True

    def rate(self, cost: CostClass, bay: Bay) -> Any:
        """Return the rating of ``bay`` for a task of class ``cost``; it fits there.

        Ratings are numbers, or tuples of numbers: whatever can be put in order.
        """
        raise NotImplementedError("subclass RatedStrategy and define rate(cost, bay)")

    def prepare(self, view: ClusterView) -> None:
        """Called once before the first allocation of a run."""
        is_ours = getattr(self.rate, "__module__", "").startswith("handoff_mpi.allocation.strategies")
        view.ledger.order_by(self.rate if is_ours else checked_rate(self))

    def allocate(self, ready: Sequence[ReadyGroup], view: ClusterView) -> Iterable[tuple[int, int]]:
        """Yield the placement with the best rating for each ready task, until none fits."""
        ledger = view.ledger
        for group in ready:
            cost = group.cost
            while len(group):
                bay = ledger.best(cost)
                if bay is None:
                    break
                yield group[0], bay.pick(cost, self.spread)


def checked_rate(strategy: RatedStrategy) -> Rate:
    """Return ``strategy.rate``, with what goes wrong in it reported as the strategy's: it is called at any time."""
    name = type(strategy).__name__
    first: list[Any] = []

    def rate(cost: CostClass, bay: Bay) -> Any:
        try:
            rating = strategy.rate(cost, bay)
            is_ordered = rating is not None and bool(rating == rating)  # not so nan
            if is_ordered and not first:
                first.append(rating)
            bool(is_ordered and rating < first[0])
        except Exception as error:
            raise AllocationError(f"the strategy {name} failed in rate: {in_words(error)}") from error
        if not is_ordered:
            what = "which cannot be put in order; return a number, or a tuple of numbers"
            raise AllocationError(f"the strategy {name} is wrong: rate returned {shown(rating)}, {what}")
        return rating

    return rate


def demand_and_supply(costs: Iterable[tuple[Amounts, float]], ledger: Ledger) -> Mapping[str, float]:
    """Return a price for one unit of each resource for one second: demand ÷ supply.

    Args:
        costs: amounts (fixed point) and seconds of every task in the DAG at hand.
        ledger: whose capacities are the supply.
    """
    demand: dict[str, float] = {}
    for amounts, seconds in costs:
        for name, amount in amounts.items():
            demand[name] = demand.get(name, 0.0) + amount * seconds
    supply = ledger.reach.supply()
    return {name: wanted / supply[name] for name, wanted in demand.items() if supply.get(name)}
