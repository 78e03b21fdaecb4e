"""Tells errors of devices from those of functions, and asks a fresh process whether a device works.

A function may break its own context (an illegal address does), and then every later use of CUDA in its process fails,
on a device that is sound. So an error alone is no evidence: a device is reported as failed only if a fresh process,
which sees it alone, cannot use it either.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Sequence

from handoff_mpi.messages import ErrorReport
from handoff_mpi.python_path import python_program
from handoff_mpi.resources.device_names import VISIBLE

#: The classes of exceptions that report an error of CUDA: of cupy, and of torch.
_CLASSES = frozenset({"CUDARuntimeError", "CUDADriverError", "AcceleratorError"})
#: How torch begins what it raised before it had a class for that.
_WORDS = "CUDA error"
#: Errors that the arguments of a call cause: they neither break its context nor say anything about the device.
_OF_ARGUMENTS = (
    *("InvalidValue", "INVALID_VALUE", "MemoryAllocation", "OUT_OF_MEMORY", "InvalidConfiguration"),
    *("InvalidDeviceFunction", "InvalidResourceHandle", "INVALID_HANDLE", "NoKernelImage", "NO_BINARY_FOR_GPU"),
    *("SymbolNotFound", "NOT_FOUND", "InvalidDevicePointer", "InvalidPtx", "INVALID_PTX"),
)
#: A device that has not answered a fresh process by then hangs.
PROBE_TIMEOUT_S = 60.0
#: What a probe has said holds for so long: of many calls that fail at once, few ask.
PROBE_HOLDS_S = 5.0
# A device without free memory fails no call but those that need some.
_PROBE = """\
import cupy
try:
    total = int(cupy.arange(1000).sum())
except cupy.cuda.memory.OutOfMemoryError:
    total = 499500
except cupy.cuda.runtime.CUDARuntimeError as error:
    if "MemoryAllocation" not in str(error):
        raise
    total = 499500
assert total == 499500, f"it computes {total} for 499500"
"""


def is_device_error(error: ErrorReport) -> bool:
    """Whether an exception may mean that a device has failed, or that its context in this process has."""
    names = {name.rpartition(".")[2] for name in (error.kind, *error.lineage)}
    if not names & _CLASSES and not error.message.startswith(_WORDS):
        return False
    return not any(word in error.message.partition(":")[0] for word in _OF_ARGUMENTS)


class DeviceProbe:
    """Probes devices in fresh processes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str]] = {}  # by name: when it was probed, and why it cannot be used

    def failed(self, names: Sequence[str]) -> dict[str, str]:
        """Return those of these devices that a fresh process cannot use, and why.

        Args:
            names: each as CUDA_VISIBLE_DEVICES has it.
        """
        found = {name: self._probe(name) for name in names}
        return {name: why for name, why in found.items() if why}

    def _probe(self, name: str) -> str:
        when, why = self._known.get(name, (0.0, ""))
        if not when or time.monotonic() - when > PROBE_HOLDS_S:
            why = _why_unusable(name)
            self._known[name] = time.monotonic(), why
        return why


def _why_unusable(name: str) -> str:
    """Return why a fresh process cannot use a device; "" if it can, or if there is no cupy to ask by."""
    if importlib.util.find_spec("cupy") is None:
        return ""
    from handoff_mpi.programs import run_program  # for a device that may have failed: no child needs it otherwise

    try:
        ended = run_program(python_program("", _PROBE), PROBE_TIMEOUT_S, env={**os.environ, VISIBLE: name})
    except TimeoutError:
        return f"it has not answered in {PROBE_TIMEOUT_S:.0f} s"
    except OSError:
        return ""  # no process can be started: that says nothing about the device
    lines = ended.err.strip().splitlines() or [f"the process ended with {ended.returncode}"]
    return lines[-1][:400] if ended.returncode else ""
