"""When a run must have ended: what the user said, or what Slurm says of its job."""

from __future__ import annotations

import datetime
import math
import os
import subprocess

from handoff_mpi.errors import UsageError


def end_of_run(deadline: float | str | None, started: float) -> float | None:
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
        seconds = float(deadline)
    except (TypeError, ValueError):
        return _iso(deadline)
    if not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"deadline must be a positive number of seconds or an ISO time, not {deadline!r}")
    return started + seconds


def _iso(text: object) -> float:
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        example = "3600 or 2030-01-31T18:00"
        raise UsageError(f"deadline must be seconds from the start or an ISO time ({example}), not {text!r}") from None


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
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return datetime.datetime.fromisoformat(ended.stdout.strip()).timestamp()
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None  # no limit, or no squeue here
