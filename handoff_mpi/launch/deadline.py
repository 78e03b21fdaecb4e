"""When a run must have ended: what the user said, or what Slurm says of its job."""

from __future__ import annotations

import datetime
import math
import os

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.numerals import parse_real
from handoff_mpi.programs import run_program

#: A century: what is longer is a mistake, or no time that a clock can show.
MAX_DEADLINE_S = 3.2e9
#: Calls are given at most this part of a run's time to end in, or no time would be left to begin them in.
_MAX_GRACE_SHARE = 0.25
_SQUEUE_TIMEOUT_S = 10.0
#: Batch scripts ask Slurm for a signal some minutes before the end, which comes at the start of a job this short.
_SHORT_JOB_S = 480.0


def resolve_deadline(deadline: float | str | None, started: float) -> float | None:
    """Return when the run must have ended, in seconds since the epoch; None if nothing tells.

    Args:
        deadline: seconds from the start, as a number or a string, or an ISO date and time (local unless it says
            otherwise); None asks Slurm, if it is Slurm's job.
        started: when the run started, in seconds since the epoch.

    Raises:
        UsageError: the deadline cannot be understood.
    """
    if deadline is None:
        return _end_by_slurm()
    try:
        seconds = parse_real(deadline) if isinstance(deadline, str) else _number(deadline)
    except OverflowError:
        seconds = math.inf
    except (TypeError, ValueError):
        return _iso(deadline)
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise UsageError(f"deadline must be a positive number of seconds or an ISO time, not {show(deadline)}")
    return started + seconds


def grace_within(grace_period_s: float, started_s: float, deadline_s: float | None) -> float:
    """Return how long running calls may continue once a run is stopped: as asked for, or a quarter of its time."""
    if deadline_s is None:
        return grace_period_s
    return min(grace_period_s, max(0.0, _MAX_GRACE_SHARE * (deadline_s - started_s)))


def is_early(now_s: float, started_s: float, deadline_s: float | None) -> bool:
    """Whether a batch system's signal that time is nearly up comes too early, as most of a short job is left."""
    if deadline_s is None or deadline_s - started_s >= _SHORT_JOB_S:
        return False
    return deadline_s - now_s > _MAX_GRACE_SHARE * (deadline_s - started_s)


def _number(deadline: float) -> float:
    return math.nan if isinstance(deadline, bool) else float(deadline)


def _iso(text: object) -> float:
    try:
        return datetime.datetime.fromisoformat(text if isinstance(text, str) else "").timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        wanted = "seconds from the start or an ISO time (3600 or 2030-01-31T18:00)"
        raise UsageError(f"deadline must be {wanted}, not {show(text)}") from None


def _end_by_slurm() -> float | None:
    """Return the end of the Slurm job this process is in; None outside one, or if it cannot be had."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return None
    told = os.environ.get("SLURM_JOB_END_TIME", "")  # since Slurm 23
    if told.isdecimal():
        return float(told)
    try:
        command = ["squeue", "--noheader", "--job", job, "--format", "%e"]
        ended = run_program(command, _SQUEUE_TIMEOUT_S)
        return datetime.datetime.fromisoformat(ended.out.strip()).timestamp()
    except (OSError, ValueError):
        return None  # no limit, or no squeue here
