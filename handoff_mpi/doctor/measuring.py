"""Measures one rank and its host, without messages to others."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from handoff_mpi.doctor.importing import Imports, measure_imports
from handoff_mpi.resources import Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.detection import detect

_SHARED_MEMORY = "/dev/shm"


@dataclass(slots=True)
class RankFacts:
    """One rank and its host as the rank sees them.

    Attributes:
        rank: the rank, 0 without MPI.
        host: the name of its host.
        versions: program to version: Python, handoff_mpi, mpi4py and the MPI library, those there are.
        thread_level: MPI's, empty without MPI.
        bound_cores: how many cores the launcher bound this process to.
        host_cores: how many the job has on the host.
        memory_nbytes: memory of the host that the job may use, 0 if unknown.
        free_memory_nbytes: memory that can be taken, 0 if unknown.
        open_files: how many files a process may have open.
        free_nbytes: directory of temporary files to the space left in it.
        imports: what imports cost it.
        devices: the CUDA devices the rank sees.
        device_notes: what is wrong with devices.
        has_cupy: whether cupy is installed.
        is_cuda_aware: whether MPI takes device memory, if it tells.
    """

    rank: int = 0
    host: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    thread_level: str = ""
    bound_cores: int = 1
    host_cores: float = 1.0
    memory_nbytes: int = 0
    free_memory_nbytes: int = 0
    open_files: int = 1024
    free_nbytes: dict[str, int] = field(default_factory=dict)
    imports: Imports = field(default_factory=Imports)
    devices: tuple[Device, ...] = ()
    device_notes: tuple[str, ...] = ()
    has_cupy: bool = False
    is_cuda_aware: bool | None = None


def measure_rank(rank: int, is_mpi: bool) -> RankFacts:
    """Measure this process; with ``is_mpi``, MPI runs already and is asked too.

    Raises:
        UsageError: one of the HANDOFF variables makes no sense.
    """
    capability = detect(rank)
    facts = RankFacts(
        rank=rank,
        host=capability.host,
        versions={"Python": platform.python_version(), "handoff_mpi": capability.version, **_mpi4py()},
        bound_cores=len(os.sched_getaffinity(0)),
        host_cores=capability.host_amounts["cpu"] / UNIT,
        memory_nbytes=capability.memory_nbytes,
        free_memory_nbytes=_free_memory(capability.memory_nbytes),
        open_files=_open_files(),
        free_nbytes=_free_space(),
        imports=measure_imports(),
        devices=capability.devices,
        device_notes=capability.device_notes,
        has_cupy=importlib.util.find_spec("cupy") is not None,
    )
    if is_mpi:
        _ask_mpi(facts)
    return facts


def _ask_mpi(facts: RankFacts) -> None:
    from handoff_mpi.comm import mpi_info

    facts.versions["MPI"] = mpi_info.library()
    facts.thread_level = mpi_info.thread_level()
    facts.is_cuda_aware = mpi_info.is_cuda_aware()


def _mpi4py() -> dict[str, str]:
    from importlib import metadata

    try:
        return {"mpi4py": metadata.version("mpi4py")}
    except metadata.PackageNotFoundError:
        return {"mpi4py": "none"}


def _free_memory(limit_nbytes: int) -> int:
    import psutil

    try:
        available = int(psutil.virtual_memory().available)
    except (OSError, RuntimeError):
        available = 0
    # The limit of a cgroup or of Slurm counts too, though not what is taken of it already.
    return min(available, limit_nbytes) if limit_nbytes else available


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**63 - 1 if soft == resource.RLIM_INFINITY else soft


def _free_space() -> dict[str, int]:
    folders = [tempfile.gettempdir(), *([_SHARED_MEMORY] if Path(_SHARED_MEMORY).is_dir() else [])]
    free = {}
    for folder in folders:
        try:
            free[folder] = shutil.disk_usage(folder).free
        except OSError:
            free[folder] = 0
    return free
