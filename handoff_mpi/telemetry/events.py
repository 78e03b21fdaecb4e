"""The events that a run emits, and the fields of each: one table, from which the manual's page telemetry.md is checked.

``system_time`` is in seconds since the epoch, ``duration`` and ``delay`` in seconds, ``nbytes`` in bytes. ``node`` is a
rank, ``nodes`` are the ranks of a host, ``host`` is the name of a machine, ``functions`` is a number of functions.
``amounts`` and ``capabilities`` are as users write them (``{"cpu": 4, "memory": 2000}``). The manual says when each
event happens.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Event: TypeAlias = tuple[str, ...]


class Fields(NamedTuple):
    """The keys of the two dicts that a handler of an event receives.

    Attributes:
        measurements: what was measured.
        metadata: what it was measured of.
    """

    measurements: tuple[str, ...]
    metadata: tuple[str, ...]


FUNCTION_START: Event = ("handoff", "execution", "function", "start")
FUNCTION_STOP: Event = ("handoff", "execution", "function", "stop")
FUNCTION_EXCEPTION: Event = ("handoff", "execution", "function", "exception")
FUNCTION_RETRY: Event = ("handoff", "execution", "function", "retry")
FUNCTION_REASSIGN: Event = ("handoff", "execution", "function", "reassign")
FUNCTION_RECOMPUTE: Event = ("handoff", "execution", "function", "recompute")
FUNCTION_SKIPPED: Event = ("handoff", "execution", "function", "skipped")
DAG_START: Event = ("handoff", "execution", "dag", "start")
DAG_STOP: Event = ("handoff", "execution", "dag", "stop")
RANK_JOINED: Event = ("handoff", "rank", "joined")
RANK_SUSPECT: Event = ("handoff", "rank", "suspect")
RANK_RETURNED: Event = ("handoff", "rank", "returned")
RANK_LOST: Event = ("handoff", "rank", "lost")
RANK_MEMORY_HIGH: Event = ("handoff", "rank", "memory", "high")
RANK_MEMORY_NORMAL: Event = ("handoff", "rank", "memory", "normal")
RANK_PROBATION_START: Event = ("handoff", "rank", "probation", "start")
RANK_PROBATION_STOP: Event = ("handoff", "rank", "probation", "stop")
HOST_PROBATION_START: Event = ("handoff", "host", "probation", "start")
HOST_PROBATION_STOP: Event = ("handoff", "host", "probation", "stop")
DEVICE_WITHDRAWN: Event = ("handoff", "device", "withdrawn")
RESOURCE_CLAIMED: Event = ("handoff", "resource", "claimed")
RESOURCE_RELEASED: Event = ("handoff", "resource", "released")
RESOURCE_REFUSED: Event = ("handoff", "resource", "refused")
RESOURCE_UPDATED: Event = ("handoff", "resource", "updated")
TRANSFER_STOP: Event = ("handoff", "transfer", "stop")

_WHEN, _DURATION = ("system_time",), ("duration",)
_CALL = ("function_id", "node", "host", "attempt", "dag_id")
_RANK, _RANK_BECAUSE, _HOST_BECAUSE = ("node", "host"), ("node", "host", "reason"), ("host", "nodes", "reason")
_CLAIM = ("node", "host", "amounts", "function_id")

#: Every event there is, with the fields that its handlers receive.
FIELDS: dict[Event, Fields] = {
    FUNCTION_START: Fields(_WHEN, _CALL),
    FUNCTION_STOP: Fields(_DURATION, (*_CALL, "nbytes")),
    FUNCTION_EXCEPTION: Fields(_DURATION, (*_CALL, "kind", "reason", "traceback")),
    FUNCTION_RETRY: Fields(_WHEN, (*_CALL, "kind", "reason", "delay")),
    FUNCTION_REASSIGN: Fields(_WHEN, (*_CALL, "reason")),
    FUNCTION_RECOMPUTE: Fields(_WHEN, (*_CALL, "reason")),
    FUNCTION_SKIPPED: Fields(_WHEN, ("function_id", "dag_id", "reason")),
    DAG_START: Fields(_WHEN, ("dag_id", "functions")),
    DAG_STOP: Fields(_DURATION, ("dag_id", "functions", "status")),
    RANK_JOINED: Fields(_WHEN, ("node", "host", "capabilities")),
    RANK_SUSPECT: Fields(_WHEN, _RANK_BECAUSE),
    RANK_RETURNED: Fields(_WHEN, _RANK),
    RANK_LOST: Fields(_WHEN, _RANK_BECAUSE),
    RANK_MEMORY_HIGH: Fields(_WHEN, _RANK_BECAUSE),
    RANK_MEMORY_NORMAL: Fields(_WHEN, _RANK_BECAUSE),
    RANK_PROBATION_START: Fields(_WHEN, _RANK_BECAUSE),
    RANK_PROBATION_STOP: Fields(_WHEN, _RANK_BECAUSE),
    HOST_PROBATION_START: Fields(_WHEN, _HOST_BECAUSE),
    HOST_PROBATION_STOP: Fields(_WHEN, _HOST_BECAUSE),
    DEVICE_WITHDRAWN: Fields(_WHEN, ("host", "device", "reason")),
    RESOURCE_CLAIMED: Fields(_WHEN, _CLAIM),
    RESOURCE_RELEASED: Fields(_WHEN, _CLAIM),
    RESOURCE_REFUSED: Fields(_WHEN, (*_CLAIM, "reason")),
    RESOURCE_UPDATED: Fields(_WHEN, ("node", "host", "amounts")),
    TRANSFER_STOP: Fields(("duration", "nbytes"), ("function_id", "source", "target", "dag_id")),
}
#: Every event there is.
EVENTS: tuple[Event, ...] = tuple(FIELDS)
