"""The three strategies the guide names. Each is a formula, and ignorant of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.resource_groups import ResourceGroup
from handoff_mpi.allocation.strategy import ClusterView, RatedStrategy, ReadyGroup
from handoff_mpi.resources.amounts import GPU, UNIT

#: Bytes per second assumed between ranks when a transfer is priced; networks differ, orders matter little.
BANDWIDTH = 1e9
#: A value that more ranks hold than these is near everybody: to weigh each of them would cost more than it saves.
MAX_HOLDERS = 64


class FirstAvailable(RatedStrategy):
    """The first rank, in rank order, with room."""

    def score(self, cost: RequestClass, group: ResourceGroup) -> Any:
        return group.first_idle(cost)


class LoadBalanced(RatedStrategy):
    """The rank whose largest claimed fraction of any resource is least; ties go to the less busy rank."""

    spread = True

    def score(self, cost: RequestClass, group: ResourceGroup) -> Any:
        rank = group.least_loaded(cost)
        return (group.load(), group.rank_states[rank].busy_fraction, rank)


class CostOptimized(RatedStrategy):
    """The rank where the claim, what it strands, and the transfer of its inputs cost least.

    Cost of a placement: Σ price × amount × expected seconds, plus the price of free capacity that the claim
    would leave without the resources to be used with, plus bytes to move ÷ bandwidth × the claim's price.
    A price is demand ÷ supply in the DAG and job at hand, unless given.

    Args:
        prices: resource name to price per unit and second, in place of demand ÷ supply.
    """

    reuses_claims = False

    def __init__(self, prices: dict[str, float] | None = None) -> None:
        self._given = dict(prices or {})
        self._prices: dict[str, float] = {}

    def prepare(self, view: ClusterView) -> None:
        self._prices = {**view.prices, **self._given}
        super().prepare(view)

    def score(self, cost: RequestClass, group: ResourceGroup) -> Any:
        return (self.price(cost) + self.stranded(cost, group), group.first_idle(cost))

    def price(self, cost: RequestClass) -> float:
        """Return Σ price × amount for one second of a claim of this class."""
        return sum(self._prices.get(name, 0.0) * amount / UNIT for name, amount in cost.amounts.items())

    def stranded(self, cost: RequestClass, group: ResourceGroup) -> float:
        """Return the price per second of what the claim would strand in ``group``.

        A claim that takes the share s of what is free of a resource leaves that much less to go with the
        resources it does not take: s of their free amounts is stranded. s is the largest over its resources.
        """
        share, idle_worth = 0.0, 0.0
        for name, pool in group.pools.items():
            amount = cost.amounts.get(name, 0)
            if amount and pool.free > 0:
                share = max(share, amount / pool.free)
            elif not amount:
                idle_worth += self._prices.get(name, 0.0) * max(0, pool.free) / UNIT
        if group.devices is not None and not cost.gpu:
            free = sum(group.devices.free[uuid] for uuid in group.visible)
            idle_worth += self._prices.get(GPU, 0.0) * free / UNIT
        return min(share, 1.0) * idle_worth

    def allocate(self, ready: Sequence[ReadyGroup], view: ClusterView) -> Iterable[tuple[int, int]]:
        """Yield the cheapest placement of each ready task; holders of its inputs are weighed one by one."""
        ledger = view.ledger
        for queue in ready:
            cost = queue.cost
            while len(queue):
                group = ledger.best(cost)
                if group is None:
                    break
                rank = group.pick(cost)
                inputs = [each for each in view.inputs(queue[0]) if len(each[1]) <= MAX_HOLDERS]
                yield queue[0], self._nearest(queue[0], cost, rank, inputs, view) if inputs else rank

    def _nearest(
        self, task: int, cost: RequestClass, rank: int, inputs: Sequence[tuple[int, Collection[int]]], view: ClusterView
    ) -> int:
        seconds = view.expected_s(task)
        price = self.price(cost)

        def total(candidate: int) -> tuple[float, int]:
            moved = sum(nbytes for nbytes, holders in inputs if candidate not in holders)
            group = view.ledger.rank_states[candidate].group
            stay = (price + self.stranded(cost, group)) * seconds
            return (stay + moved / BANDWIDTH * price, candidate)

        holders = {holder for _, ranks in inputs for holder in ranks}
        return min([rank, *(holder for holder in holders if view.fits(cost, holder))], key=total)
