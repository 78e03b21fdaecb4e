"""Reads the launcher's variables about this process, without initialising MPI."""

from __future__ import annotations

import os

_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
#: mpirun --with-ft ulfm sets it in every rank; it sets nothing off by itself.
_FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
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


def has_fault_tolerance() -> bool:
    """Whether the launcher has turned on the fault tolerance of MPI (ULFM)."""
    return _has_fault_tolerance


def _first_number(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(text) for name in names if (text := os.environ.get(name, "")).isdecimal()), otherwise)


# Calls of functions are not shown the launcher's variables.
_has_fault_tolerance = os.environ.get(_FAULT_TOLERANCE) in ("1", "true")
