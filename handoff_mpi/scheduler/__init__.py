"""The brain of rank 0: pure. See :mod:`handoff_mpi.scheduler.machine`."""

from handoff_mpi.membership import RankLost, RankReturned, RankSuspected, RankUnreachable
from handoff_mpi.scheduler.events import (
    BroadcastLoss,
    Closed,
    Command,
    Dispatch,
    ElementsEnded,
    ElementsPulled,
    Event,
    Failure,
    Finished,
    Forget,
    HomeValueLost,
    MemoryTold,
    Persisted,
    Refused,
    ResourcesUpdated,
    Restored,
    Retract,
    Retracted,
    StopRequested,
    Submitted,
    Unfetched,
    ValueLocation,
    ValueLost,
)
from handoff_mpi.scheduler.host_failure_detector import HostFailureDetector
from handoff_mpi.scheduler.lifecycle import DISPATCHES, TRANSITIONS, Cause, State
from handoff_mpi.scheduler.machine import Scheduler
from handoff_mpi.scheduler.policy import Policy
from handoff_mpi.scheduler.restore import restore
from handoff_mpi.scheduler.transitions import Transition

__all__ = [
    "DISPATCHES",
    "TRANSITIONS",
    "BroadcastLoss",
    "Cause",
    "Closed",
    "Command",
    "Dispatch",
    "ElementsEnded",
    "ElementsPulled",
    "Event",
    "Failure",
    "Finished",
    "Forget",
    "HomeValueLost",
    "HostFailureDetector",
    "MemoryTold",
    "Persisted",
    "Policy",
    "RankLost",
    "RankReturned",
    "RankSuspected",
    "RankUnreachable",
    "Refused",
    "ResourcesUpdated",
    "Restored",
    "Retract",
    "Retracted",
    "Scheduler",
    "State",
    "StopRequested",
    "Submitted",
    "Transition",
    "Unfetched",
    "ValueLocation",
    "ValueLost",
    "restore",
]
