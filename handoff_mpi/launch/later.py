"""Resources that no host offers yet may come during the run: ``update_node_resources`` registers them."""

from __future__ import annotations

from functools import cached_property

from handoff_mpi.allocation import Ledger, RequestClass
from handoff_mpi.dag import Plan

#: What every host has or lacks from the start; nobody registers 0 of it in order to say that more will come.
_DETECTED = frozenset({"cpu", "memory", "gpu", "gpu_memory"})
_UPDATE = b"update_node_resources"


class LaterResources:
    """Says of costs that fit nowhere yet whether they may fit later.

    Args:
        plan: whose functions may update resources.
        ledger: what there is now.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger

    def may_hold(self, cost: RequestClass) -> bool:
        """Whether functions of this class, which fit nowhere, may wait for an update.

        So it is if a function of the DAG calls ``update_node_resources``, or if ranks have registered 0 of all that is
        missing.
        """
        return self._are_updates_coded or self._is_declared(cost)

    @cached_property
    def _are_updates_coded(self) -> bool:
        """Whether the code of a function names what updates resources, as far as it travels by value."""
        return any(_UPDATE in blob for blob in self._plan.codes)

    def _is_declared(self, cost: RequestClass) -> bool:
        missing = [name for name, amount in cost.need.items() if self._most(name) < amount]
        declared = {name for group in self._ledger.groups for name, pool in group.pools.items() if not pool.capacity}
        return bool(missing) and declared.difference(_DETECTED).issuperset(missing)

    def _most(self, name: str) -> int:
        """Return how much of a resource any rank or the job offers at most; devices count as detected."""
        if name == "gpu":
            return 0
        pools = [group.pools[name].capacity for group in self._ledger.groups if name in group.pools]
        return max([*pools, *([self._ledger.job[name].capacity] if name in self._ledger.job else [])], default=0)
