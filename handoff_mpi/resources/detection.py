"""Detects the cores, memory and CUDA devices of the host of this process.

This room reads the system's files, cgroups, Slurm's variables and, where there is a device, cupy. It
never asks for the process's own affinity (a launcher binds its ranks tightly, which makes the host no
smaller), and it never fails because of the machine: a source that is missing, unreadable or malformed is
passed over for the next one.

Variables for people who know better; an empty one counts as not set:

=================  ==========================================================================
HANDOFF_HOST       the host's name; for hosts that share one
HANDOFF_CORES      its cores: ``8``, ``0.5``
HANDOFF_MEMORY     its memory, in MB or with a unit: ``16000``, ``16GB``, ``15 GiB``
HANDOFF_GPUS       a number of pretended devices; 0 hides those there are
=================  ==========================================================================
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from handoff_mpi.errors import DAGError, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.resources.amounts import UNIT, format_nbytes, parse_amount
from handoff_mpi.resources.capability import Capability, Device
from handoff_mpi.version import VERSION

# Cgroup v1 controller ("" for the v2 hierarchy) to the process's cgroup and its ancestors, nearest first.
_Cgroups: TypeAlias = dict[str, list[Path]]

_MIB = 2**20
# More than any system has: a larger number is damage, and must not become a set of that size.
_MAX_IDS = 2**16
_MAX_GPUS = 1024
#: In fixed point, a thousand TB: more than any host has.
_MAX_MEMORY = 10**9 * UNIT
# Cgroup v1 says "unlimited" with a number near 2^63.
_UNLIMITED = 2**60


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
    cgroups = _cgroups(root)
    amounts = {"cpu": _cores(environ, root, cgroups)}
    memory = _memory(environ, root, cgroups)
    if memory is None:
        notes.append("the host's memory could not be found out; declare it with HANDOFF_MEMORY, like 16GB")
    else:
        amounts["memory"] = memory
    return Capability(
        rank=rank,
        host=_host(environ),
        host_amounts=amounts,
        devices=_devices(environ, root, notes),
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
    cpus = _cpus(root, _cgroups(root))
    granted = _slurm_cpus(environ)
    if granted is None or granted >= len(cpus):
        return cpus
    bound = _slurm_binding(environ) & cpus
    return bound if len(bound) >= granted else cpus


def memory_cgroups(root: Path = Path("/")) -> tuple[list[Path], list[Path]]:
    """Return where the cgroups of this process that limit its memory are, nearest first: version 2's, version 1's."""
    cgroups = _cgroups(root)
    return cgroups[""], cgroups["memory"]


# ---- what is detected --------------------------------------------------------------------------------


def _host(environ: Mapping[str, str]) -> str:
    return environ.get("HANDOFF_HOST", "").strip() or socket.gethostname()


def _cores(environ: Mapping[str, str], root: Path, cgroups: _Cgroups) -> int:
    declared = _declared(environ, "HANDOFF_CORES", "cpu", "a number of cores above 0", "8 or 0.5")
    if declared is not None:
        return declared
    limits = [len(_cpus(root, cgroups)) * UNIT, *_quotas(cgroups)]
    granted = _slurm_cpus(environ)
    if granted is not None:
        limits.append(granted * UNIT)
    return min(limits)


def _memory(environ: Mapping[str, str], root: Path, cgroups: _Cgroups) -> int | None:
    declared = _declared(environ, "HANDOFF_MEMORY", "memory", "an amount of memory above 0", "16000 or 16GB")
    if declared is not None and declared > _MAX_MEMORY:
        text, nbytes = show(environ["HANDOFF_MEMORY"].strip()), declared // UNIT
        what = f"HANDOFF_MEMORY={text} is {format_nbytes(nbytes * 10**6, ' ')}, more than any host has"
        raise UsageError(
            f"{what}; a number without a unit is in MB: if bytes were meant, write '{format_nbytes(nbytes)}'"
        )
    if declared is not None:
        return declared
    sources = [_machine_nbytes(root), *_cgroup_nbytes(cgroups), _slurm_nbytes(environ)]
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


def _cpus(root: Path, cgroups: _Cgroups) -> frozenset[int]:
    online = _cpu_list(_read(root / "sys/devices/system/cpu/online"))
    cpus = online or frozenset(range(os.cpu_count() or 1))
    for allowed in (
        _nearest_cpus(cgroups[""], "cpuset.cpus.effective"),
        _nearest_cpus(cgroups["cpuset"], "cpuset.effective_cpus", "cpuset.cpus"),
    ):
        # This process runs somewhere: a set that leaves it no CPU is wrong.
        cpus = cpus & allowed or cpus
    return cpus


def _machine_nbytes(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s*([0-9]{1,18}) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    if match and int(match[1]):
        return int(match[1]) * 1024
    try:
        pages, page_nbytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    # -1 where the system does not know
    return pages * page_nbytes if pages > 0 and page_nbytes > 0 else None


# ---- cgroups, version 2 and version 1 ----------------------------------------------------------------


def _cgroups(root: Path) -> _Cgroups:
    paths: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths.setdefault(controller, path)
    mounts = _cgroup_mounts(root)
    return {
        controller: _with_ancestors(
            mounts.get(controller) or [("/", _usual_mount(root, controller))], paths.get(controller, "/")
        )
        for controller in ("", "cpu", "cpuset", "memory")
    }


def _cgroup_mounts(root: Path) -> dict[str, list[tuple[str, Path]]]:
    """Return, for each controller, (the cgroup that is mounted, where) for all its mounts."""
    mounts: dict[str, list[tuple[str, Path]]] = {}
    for line in _read(root / "proc/self/mountinfo").splitlines():
        where, _, what = line.partition(" - ")
        fields, kind = where.split(), what.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        # The last field of a v1 mount names its controllers, among other options: "rw,cpu,cpuacct".
        for controller in [""] if kind[0] == "cgroup2" else kind[-1].split(","):
            point = root / _unescape(fields[4]).lstrip("/")
            mounts.setdefault(controller, []).append((_unescape(fields[3]), point))
    return mounts


def _usual_mount(root: Path, controller: str) -> Path:
    base = root / "sys/fs/cgroup"
    unified = base / "unified"
    if controller:
        return base / controller
    return unified if _exists(unified) else base


def _with_ancestors(mounts: list[tuple[str, Path]], path: str) -> list[Path]:
    inside = [mount for mount in mounts if f"{path}/".startswith(mount[0].rstrip("/") + "/")]
    # In a container the path may be the outside's, which is not mounted here; then the mount itself is
    # the container's cgroup.
    top, point = (inside or mounts)[0]
    parts = [part for part in path[len(top) :].split("/") if part] if inside else []
    if ".." in parts:
        parts = []
    return [point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _nearest_cpus(folders: list[Path], *names: str) -> frozenset[int]:
    # A cgroup without a cpuset of its own lives in its nearest ancestor's.
    for folder in folders:
        for name in names:
            cpus = _cpu_list(_read(folder / name))
            if cpus:
                return cpus
    return frozenset()


def _quotas(cgroups: _Cgroups) -> Iterator[int]:
    """Yield every CPU quota over this process, in ten-thousandths of a core. An ancestor's binds too."""
    for folder in cgroups[""]:
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        yield from _quota(quota, period)
    for folder in cgroups["cpu"]:
        yield from _quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _quota(quota: str, period: str) -> Iterator[int]:
    # "max" (v2) and -1 (v1) mean no quota, and are not whole numbers.
    quota_us, period_us = _whole(quota), _whole(period)
    if quota_us and period_us:
        yield max(1, quota_us * UNIT // period_us)


def _cgroup_nbytes(cgroups: _Cgroups) -> Iterator[int]:
    """Yield every memory limit over this process, in bytes. An ancestor's binds too."""
    files = [folder / "memory.max" for folder in cgroups[""]]
    files += [folder / "memory.limit_in_bytes" for folder in cgroups["memory"]]
    for file in files:
        nbytes = _whole(_read(file))
        if nbytes and nbytes < _UNLIMITED:
            yield nbytes


# ---- Slurm -------------------------------------------------------------------------------------------


def _slurm_cpus(environ: Mapping[str, str]) -> int | None:
    """Return the number of CPUs that Slurm granted the job on this host, if it is known."""
    runs = _slurm_runs(environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    if len({cpus for cpus, _ in runs}) == 1:
        return runs[0][0]
    position = _slurm_position(environ) if runs else None
    if position is not None:
        for cpus, hosts in runs:
            if position < hosts:
                return cpus
            position -= hosts
    # The step's, which may be less than the job's: a launcher's daemons run in their own step.
    return _whole(environ.get("SLURM_CPUS_ON_NODE", "")) or None


def _slurm_runs(text: str) -> list[tuple[int, int]]:
    """Return ``4(x2),3`` as (CPUs, number of hosts): [(4, 2), (3, 1)]; empty where malformed."""
    runs = []
    for part in text.strip().split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part.strip())
        if match is None or not int(match[1]):
            return []
        runs.append((int(match[1]), int(match[2] or 1)))
    return runs


def _slurm_position(environ: Mapping[str, str]) -> int | None:
    """Return the position of this host in the job's list of hosts, if it can be known."""
    job_list = environ.get("SLURM_JOB_NODELIST", "")
    step_list = environ.get("SLURM_STEP_NODELIST", job_list)
    node_id = _whole(environ.get("SLURM_NODEID", ""))
    hosts, step_hosts = _host_list(job_list), _host_list(step_list)
    # The own name comes first: some launchers give all ranks the environment of the host they started on.
    names = [_host(environ), _host(environ).partition(".")[0], environ.get("SLURMD_NODENAME", "")]
    if node_id is not None and node_id < len(step_hosts):
        # SLURM_NODEID counts the hosts of the step, which need not be all of the job's.
        names.append(step_hosts[node_id])
    for name in names:
        if name in hosts:
            return hosts.index(name)
    return node_id if step_list == job_list else None


def _slurm_binding(environ: Mapping[str, str]) -> frozenset[int]:
    """Return the CPUs that Slurm bound the tasks of this step to, all those of this host together."""
    if not environ.get("SLURM_CPU_BIND_TYPE", "").startswith("mask_cpu"):
        return frozenset()
    together = 0
    for mask in environ.get("SLURM_CPU_BIND_LIST", "").strip().split(","):
        if not re.fullmatch(r"(?:0x)?[0-9A-Fa-f]{1,4096}", mask):
            return frozenset()
        together |= int(mask, 16)
    return frozenset(cpu for cpu in range(together.bit_length()) if together >> cpu & 1)


def _slurm_nbytes(environ: Mapping[str, str]) -> int | None:
    """Return the memory that Slurm granted the job on this host, in bytes, if it is known."""
    # Both are in MiB. 0 asks for all there is, which limits nothing.
    per_node = _whole(environ.get("SLURM_MEM_PER_NODE", ""))
    if per_node:
        return per_node * _MIB
    per_cpu, cpus = _whole(environ.get("SLURM_MEM_PER_CPU", "")), _slurm_cpus(environ)
    return per_cpu * cpus * _MIB if per_cpu and cpus else None


# ---- CUDA devices ------------------------------------------------------------------------------------


def _devices(environ: Mapping[str, str], root: Path, notes: list[str]) -> tuple[Device, ...]:
    declared = environ.get("HANDOFF_GPUS", "").strip()
    if declared:
        return _declared_devices(declared)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if not _is_device_there(root) or (visible is not None and _hides_all(visible)):
        return ()
    try:
        import cupy

        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # not installed, or any way a driver can be broken
        notes.append(
            f"a CUDA device is there, but cupy cannot use it ({_brief(error)}); no GPU is offered. Install "
            "handoff_mpi[gpu], or set HANDOFF_GPUS=0 to do without"
        )
        return ()
    devices = []
    for index in range(count):
        try:
            devices.append(_device(cupy, index, visible or ""))
        except Exception as error:  # one broken device says nothing about the others
            notes.append(f"CUDA device {index} cannot be used ({_brief(error)}); it is not offered")
    return tuple(devices)


def _declared_devices(text: str) -> tuple[Device, ...]:
    count = _whole(text)
    if count is None or count > _MAX_GPUS:
        raise UsageError(
            f"HANDOFF_GPUS={show(text)} is not a number of devices; write a whole one from 0 to {_MAX_GPUS}, or unset "
            "HANDOFF_GPUS (CUDA_VISIBLE_DEVICES picks devices)"
        )
    return tuple(Device(index=index, uuid=f"declared-{index}") for index in range(count))


def _is_device_there(root: Path) -> bool:
    # Importing cupy takes seconds, so it waits for a sign that it is worth it.
    try:
        if any((root / "dev").glob("nvidia[0-9]*")):
            return True
        return any((root / "proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return False


def _hides_all(visible: str) -> bool:
    # CUDA stops at the first entry that names no device. "NoDevFiles" is Slurm's word for none granted.
    first = visible.split(",")[0].strip()
    return not first or first.startswith("-") or first == "NoDevFiles"


def _device(cupy: Any, index: int, visible: str) -> Device:
    properties = cupy.cuda.runtime.getDeviceProperties(index)
    name = properties["name"]
    return Device(
        index=index,
        uuid=_device_uuid(cupy, index, visible, properties.get("uuid", b"")),
        memory_mb=int(properties["totalGlobalMem"]) // 10**6,
        name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
    )


def _device_uuid(cupy: Any, index: int, visible: str, raw: bytes) -> str:
    # The instances of a partitioned device share its bus id; their names are where they were asked for.
    entries = [entry.strip() for entry in visible.split(",")]
    if index < len(entries) and entries[index].startswith("MIG-"):
        return entries[index]
    # cupy ends these 16 bytes at the first zero among them, as if they were a C string.
    if len(raw) < 16:
        return str(cupy.cuda.Device(index).pci_bus_id)
    digits = raw[:16].hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _brief(error: Exception) -> str:
    # cupy explains a failed import in a banner of many lines.
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# ---- reading what may be damaged ---------------------------------------------------------------------


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _unescape(field: str) -> str:
    # mountinfo writes a blank in a path as \040
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _whole(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _spans(text: str) -> list[tuple[str, int, int]]:
    """Return ``0-3,08`` as [("0", 0, 3), ("08", 8, 8)].

    Raises:
        ValueError: it is no such list, or a huge one.
    """
    spans = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part.strip())
        if match is None:
            raise ValueError(part)
        spans.append((match[1], int(match[1]), int(match[2] or match[1])))
    if any(high < low for _, low, high in spans) or sum(high - low + 1 for _, low, high in spans) > _MAX_IDS:
        raise ValueError(text)
    return spans


def _cpu_list(text: str) -> frozenset[int]:
    """Return the ids in ``0-3,8``; none where it is malformed."""
    try:
        spans = _spans(text.strip())
    except ValueError:
        return frozenset()
    return frozenset(cpu for _, low, high in spans for cpu in range(low, high + 1))


def _host_list(text: str) -> list[str]:
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
    spans = _spans(inner)
    if len(tails) * sum(high - low + 1 for _, low, high in spans) > _MAX_IDS:
        raise ValueError(item)
    # The written width is kept: [08-10] means 08, 09, 10. The last bracket turns fastest.
    numbers = (str(n).zfill(len(written)) for written, low, high in spans for n in range(low, high + 1))
    return [head + number + tail for number in numbers for tail in tails]
