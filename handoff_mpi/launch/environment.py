"""What the launcher's variables tell of this process, without initialising MPI."""

from __future__ import annotations

import os

_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_ANY = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_ID")


def is_under_launcher() -> bool:
    """Whether mpirun, mpiexec or srun started this process."""
    return any(name in os.environ for name in _ANY)


def size_by_launcher() -> int:
    """Return the number of ranks the launcher says it started, 1 without one."""
    return _first_number(_SIZE, 1)


def rank_by_launcher() -> int:
    """Return the rank the launcher gave this process, 0 without one."""
    return _first_number(_RANK, 0) if is_under_launcher() else 0


def _first_number(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(text) for name in names if (text := os.environ.get(name, "")).isdecimal()), otherwise)
