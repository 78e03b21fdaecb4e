"""Detects the cores, memory and CUDA devices of the host of this process.

It asks the system's files, the cgroups, Slurm's variables and, where there is a device, ``nvidia-smi``. It
never asks for the process's own affinity (a launcher binds its ranks tightly, which makes the host no
smaller), and it never fails because of the machine: a source that is missing, unreadable or malformed is
passed over for the next one.

Variables for people who know better; an empty one counts as not set:

=================  ==========================================================================
HANDOFF_HOST       the host's name; for hosts that share one
HANDOFF_CORES      its cores: ``8``, ``0.5``
HANDOFF_MEMORY     its memory, in MB or with a unit: ``16000``, ``16GB``, ``15 GiB``
HANDOFF_GPUS       its devices: ``2``, ``0,1;2,3`` (:mod:`handoff_mpi.resources.declared_devices`); 0 hides them
=================  ==========================================================================
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from handoff_mpi.errors import DAGError, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.resources.amounts import UNIT, format_nbytes, parse_amount
from handoff_mpi.resources.capability import Capability
from handoff_mpi.resources.cgroups import Cgroups, cpu_quotas, find_cgroups, memory_limits, nearest_cpus
from handoff_mpi.resources.cuda_devices import detect_devices
from handoff_mpi.resources.slurm import bound_cpus, granted_cpus, granted_nbytes
from handoff_mpi.resources.system_files import parse_cpu_list, read_text
from handoff_mpi.version import VERSION

#: In fixed point, a thousand TB: more than any host has.
_MAX_MEMORY = 10**9 * UNIT


def detect(
    rank: int,
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
    notes: list[str] | None = None,
) -> Capability:
    """Return what the host of this process offers, as ``rank`` reports it.

    ``host_amounts`` holds ``cpu`` (ten-thousandths of a core, at least 1) and ``memory`` (ten-thousandths
    of a MB; left out only where nothing tells it).

    Args:
        rank: the rank in the run's communicator.
        environ: the environment to read; the process's own by default.
        root: the directory to find ``proc``, ``sys`` and ``dev`` in.
        notes: receives one line for everything that a user may want to know of, such as a device that is
            there and cannot be used.

    Raises:
        UsageError: one of the HANDOFF variables makes no sense.
    """
    environ = os.environ if environ is None else environ
    notes = [] if notes is None else notes
    cgroups = find_cgroups(root)
    amounts = {"cpu": _cores(environ, root, cgroups)}
    memory = _memory(environ, root, cgroups)
    if memory is None:
        notes.append("the memory of this host is unknown: the system does not report it; set HANDOFF_MEMORY, like 16GB")
    else:
        amounts["memory"] = memory
    of_devices: list[str] = []
    devices = detect_devices(environ, root, of_devices)
    notes += of_devices
    return Capability(
        rank=rank,
        host=_host_name(environ),
        host_amounts=amounts,
        devices=devices,
        device_notes=tuple(of_devices),
        pid=os.getpid(),
        version=VERSION,
    )


def usable_cpus(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> frozenset[int]:
    """Return the ids of the CPUs that the job may use on this host, however the launcher bound this process.

    They are those online in the process's cpuset. Slurm's grant is a number without ids; where it is
    smaller than the cpuset (no cgroups there), the step's own binding tells them if it accounts for the
    whole grant. There may be more CPUs here than the ``cpu`` of :func:`detect`, which also heeds quotas.
    """
    environ = os.environ if environ is None else environ
    cpus = _cpus(root, find_cgroups(root))
    granted = granted_cpus(environ, _host_name(environ))
    if granted is None or granted >= len(cpus):
        return cpus
    bound = bound_cpus(environ) & cpus
    return bound if len(bound) >= granted else cpus


# ---- what is detected --------------------------------------------------------------------------------


def _host_name(environ: Mapping[str, str]) -> str:
    return environ.get("HANDOFF_HOST", "").strip() or socket.gethostname()


def _cores(environ: Mapping[str, str], root: Path, cgroups: Cgroups) -> int:
    declared = _declared(environ, "HANDOFF_CORES", "cpu", "a number of cores above 0", "8 or 0.5")
    if declared is not None:
        return declared
    limits = [len(_cpus(root, cgroups)) * UNIT, *cpu_quotas(cgroups)]
    granted = granted_cpus(environ, _host_name(environ))
    if granted is not None:
        limits.append(granted * UNIT)
    return min(limits)


def _memory(environ: Mapping[str, str], root: Path, cgroups: Cgroups) -> int | None:
    declared = _declared(environ, "HANDOFF_MEMORY", "memory", "an amount of memory above 0", "16000 or 16GB")
    if declared is not None and declared > _MAX_MEMORY:
        text, nbytes = show(environ["HANDOFF_MEMORY"].strip()), declared // UNIT
        what = f"HANDOFF_MEMORY={text} is {format_nbytes(nbytes * 10**6, ' ')}, more than any host has"
        raise UsageError(
            f"{what}; a number without a unit is in MB: if bytes were meant, write '{format_nbytes(nbytes)}'"
        )
    if declared is not None:
        return declared
    sources = [_machine_nbytes(root), *memory_limits(cgroups), granted_nbytes(environ, _host_name(environ))]
    limits = [nbytes for nbytes in sources if nbytes is not None]
    return min(limits) * UNIT // 10**6 if limits else None


def _declared(environ: Mapping[str, str], variable: str, resource: str, what: str, example: str) -> int | None:
    text = environ.get(variable, "").strip()
    if not text:
        return None
    try:
        amount = parse_amount(resource, text)
    except (DAGError, ArithmeticError):
        amount = 0
    if not 0 < amount < 10**18:
        raise UsageError(f"{variable}={show(text)} is not {what}; write one like {example}, or unset {variable}")
    return amount


# ---- the machine -------------------------------------------------------------------------------------


def _cpus(root: Path, cgroups: Cgroups) -> frozenset[int]:
    online = parse_cpu_list(read_text(root / "sys/devices/system/cpu/online"))
    cpus = online or frozenset(range(os.cpu_count() or 1))
    for allowed in (
        nearest_cpus(cgroups[""], "cpuset.cpus.effective"),
        nearest_cpus(cgroups["cpuset"], "cpuset.effective_cpus", "cpuset.cpus"),
    ):
        # This process runs somewhere: a set that leaves it no CPU is wrong.
        cpus = cpus & allowed or cpus
    return cpus


def _machine_nbytes(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s*([0-9]{1,18}) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    if match and int(match[1]):
        return int(match[1]) * 1024
    try:
        pages, page_nbytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    # -1 where the system does not know
    return pages * page_nbytes if pages > 0 and page_nbytes > 0 else None
