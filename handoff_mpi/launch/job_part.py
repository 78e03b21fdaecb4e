"""One part of a run: what one start of its Slurm job does of it, before the job is requeued and continues."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from handoff_mpi.console import print_message
from handoff_mpi.launch.deadline import is_early, resolve_deadline
from handoff_mpi.programs import run_program
from handoff_mpi.resources.system_files import parse_whole

_SCONTROL_TIMEOUT_S = 60.0


class JobPart:
    """This part.

    Args:
        max_requeues: how often the job may be requeued.
    """

    def __init__(self, max_requeues: int) -> None:
        self._max_requeues = max_requeues
        self._started_s = time.time()
        self._deadline: list[float | None] = []
        self._restored: int | None = None
        self._restarts = parse_whole(os.environ.get("SLURM_RESTART_COUNT", "")) or 0

    @property
    def is_restart(self) -> bool:
        """Whether the job has been requeued, so that another part may have begun the run."""
        return self._restarts > 0

    def is_early_signal(self) -> bool:
        """Whether USR1 comes too early to be meant: the run stops by itself before the end of a job so short."""
        if not self._deadline:  # Slurm is asked once
            self._deadline.append(resolve_deadline(None, self._started_s))
        return is_early(time.time(), self._started_s, self._deadline[0])

    def look(self, status: Mapping[str, Any]) -> None:
        """Note how many functions earlier parts had done; worth a call for the first launch of this one."""
        if self._restored is None:
            self._restored = status.get("restored")

    def requeue(self, status: Mapping[str, Any]) -> None:
        """Have Slurm requeue the job of a run that was stopped, and say so; say why where that makes no sense."""
        job, restarts = os.environ.get("SLURM_JOB_ID"), self._restarts
        if not (self._max_requeues and job):
            return
        if int(status.get("done") or 0) <= (self._restored or 0):
            why = "no function was done since it started, and none would be the next time"
            print_message(f"the job is not requeued: {why}; submit it with a longer time limit (sbatch -t)")
        elif restarts >= self._max_requeues:
            what = f"the job is not requeued: it was {restarts} times (--max-requeues {self._max_requeues})"
            print_message(f"{what}; the same command resumes")
        else:
            why = _failure_of_requeue(job)
            told = f"the job cannot be requeued: {why}; the same command resumes" if why else "the job is requeued"
            print_message(told if why else f"{told} ({restarts + 1} of at most {self._max_requeues}) and resumes")


def _failure_of_requeue(job: str) -> str:
    """Requeue a job; return why that failed, empty if it did not."""
    try:
        ended = run_program(["scontrol", "requeue", job], _SCONTROL_TIMEOUT_S)
    except OSError as error:
        return str(error)
    return "" if ended.returncode == 0 else " ".join(ended.err.split())
