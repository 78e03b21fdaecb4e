"""How much of a host is in use: cores, memory and, where NVIDIA's library can be asked, GPUs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

#: Seconds between two samples of a host; more for each host, as rank 0 takes in all samples.
USAGE_INTERVAL_S, HOST_INTERVAL_S = 5.0, 0.05
#: A run has at most about this many samples of a host for each tenfold of its duration.
_SAMPLES = 1000


def interval_s(hosts: int, elapsed_s: float = 0.0) -> float:
    """Return the seconds between two samples of a host; they grow with the number of hosts and with the run."""
    return max(USAGE_INTERVAL_S, hosts * HOST_INTERVAL_S, elapsed_s / _SAMPLES)


class HostUsage:
    """Samples the host that this process is on.

    Args:
        has_gpus: whether to look for GPUs.
    """

    def __init__(self, has_gpus: bool) -> None:
        self._psutil = importlib.import_module("psutil")  # one rank a host needs it
        self._gpus = _open_gpus() if has_gpus else []
        self._psutil.cpu_percent()  # what it returns is the use since the call before

    def sample(self) -> dict[str, float]:
        """Return ``cores``, ``cpu_percent`` of them all since the last sample, and ``memory_used_mb``.

        Where GPUs are asked for and can be: ``gpus``, and ``gpu_percent``, the mean of how busy each was lately.
        """
        psutil = self._psutil
        memory = psutil.virtual_memory()
        found: dict[str, float] = {
            "cores": psutil.cpu_count() or os.cpu_count() or 1,
            "cpu_percent": psutil.cpu_percent(),
            "memory_used_mb": round((memory.total - memory.available) / 1e6, 1),
        }
        if self._gpus:
            busy = [percent for gpu in self._gpus if (percent := gpu()) is not None]
            if busy:
                found |= {"gpus": len(busy), "gpu_percent": round(sum(busy) / len(busy), 1)}
        return found


def _open_gpus() -> list[Callable[[], float | None]]:
    """Return, for each GPU of this host, what tells how busy it is, in percent."""
    try:
        nvml = importlib.import_module("pynvml")  # of the extra `gpu`
        nvml.nvmlInit()
        devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # there is no such package, no driver, or no permission: nothing is known of GPUs
        return []
    return [partial(_busy_percent, nvml, device) for device in devices]


def _busy_percent(nvml: Any, device: Any) -> float | None:
    try:
        return float(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
    except nvml.NVMLError:
        return None  # it has fallen off the bus, or belongs to another
