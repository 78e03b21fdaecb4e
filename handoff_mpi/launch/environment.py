"""Reads the launcher's variables about this process, without initialising MPI.

``srun`` is a launcher where it started several tasks. One task is a shell that somebody works in (``srun --pty bash``,
an interactive ``salloc``), or a rank that needs no MPI. Where its environment offers a PMI, that is Slurm's, and an
mpirun that is started there must not see it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from handoff_mpi.resources.slurm import MAX_COMPONENTS, total
from handoff_mpi.resources.system_files import parse_whole

_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
#: mpirun --with-ft ulfm sets it in every rank; it sets nothing off by itself.
_FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
#: The launch agent that reaches all nodes of a heterogeneous Slurm job.
COMPONENT_AGENT = Path(__file__).with_name("component_agent.sh")
_BY_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
_PMI = ("PMI_", "PMIX_")
_NAMESPACE_OF_SLURM = "slurm.pmix."
#: What Slurm calls the step of an interactive allocation (``use_interactive_step``).
_INTERACTIVE_STEP = "4294967290"


def is_under_launcher() -> bool:
    """Whether mpirun, mpiexec or srun started this process as a rank."""
    if _has_pmi_of_single_step(os.environ):
        return False
    return any(name in os.environ for name in _BY_MPI) or _tasks_of_step(os.environ) > 1


def size_by_launcher() -> int:
    """Return the number of ranks the launcher says it started, 1 without one."""
    return _first_number(_SIZE, 1)


def rank_by_launcher() -> int:
    """Return the rank the launcher gave this process, 0 without one."""
    return _first_number(_RANK, 0) if is_under_launcher() else 0


def has_fault_tolerance() -> bool:
    """Whether the launcher has turned on the fault tolerance of MPI (ULFM)."""
    return _has_fault_tolerance


def environment_to_launch(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for an mpirun, from that of a process that is not a rank.

    In a step of one task it has the variables of the whole job instead of the step's. A step of Slurm's for daemons
    shares the CPUs of other steps: of the shell that mpirun is started in, and of the daemons of a launch that died.
    """
    if not environ.get("SLURM_JOB_ID"):
        return dict(environ)
    is_slurms = _has_pmi_of_single_step(environ)
    own = {name: value for name, value in environ.items() if not (is_slurms and name.startswith(_PMI))}
    if _is_ordinary_step(environ):
        for name in ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_TASKS_PER_NODE"):
            own.pop(name, None)
        for name, whole in (("SLURM_TASKS_PER_NODE", "CPUS_PER_NODE"), ("SLURM_NNODES", "NUM_NODES")):
            if value := environ.get(f"SLURM_JOB_{whole}"):
                own[name] = value
    return {**own, "SLURM_OVERLAP": "1"}


def components(environ: Mapping[str, str]) -> int:
    """Return how many components the Slurm job has: several if it is a heterogeneous one, 1 if not."""
    return min(parse_whole(environ.get("SLURM_HET_SIZE", "")) or 1, MAX_COMPONENTS)


def unused_tasks() -> int:
    """Return how many tasks Slurm granted the job of this process, which is no rank, 0 if not more than one."""
    environ = os.environ
    tasks = total(environment_to_launch(environ).get("SLURM_TASKS_PER_NODE", ""))
    if _is_ordinary_step(environ):  # its CPUs are known, which may be those of one task
        is_spread = environ.get("SLURM_JOB_NUM_NODES", "1") != "1"
        tasks = tasks // int(parse_whole(environ.get("SLURM_CPUS_PER_TASK", "")) or 1) if is_spread else 0
    return tasks if tasks > 1 and not is_under_launcher() else 0


def _tasks_of_step(environ: Mapping[str, str]) -> int:
    told = environ.get("SLURM_STEP_NUM_TASKS", "")
    return int(told) if told.isdecimal() else 0


def _is_ordinary_step(environ: Mapping[str, str]) -> bool:
    """Whether this is a step of one task in a job, with variables of its own: an interactive step has the job's."""
    is_single = _tasks_of_step(environ) == 1 and environ.get("SLURM_STEP_ID") != _INTERACTIVE_STEP
    return is_single and "OMPI_COMM_WORLD_SIZE" not in environ


def _has_pmi_of_single_step(environ: Mapping[str, str]) -> bool:
    """Whether the only PMI that this environment offers is one that Slurm gave a step of one task."""
    if _tasks_of_step(environ) != 1 or "OMPI_COMM_WORLD_SIZE" in environ:
        return False
    step = f"{environ.get('SLURM_JOB_ID')}.{environ.get('SLURM_STEP_ID')}"
    is_pmi = environ.get("PMI_SIZE") == "1" and environ.get("PMI_JOBID") == step
    is_pmix = environ.get("PMIX_NAMESPACE", "").startswith(_NAMESPACE_OF_SLURM)
    return (is_pmi or "PMI_SIZE" not in environ) and (is_pmix or "PMIX_RANK" not in environ)


def _first_number(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(text) for name in names if (text := os.environ.get(name, "")).isdecimal()), otherwise)


# Calls of functions are not shown the launcher's variables.
_has_fault_tolerance = os.environ.get(_FAULT_TOLERANCE) in ("1", "true")
