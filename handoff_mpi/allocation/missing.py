"""Says in words which part of a cost no rank offers."""

from __future__ import annotations

from collections.abc import Mapping

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.feasibility import Feasibility
from handoff_mpi.formatting import one_line
from handoff_mpi.resources.amounts import (
    CPU,
    GPU,
    GPU_MEMORY,
    MEMORY,
    UNIT,
    format_amount,
    format_nbytes,
    near_resource,
)

_MAX_CHARS = 80
#: Memory from here on, a TB, may have been meant in bytes.
_MAYBE_BYTES = 10**6 * UNIT
_DECLARED_BY = {GPU: "HANDOFF_GPUS", GPU_MEMORY: "HANDOFF_GPUS", MEMORY: "HANDOFF_MEMORY"}


def find_missing(feasibility: Feasibility, cost: RequestClass) -> list[str]:
    """Return why no living rank could run tasks of this class, a clause for each resource that is missing.

    Empty where no such rank lives.

    ``gpu: 1 wanted, no rank offers any; HANDOFF_GPUS declares some``.
    """
    offered = feasibility.offered(cost)
    if offered is None:
        return []
    missing = [(name, amount) for name, amount in cost.need.items() if amount > offered.get(name, 0)]
    why = feasibility.why_no_devices() if GPU in cost.need else ""
    return [_describe(name, amount, offered, cost, why) for name, amount in missing] or [
        f"no rank offers all of it together; the largest host offers {feasibility.largest()}"
    ]


def _describe(name: str, amount: int, offered: Mapping[str, int], cost: RequestClass, why_no_devices: str) -> str:
    wanted, most = f"{_shown(name)}: {format_amount(name, amount)} wanted", offered.get(name, 0)
    if most:
        what = f"{_who(cost, 'offers more than', 'offers')} {format_amount(name, most)}"
        why = f"; {why_no_devices}" if name == GPU and why_no_devices else ""
        return f"{wanted}, {what}{_unit(name, amount, most)}{why}"
    by = _DECLARED_BY.get(name, f"--resources {_shown(name)}=AMOUNT or register_local_node")
    remedy = near_resource(name, offered) or f"; {by} declares some"
    if name == GPU and why_no_devices:
        remedy = f"; {why_no_devices}"
    return f"{wanted}, {_who(cost, 'offers any', 'offers none')}{remedy}"


def _who(cost: RequestClass, any_rank: str, one: str) -> str:
    if cost.rank is not None:
        return f"rank {cost.rank} {one}"
    return f"no rank {any_rank}" if cost.host is None else f"host {cost.host} {one}"


def _unit(name: str, amount: int, most: int) -> str:
    """Return a question where an amount is likely to have been meant in another unit."""
    if name == CPU:
        return _in_cores(amount, 100, "percent", most) or _in_cores(amount, 1000, "thousandths", most)
    if name != MEMORY or amount < _MAYBE_BYTES or amount // 10**6 > most:
        return ""
    megabytes = amount // UNIT
    is_so = f"{format_nbytes(megabytes * 10**6, ' ')} (a number without a unit is in MB)"
    return f"; that is {is_so}: if bytes were meant, write '{format_nbytes(megabytes)}'"


def _in_cores(amount: int, parts: int, unit: str, most: int) -> str:
    cores = amount // parts
    if amount % parts or cores > most or cores < UNIT // 2:
        return ""
    what = f"{amount // UNIT} {unit} of a core"
    return f"; cpu is in cores, and {what} is written as {format_amount(CPU, cores)}"


def _shown(name: str) -> str:
    return one_line(name, _MAX_CHARS)
