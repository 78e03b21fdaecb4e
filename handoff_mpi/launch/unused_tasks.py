"""Tells that a run uses one process, where Slurm granted its job several tasks."""

from __future__ import annotations

import functools

from handoff_mpi.console import print_message
from handoff_mpi.launch.environment import unused_tasks


@functools.cache
def tell_of_unused_tasks(remedy: str) -> None:
    """Tell once that a run uses one process of a job with several tasks; ``{}`` in ``remedy`` is how many."""
    tasks = unused_tasks()
    if tasks:
        print_message(
            f"the run uses 1 process, though Slurm granted this job {tasks} tasks; {remedy.format(tasks, tasks)}"
        )
