"""The devices of a call, in the process that makes it: which CUDA shows there, and what is freed when it ends.

CUDA reads CUDA_VISIBLE_DEVICES when it starts, and never again. So a call with a claim of devices runs in a child that
was started with them alone, or in its rank, if that sees one device only. They are numbered from 0 there, for cupy,
torch, jax and the programs that the call starts.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from handoff_mpi.gpu_staging import free_pools
from handoff_mpi.resources.device_names import VISIBLE, Devices, is_detected, is_for_cuda, visible_devices
from handoff_mpi.worker.process_state import variables_between_calls


class ShownDevices:
    """The devices of calls that CUDA shows in this process.

    Args:
        is_fixed: whether this process was started with the devices of all its calls.

    Attributes:
        used: how many devices calls have used here.
        is_followed: whether another call follows at once, under the same claim.
    """

    def __init__(self, is_fixed: bool = False) -> None:
        self.used = 0
        self.is_followed: Callable[[], bool] = lambda: False
        self._is_fixed = is_fixed
        self._inherited = None if is_fixed else variables_between_calls().get(VISIBLE)

    def indices(self, devices: Devices) -> tuple[int, ...]:
        """Return how a call numbers its devices; those that exist in the accounts alone keep the rank's numbers."""
        if self._is_fixed or visible_devices(devices, self._inherited):
            return tuple(range(len(devices)))
        return tuple(index for index, _ in devices)

    def shown(self, devices: Devices) -> str:
        """Return the devices as CUDA_VISIBLE_DEVICES has them; "" if this process is not to change it."""
        return "" if self._is_fixed else visible_devices(devices, self._inherited)

    def end_call(self, devices: Devices) -> None:
        """A call has ended: free what cupy keeps on its devices before another process can claim them."""
        if is_for_cuda(devices[0][1]):
            self.used = max(self.used, len(devices))
            if not self.is_followed():
                free_pools(self.used)

    def relieve(self) -> None:
        """Memory is short: give back what cupy keeps in this process, pinned memory too."""
        free_pools(self.used, pinned=True)

    def names(self, devices: Devices) -> list[str]:
        """Return the name of each device, as CUDA_VISIBLE_DEVICES has it."""
        shown = os.environ.get(VISIBLE, "") if self._is_fixed else self.shown(devices)
        return shown.split(",")

    def variables(self, devices: Devices) -> dict[str, str]:
        """Return the variables that a call with these devices is given."""
        shown = self.shown(devices)
        return {VISIBLE: shown} if shown else {}


def use_first(devices: Devices) -> None:
    """Make the first device of a call the current one of cupy, if this host's driver has named it and cupy is there.

    Raises:
        Exception: the device cannot be used, in cupy's words.
    """
    _, uuid = devices[0]
    if not is_detected(uuid) or (visible := os.environ.get(VISIBLE)) is None:
        return
    cupy = _import_cupy()
    # A function that names other devices itself, by env, has none of those that it has claimed.
    if cupy is not None and visible.split(",")[0].strip() == uuid:
        cupy.cuda.Device(0).use()


def _import_cupy() -> Any:
    """Return cupy; None if it is not installed: the function uses its devices by other means."""
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        return None
    try:
        import cupy
    except ImportError:
        return None
    return cupy
