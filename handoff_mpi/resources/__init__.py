"""Resources that functions need and ranks offer: exact arithmetic on amounts, and their detection."""

from handoff_mpi.resources.amounts import (
    Amounts,
    format_amount,
    parse_amount,
    parse_cost,
    parse_nbytes,
    parse_resources,
)
from handoff_mpi.resources.capability import Capability, Device
from handoff_mpi.resources.tracker import PlainAmounts, ResourceTracker

__all__ = [
    "Amounts",
    "Capability",
    "Device",
    "PlainAmounts",
    "ResourceTracker",
    "format_amount",
    "parse_amount",
    "parse_cost",
    "parse_nbytes",
    "parse_resources",
]
