"""How much memory is in use of each limit that holds for this process: its cgroups', the machine's, a declared one.

File cache is not counted: it gives way by itself. What is missing, unreadable or malformed is passed over, and where
nothing can be read (another system than Linux) nothing is ever short.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from handoff_mpi.resources.cgroups import UNLIMITED, memory_cgroups

#: What was declared is rounded: it is a limit of its own only where it is clearly less than what the machine has.
_CLEARLY_LESS = 0.99
_PAGE_NBYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Usage:
    """How much of what is in use: ``used`` of ``limit`` bytes of ``what``, in words.

    ``is_own`` says that this rank alone uses it.
    """

    used: int
    limit: int
    what: str
    is_own: bool = False

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)

    def __str__(self) -> str:
        return f"{self.used / 1e6:.0f} of {self.limit / 1e6:.0f} MB of {self.what} are in use"


class Gauge:
    """Measures the use of memory.

    The limits of cgroups and of the machine are measured as they are, for all users within them. A declared
    limit (HANDOFF_MEMORY, or Slurm's without cgroups) is measured by nobody else: each rank of the host gets an equal
    part of it.

    Args:
        declared_nbytes: the host's memory as it is offered; 0 if that is not known.
        ranks: how many ranks of the host share it.
        root: the directory to find ``proc`` and ``sys`` in.
    """

    def __init__(self, declared_nbytes: int = 0, ranks: int = 1, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        version_2, version_1 = memory_cgroups(root)
        self._version_2 = [folder for folder in version_2 if (folder / "memory.current").exists()]
        self._version_1 = [folder for folder in version_1 if (folder / "memory.usage_in_bytes").exists()]
        real = min((usage.limit for usage in self._of_others()), default=0)
        is_less = declared_nbytes < _CLEARLY_LESS * real or not real
        self._part = declared_nbytes // max(1, ranks) if is_less else 0

    def measure(self, children: Iterable[int] = (), shared_nbytes: int = 0) -> list[Usage]:
        """Return the use of each limit.

        Args:
            children: processes of this rank that count as its own.
            shared_nbytes: memory that they and this process share, counted once.
        """
        usages = [*self._of_others()]
        if self._part:
            own = self._private("self") + sum(map(self._private, children)) + shared_nbytes
            usages.append(Usage(own, self._part, "the rank's part", is_own=True))
        return usages

    def _of_others(self) -> Iterator[Usage]:
        yield from self._machine()
        for folder in self._version_2:
            limits = [_number(folder / "memory.max"), _number(folder / "memory.high")]
            current = _number(folder / "memory.current")
            yield from _of_cgroup(folder, min(filter(None, limits), default=0), current, "")
        for folder in self._version_1:
            limit, current = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
            yield from _of_cgroup(folder, limit or 0, current, "total_")

    def _machine(self) -> Iterator[Usage]:
        text = _text(self._proc / "meminfo")
        found = {name: int(kib) << 10 for name, kib in re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB", text, re.M)}
        total, available = found.get("MemTotal"), found.get("MemAvailable")
        if total and available is not None:
            yield Usage(total - available, total, "the machine's memory")

    def _private(self, process: int | str) -> int:
        """Return what a process has to itself, in bytes: resident, and neither of a file nor shared."""
        fields = _text(self._proc / str(process) / "statm").split()
        if len(fields) < 3 or not all(field.isdecimal() for field in fields):
            return 0
        return (int(fields[1]) - int(fields[2])) * _PAGE_NBYTES


def _of_cgroup(folder: Path, limit: int, current: int | None, prefix: str) -> Iterator[Usage]:
    if limit and limit < UNLIMITED and current is not None:
        cache = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _text(folder / "memory.stat"), re.M)
        yield Usage(max(0, current - sum(map(int, cache))), limit, "the control group's memory")


def _number(file: Path) -> int | None:
    """Return the whole number in ``file``; None for "max", and where there is none."""
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
