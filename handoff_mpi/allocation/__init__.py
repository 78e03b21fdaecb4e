"""Assigns tasks to ranks: the ledger of claims, and strategies that are independent of each other."""

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.ledger import MEMORY, PROBATION, SUSPECT, Ledger
from handoff_mpi.allocation.resource_groups import Claim, RankState, ResourceGroup
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
    "SUSPECT",
    "AllocationStrategy",
    "Claim",
    "ClusterView",
    "CostOptimized",
    "FirstAvailable",
    "Ledger",
    "LoadBalanced",
    "RankState",
    "RatedStrategy",
    "ReadyGroup",
    "RequestClass",
    "ResourceGroup",
    "demand_and_supply",
]
