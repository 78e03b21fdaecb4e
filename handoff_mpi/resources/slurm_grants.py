"""Compares what Slurm granted the job with what the ranks use and see. Pure: it reads the job's variables alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from handoff_mpi.resources.amounts import format_nbytes
from handoff_mpi.resources.capability import Device
from handoff_mpi.resources.slurm import MAX_COMPONENTS, granted_nbytes, parse_host_list, total
from handoff_mpi.resources.system_files import parse_whole

#: Memory counts as missing if less than this share of the grant can be used: kernels keep a little for themselves.
_MIN_SHARE = 0.9
#: What the user has declared is what the user wants.
_DECLARED_MEMORY, _DECLARED_GPUS = "HANDOFF_MEMORY", "HANDOFF_GPUS"


class Mismatch(NamedTuple):
    """One thing of which the ranks use or see more or less than Slurm granted.

    Attributes:
        about: "tasks", "nodes", "memory" or "GPUs".
        what: what differs, on one line.
        remedy: what to do about it.
    """

    about: str
    what: str
    remedy: str


class Seeing(Protocol):
    """A rank, by what it sees: a :class:`~handoff_mpi.resources.capability.Capability` is one."""

    host: str
    devices: tuple[Device, ...]

    @property
    def memory_nbytes(self) -> int:
        """Memory that the job may use on the host, 0 if unknown."""
        ...


@dataclass(slots=True)
class HostView:
    """The view that all ranks of one host have of it together.

    Attributes:
        memory_nbytes: memory that the job may use, 0 if unknown.
        gpus: devices.
    """

    memory_nbytes: int = 0
    gpus: int = 0


def views_of(ranks: Iterable[Seeing]) -> dict[str, HostView]:
    """Return host to what its ranks see."""
    views: dict[str, HostView] = {}
    uuids: dict[str, set[str]] = {}
    for each in ranks:
        view = views.setdefault(each.host, HostView())
        view.memory_nbytes = max(view.memory_nbytes, each.memory_nbytes)
        seen = uuids.setdefault(each.host, set())
        seen.update(device.uuid for device in each.devices)
        view.gpus = len(seen)
    return views


def granted_tasks(environ: Mapping[str, str]) -> int:
    """Return how many tasks Slurm granted the job on all nodes, 0 if that is unknown."""
    return sum(total(each) for each in _of_components(environ, "SLURM_TASKS_PER_NODE"))


def granted_nodes(environ: Mapping[str, str]) -> int:
    """Return how many nodes Slurm granted the job, 0 if that is unknown."""
    names = (name for each in _of_components(environ, "SLURM_JOB_NODELIST") for name in parse_host_list(each))
    return len(set(names))


def granted_gpus(environ: Mapping[str, str]) -> int | None:
    """Return how many GPUs Slurm granted the job on each node; None if that is unknown, or differs between nodes."""
    if "SLURM_HET_SIZE" in environ:
        return None
    kinds = [each.rpartition(":")[2] for each in environ.get("SLURM_GPUS_PER_NODE", "").split(",")]
    if all(re.fullmatch("[0-9]{1,6}", each) for each in kinds):
        return sum(map(int, kinds))
    # That of the node whose variables these are: a job of several may have others elsewhere.
    return parse_whole(environ.get("SLURM_GPUS_ON_NODE", "")) if granted_nodes(environ) == 1 else None


def find_mismatches(environ: Mapping[str, str], ranks: int, views: Mapping[str, HostView]) -> Iterator[Mismatch]:
    """Yield what the ranks of a Slurm job use or see otherwise than it was granted; nothing outside of a job.

    Args:
        ranks: how many there are.
        views: host to what its ranks see.
    """
    if environ.get("SLURM_JOB_ID"):
        yield from _of_tasks(environ, ranks)
        nodes = granted_nodes(environ)
        if len(views) == 1 < min(ranks, nodes):
            what = f"all {ranks} ranks are on {next(iter(views))}, one of the {nodes} nodes that Slurm granted"
            yield Mismatch("nodes", what, "start them by `handoff-mpi run -n`, srun, or an mpirun that knows Slurm")
        for host, view in views.items():
            yield from _of_memory(environ, host, view)
            yield from _of_gpus(environ, host, view)


def _of_tasks(environ: Mapping[str, str], ranks: int) -> Iterator[Mismatch]:
    tasks = granted_tasks(environ)
    cpus = sum(total(each) for each in _of_components(environ, "SLURM_JOB_CPUS_PER_NODE"))
    if ranks > max(tasks, cpus) > 0:
        granted = f"{tasks} tasks" if tasks >= cpus else f"{cpus} CPUs"
        what = f"{ranks} ranks share the {granted} that Slurm granted"
        yield Mismatch("tasks", what, f"`run -n {max(tasks, cpus)}`, or submit it with `sbatch -n {ranks}`")
    elif 1 < ranks < tasks:
        what = f"{ranks} ranks use a job of {tasks} tasks"
        yield Mismatch("tasks", what, f"`run -n {tasks}` starts a rank for each, `sbatch -n {ranks}` asks for fewer")


def _of_memory(environ: Mapping[str, str], host: str, view: HostView) -> Iterator[Mismatch]:
    granted = granted_nbytes(environ, host)
    if granted and 0 < view.memory_nbytes < _MIN_SHARE * granted and not environ.get(_DECLARED_MEMORY):
        seen = format_nbytes(view.memory_nbytes, " ")
        what = f"Slurm granted {format_nbytes(granted, ' ')} of memory on {host}, and the ranks may use {seen} of it"
        yield Mismatch("memory", what, "their step or the node has less than the job: srun --mem=0, or ask for less")


def _of_gpus(environ: Mapping[str, str], host: str, view: HostView) -> Iterator[Mismatch]:
    granted = granted_gpus(environ)
    if granted is None or granted == view.gpus or environ.get(_DECLARED_GPUS):
        return
    what = f"Slurm granted {granted or 'no'} GPU{'' if granted == 1 else 's'} on {host}, and the ranks see {view.gpus}"
    if view.gpus < granted:
        remedy = "see `nvidia-smi -L` there, and give the step of the ranks the job's (srun --gpus-per-node)"
        yield Mismatch("GPUs", what, remedy)
    else:
        remedy = "name the job's in HANDOFF_GPUS or CUDA_VISIBLE_DEVICES"
        yield Mismatch("GPUs", f"{what}, those of other jobs too", remedy)


def _of_components(environ: Mapping[str, str], name: str) -> list[str]:
    """Return a variable of the job, or that of each component of a heterogeneous one."""
    count = min(parse_whole(environ.get("SLURM_HET_SIZE", "")) or 0, MAX_COMPONENTS)
    own = [environ.get(f"{name}_HET_GROUP_{number}", "") for number in range(count)]
    return own if any(own) else [environ.get(name, "")]
