"""Reads Slurm's variables: the CPUs and the memory that it granted the job on this host."""

from __future__ import annotations

import re
from collections.abc import Mapping

from handoff_mpi.resources.system_files import MAX_IDS, parse_spans, parse_whole

_MIB = 2**20
#: Slurm's own limit of the components of a heterogeneous job.
MAX_COMPONENTS = 128
_OF_COMPONENT = ("JOB_NODELIST", "JOB_CPUS_PER_NODE", "MEM_PER_CPU", "MEM_PER_NODE")


def granted_cpus(environ: Mapping[str, str], host: str) -> int | None:
    """Return the number of CPUs that Slurm granted the job on ``host``, if it is known."""
    environ = _of_component(environ, host)
    runs = _runs(environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    if len({cpus for cpus, _ in runs}) == 1:
        return runs[0][0]
    position = _position(environ, host) if runs else None
    if position is not None:
        for cpus, hosts in runs:
            if position < hosts:
                return cpus
            position -= hosts
    # The step's, which may be less than the job's: a launcher's daemons run in their own step.
    return parse_whole(environ.get("SLURM_CPUS_ON_NODE", "")) or None


def _of_component(environ: Mapping[str, str], host: str) -> Mapping[str, str]:
    """Return the variables of the component of a heterogeneous job that has ``host``: launchers pass on the first's."""
    for number in range(min(parse_whole(environ.get("SLURM_HET_SIZE", "")) or 0, MAX_COMPONENTS)):
        suffix = f"_HET_GROUP_{number}"
        if host.partition(".")[0] in parse_host_list(environ.get(f"SLURM_JOB_NODELIST{suffix}", "")):
            own = {f"SLURM_{name}": environ.get(f"SLURM_{name}{suffix}", "") for name in _OF_COMPONENT}
            return {**environ, **own}
    return environ


def total(text: str) -> int:
    """Return the sum of ``4(x2),3``, as Slurm writes CPUs or tasks of each node; 0 where malformed."""
    return sum(count * hosts for count, hosts in _runs(text))


def _runs(text: str) -> list[tuple[int, int]]:
    """Return ``4(x2),3`` as (CPUs, number of hosts): [(4, 2), (3, 1)]; empty where malformed."""
    runs = []
    for part in text.strip().split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part.strip())
        if match is None or not int(match[1]):
            return []
        runs.append((int(match[1]), int(match[2] or 1)))
    return runs


def _position(environ: Mapping[str, str], host: str) -> int | None:
    """Return the position of ``host`` in the job's list of hosts, if it can be known."""
    job_list = environ.get("SLURM_JOB_NODELIST", "")
    step_list = environ.get("SLURM_STEP_NODELIST", job_list)
    node_id = parse_whole(environ.get("SLURM_NODEID", ""))
    hosts, step_hosts = parse_host_list(job_list), parse_host_list(step_list)
    # The own name comes first: some launchers give all ranks the environment of the host they started on.
    names = [host, host.partition(".")[0], environ.get("SLURMD_NODENAME", "")]
    if node_id is not None and node_id < len(step_hosts):
        # SLURM_NODEID counts the hosts of the step, which need not be all of the job's.
        names.append(step_hosts[node_id])
    for name in names:
        if name in hosts:
            return hosts.index(name)
    return node_id if step_list == job_list else None


def bound_cpus(environ: Mapping[str, str]) -> frozenset[int]:
    """Return the CPUs that Slurm bound the tasks of this step to, all those of this host together."""
    if not environ.get("SLURM_CPU_BIND_TYPE", "").startswith("mask_cpu"):
        return frozenset()
    together = 0
    for mask in environ.get("SLURM_CPU_BIND_LIST", "").strip().split(","):
        if not re.fullmatch(r"(?:0x)?[0-9A-Fa-f]{1,4096}", mask):
            return frozenset()
        together |= int(mask, 16)
    return frozenset(cpu for cpu in range(together.bit_length()) if together >> cpu & 1)


def granted_nbytes(environ: Mapping[str, str], host: str) -> int | None:
    """Return the memory that Slurm granted the job on this host, in bytes, if it is known."""
    environ = _of_component(environ, host)
    # Both are in MiB. 0 asks for all there is, which limits nothing.
    per_node = parse_whole(environ.get("SLURM_MEM_PER_NODE", ""))
    if per_node:
        return per_node * _MIB
    per_cpu, cpus = parse_whole(environ.get("SLURM_MEM_PER_CPU", "")), granted_cpus(environ, host)
    return per_cpu * cpus * _MIB if per_cpu and cpus else None


def parse_host_list(text: str) -> list[str]:
    """Return the names in Slurm's ``node[1-3,07],gpu1``, in its order; none where it is malformed."""
    names: list[str] = []
    try:
        for item in re.split(r",(?![^\[]*\])", text.strip()):
            names += _expand(item.strip())
    except ValueError:
        return []
    return names


def _expand(item: str) -> list[str]:
    head, bracket, rest = item.partition("[")
    if not bracket:
        if not item or "]" in item:
            raise ValueError(item)
        return [item]
    inner, closing, tail = rest.partition("]")
    if not closing:
        raise ValueError(item)
    tails = _expand(tail) if tail else [""]
    spans = parse_spans(inner)
    if len(tails) * sum(high - low + 1 for _, low, high in spans) > MAX_IDS:
        raise ValueError(item)
    # The written width is kept: [08-10] means 08, 09, 10. The last bracket turns fastest.
    numbers = (str(n).zfill(len(written)) for written, low, high in spans for n in range(low, high + 1))
    return [head + number + tail for number in numbers for tail in tails]
