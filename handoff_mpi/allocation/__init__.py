"""Which task goes where: the ledger of claims, and strategies that know nothing of one another."""

from handoff_mpi.allocation.ledger import MEMORY, Bay, Claim, CostClass, Ledger, Seat
from handoff_mpi.allocation.strategies import CostOptimized, FirstAvailable, LoadBalanced
from handoff_mpi.allocation.strategy import (
    AllocationStrategy,
    ClusterView,
    RatedStrategy,
    ReadyGroup,
    demand_and_supply,
)

__all__ = [
    "MEMORY",
    "AllocationStrategy",
    "Bay",
    "Claim",
    "ClusterView",
    "CostClass",
    "CostOptimized",
    "FirstAvailable",
    "Ledger",
    "LoadBalanced",
    "RatedStrategy",
    "ReadyGroup",
    "Seat",
    "demand_and_supply",
]
