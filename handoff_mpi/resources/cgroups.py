"""Reads the limits that the cgroups of this process set, of version 2 and version 1, in containers too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.system_files import parse_cpu_list, parse_whole, path_exists, read_text

#: Cgroup v1 controller ("" for the v2 hierarchy) to the process's cgroup and its ancestors, nearest first.
Cgroups: TypeAlias = dict[str, list[Path]]

#: Cgroup v1 says "unlimited" with a number near 2^63.
UNLIMITED = 2**60


def find_cgroups(root: Path) -> Cgroups:
    """Return where the cgroups of this process are."""
    paths: dict[str, str] = {}
    for line in read_text(root / "proc/self/cgroup").splitlines():
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


def memory_cgroups(root: Path = Path("/")) -> tuple[list[Path], list[Path]]:
    """Return where the cgroups of this process that limit its memory are, nearest first: version 2's, version 1's."""
    cgroups = find_cgroups(root)
    return cgroups[""], cgroups["memory"]


def _cgroup_mounts(root: Path) -> dict[str, list[tuple[str, Path]]]:
    """Return, for each controller, (the cgroup that is mounted, where) for all its mounts."""
    mounts: dict[str, list[tuple[str, Path]]] = {}
    for line in read_text(root / "proc/self/mountinfo").splitlines():
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
    return unified if path_exists(unified) else base


def _with_ancestors(mounts: list[tuple[str, Path]], path: str) -> list[Path]:
    inside = [mount for mount in mounts if f"{path}/".startswith(mount[0].rstrip("/") + "/")]
    # In a container the path may be the outside's, which is not mounted here; then the mount itself is
    # the container's cgroup.
    top, point = (inside or mounts)[0]
    parts = [part for part in path[len(top) :].split("/") if part] if inside else []
    if ".." in parts:
        parts = []
    return [point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def nearest_cpus(folders: list[Path], *names: str) -> frozenset[int]:
    """Return the CPUs of the nearest cpuset: a cgroup without one of its own lives in its nearest ancestor's."""
    for folder in folders:
        for name in names:
            cpus = parse_cpu_list(read_text(folder / name))
            if cpus:
                return cpus
    return frozenset()


def cpu_quotas(cgroups: Cgroups) -> Iterator[int]:
    """Yield every CPU quota over this process, in ten-thousandths of a core. An ancestor's binds too."""
    for folder in cgroups[""]:
        quota, _, period = read_text(folder / "cpu.max").strip().partition(" ")
        yield from _quota(quota, period)
    for folder in cgroups["cpu"]:
        yield from _quota(read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us"))


def _quota(quota: str, period: str) -> Iterator[int]:
    # "max" (v2) and -1 (v1) mean no quota, and are not whole numbers.
    quota_us, period_us = parse_whole(quota), parse_whole(period)
    if quota_us and period_us:
        yield max(1, quota_us * UNIT // period_us)


def memory_limits(cgroups: Cgroups) -> Iterator[int]:
    """Yield every memory limit over this process, in bytes. An ancestor's binds too."""
    files = [folder / "memory.max" for folder in cgroups[""]]
    files += [folder / "memory.limit_in_bytes" for folder in cgroups["memory"]]
    for file in files:
        nbytes = parse_whole(read_text(file))
        if nbytes and nbytes < UNLIMITED:
            yield nbytes


def _unescape(field: str) -> str:
    # mountinfo writes a blank in a path as \040
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
