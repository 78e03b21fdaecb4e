"""Decides whether a rank makes its calls itself or in child processes."""

from __future__ import annotations

from handoff_mpi.launch.job import Job
from handoff_mpi.runtime.options import RunOptions


def isolation_of(job: Job, options: RunOptions, rank: int, slots: int) -> str:
    """Return how ``rank``, which has ``slots`` slots, isolates calls: "rank", "process" or "inline"."""
    if job.is_mpi and rank == 0:
        return "process"  # scheduling never waits for a call
    if not (job.is_mpi or job.is_local):  # fake ranks
        return "process" if options.isolation == "process" else "inline"
    if job.is_beside_another:
        return "process"  # calls of two threads would restore each other's directory and environment
    if options.isolation != "auto":
        return options.isolation
    safe = job.has_fault_tolerance or not job.is_mpi
    return "rank" if safe and slots == 1 else "process"
