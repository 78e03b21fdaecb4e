"""Which task goes where: the ledger of claims, and strategies that know nothing of one another."""

from handoff_mpi.allocation.bays import Bay, Claim, Seat
from handoff_mpi.allocation.costs import CostClass
from handoff_mpi.allocation.ledger import MEMORY, PROBATION, Ledger
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
    "PROBATION",
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
