"""Reads the use of hosts during a run: the ``host.usage`` lines of ``events.jsonl``.

Nothing is unpickled, and lines that are torn, of another kind, or wrong are passed over: the file may be anything.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"
_EVENT = b'"host.usage"'
_MAX_LINE_NBYTES, _MAX_LINES = 65_536, 2_000_000
#: Samples of a host beyond this many are thinned out.
_MAX_SAMPLES = 2_000
_MAX_HOSTS = 1_000


@dataclass(slots=True)
class HostSamples:
    """The samples of one host in one launch: columns of equal length, NaN where a sample lacks something.

    Attributes:
        times_s: in seconds since the epoch.
        cpu: cores in use.
        memory: memory in use, in MB.
        gpu: devices in use.
    """

    times_s: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    gpu: list[float] = field(default_factory=list)


def read_usage(run_dir: Path) -> dict[tuple[int, str], HostSamples]:
    """Return the samples by launch and host, in order; nothing where there are none."""
    found: dict[tuple[int, str], HostSamples] = {}
    try:
        fd = os.open(run_dir / EVENTS_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            for _ in range(_MAX_LINES):
                line = file.readline(_MAX_LINE_NBYTES)
                if not line:
                    break
                if _EVENT in line:
                    _take(line, found)
    except OSError:
        pass
    for samples in found.values():
        _thin_out(samples)
    return found


def _take(line: bytes, found: dict[tuple[int, str], HostSamples]) -> None:
    try:
        told = json.loads(line)
        if told["event"] != "host.usage":
            return
        key = int(told["launch"]), str(told["host"])
        time_s = float(told["time_s"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return
    if key not in found and len(found) >= _MAX_HOSTS:
        return
    samples = found.setdefault(key, HostSamples())
    samples.times_s.append(time_s)
    samples.cpu.append(_part(told, "cpu_percent", "cores"))
    samples.memory.append(_number(told.get("memory_used_mb")))
    samples.gpu.append(_part(told, "gpu_percent", "gpus"))


def _part(told: dict[str, object], percent: str, of: str) -> float:
    return _number(told.get(percent)) / 100 * _number(told.get(of))


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e15 else float("nan")


def _thin_out(samples: HostSamples) -> None:
    step = -(-len(samples.times_s) // _MAX_SAMPLES)
    if step > 1:
        for name in ("times_s", "cpu", "memory", "gpu"):
            setattr(samples, name, getattr(samples, name)[::step])
