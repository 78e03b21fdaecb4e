"""The interface of strategies: pure functions from ready tasks and free resources to placements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.ledger import Ledger
from handoff_mpi.allocation.placement_index import Score
from handoff_mpi.allocation.resource_groups import ResourceGroup
from handoff_mpi.callbacks import in_words, shown
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Amounts


class ReadyGroup(Protocol):
    """Ready tasks of one cost class and one priority, oldest first.

    A placement that the strategy yields is claimed, and its task taken out of its queue, before the
    strategy is asked for the next one; so ``queue[0]`` is always the next task.
    """

    @property
    def cost(self) -> RequestClass: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> int: ...


@dataclass(slots=True)
class ClusterView:
    """The job as a strategy sees it; kept up to date, never rebuilt.

    Attributes:
        ledger: what is free, by group (ranks that draw on the same pools), indexed by cost class; not for strategies of
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

    def fits(self, cost: RequestClass, rank: int) -> bool:
        """Whether ``rank`` has room for a task of this class now."""
        rank_state = self.ledger.rank_states.get(rank)
        if rank_state is None or not rank_state.offered or rank == cost.avoid:
            return False
        if cost.rank not in (None, rank) or not self.ledger.has_job_room(cost):
            return False
        return rank_state.group.fits(cost)

    def ranks(self) -> Iterator[int]:
        """Yield the living ranks in order: for strategies that look at each (slow with many ranks)."""
        return (rank for rank, rank_state in sorted(self.ledger.rank_states.items()) if rank_state.is_present)

    def load(self, rank: int) -> float:
        """Return the largest claimed fraction of any resource that ``rank`` draws on."""
        return self.ledger.rank_states[rank].group.load()

    def free(self, rank: int) -> dict[str, int | float]:
        """Return what is free of the resources that ``rank`` draws on, as users write it: cores, MB, devices."""
        return self.ledger.rank_states[rank].group.free_amounts()

    def host(self, rank: int) -> str:
        """Return the name of the host of ``rank``."""
        return self.ledger.rank_states[rank].host


@runtime_checkable
class AllocationStrategy(Protocol):
    """Says which ready task goes to which rank.

    A strategy of one's own is any object with this method; it may be given to ``execute`` by object, or by
    the name of an entry point in the group ``handoff_mpi.strategies``. It must be pure and deterministic.
    """

    def allocate(self, ready: Sequence[ReadyGroup], view: ClusterView, /) -> Iterable[tuple[int, int]]:
        """Yield placements ``(task, rank)``; tasks that are not placed stay ready.

        Args:
            ready: queues in the order in which they should be served: higher priority, then older first.
            view: the cluster as it is now; it reflects each placement once that was yielded.
        """
        ...


#: Old names in strategies of users, for one more release.
_OLD_NAMES = {"rate": "score", "inherits": "reuses_claims"}


class RatedStrategy:
    """A strategy that is a rating of groups, least first: subclass it and say :meth:`score`.

    The ledger keeps the ratings in order as claims come and go, so such a strategy looks at a few groups per
    placement however many there are. A rating may depend on the group and on the class, on nothing else.

    Attributes:
        spread: whether calls go to the least busy rank of the chosen group, or to its first idle one.
        reuses_claims: whether a slot may run the next task of its class without asking the strategy again.
    """

    spread = False
    reuses_claims = True

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        for old, new in _OLD_NAMES.items():
            if old in cls.__dict__ and new not in cls.__dict__:
                setattr(cls, new, cls.__dict__[old])

    def score(self, cost: RequestClass, group: ResourceGroup) -> object:
        """Return the rating of ``group`` for a task of class ``cost``; it fits there.

        Ratings are numbers, or tuples of numbers: they must be comparable.
        """
        raise NotImplementedError("subclass RatedStrategy and define score(cost, group)")

    def prepare(self, view: ClusterView) -> None:
        """Called once before the first allocation of a run."""
        is_ours = getattr(self.score, "__module__", "").startswith("handoff_mpi.allocation.strategies")
        view.ledger.order_by(self.score if is_ours else checked_score(self))

    def allocate(self, ready: Sequence[ReadyGroup], view: ClusterView) -> Iterable[tuple[int, int]]:
        """Yield the placement with the best rating for each ready task, until none fits."""
        ledger = view.ledger
        for queue in ready:
            cost = queue.cost
            while len(queue):
                group = ledger.best(cost)
                if group is None:
                    break
                yield queue[0], group.pick(cost, self.spread)


def checked_score(strategy: RatedStrategy) -> Score:
    """Return ``strategy.score``, with what goes wrong in it reported as the strategy's: it is called at any time."""
    name = type(strategy).__name__
    first: list[Any] = []

    def score(cost: RequestClass, group: ResourceGroup) -> Any:
        try:
            rating = strategy.score(cost, group)
            is_ordered = rating is not None and bool(rating == rating)  # not so nan
            if is_ordered and not first:
                first.append(rating)
            bool(is_ordered and rating < first[0])
        except Exception as error:
            raise AllocationError(f"the strategy {name} failed in score: {in_words(error)}") from error
        if not is_ordered:
            what = "which cannot be put in order; return a number, or a tuple of numbers"
            raise AllocationError(f"the strategy {name} is wrong: score returned {shown(rating)}, {what}")
        return rating

    return score


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
    supply = ledger.feasibility.supply()
    return {name: wanted / supply[name] for name, wanted in demand.items() if supply.get(name)}
