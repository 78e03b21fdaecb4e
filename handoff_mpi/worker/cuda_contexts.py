"""Waits for what a call has started on devices, and tells whether CUDA is broken in this process.

A device still computes when the function that asked for it has returned, and an error there is reported to the next
use of CUDA. So a call ends when its devices have: an error belongs to the call that has caused it, and no call begins
while kernels of another one still run under the same claim. An error of a kernel breaks the context for good: each
later use of CUDA in the process fails, and each library has words of its own for that.

NVIDIA's driver is asked itself, as it knows the contexts of all libraries: cupy, torch, jax, numba. They share the
primary context of each device.
https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__PRIMARY__CTX.html
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

_LIBRARY = "libcuda.so.1"
_NOT_READY = 600
#: Results of the driver that say that nothing has been used here: not initialized, shutting down, no context.
_UNUSED = (3, 4, 201)


class CUDADriverError(RuntimeError):
    """Work on a device that a function had started, and not waited for, has failed."""


class CudaContexts:
    """The primary contexts of this process.

    Args:
        driver: NVIDIA's library; None takes it when the process has loaded it.
    """

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver

    def wait(self) -> None:
        """Wait until devices have done all that was started on them in this process.

        Raises:
            CUDADriverError: some of it has failed.
        """
        why = self._ask(lambda driver: driver.cuCtxSynchronize())
        if why:
            raise CUDADriverError(f"{why}, in what the function had started on a device and not waited for")

    def why_broken(self) -> str:
        """Return why CUDA cannot be used in this process any more, in the driver's words; "" if it can.

        Nothing is waited for.
        """
        return self._ask(lambda driver: driver.cuStreamQuery(None))

    def _ask(self, question: Callable[[Any], int]) -> str:
        driver = self._driver = self._driver or _loaded()
        if driver is None:
            return ""
        for result in _answers(driver, question):
            if result and result != _NOT_READY and result not in _UNUSED:
                return _words(driver, result)
        return ""


def _loaded() -> Any:
    """Return the driver's library if it is loaded; None where nothing has used CUDA yet."""
    try:
        return ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None


def _answers(driver: Any, question: Callable[[Any], int]) -> Iterator[int]:
    """Yield the driver's answer in each context that is up."""
    count, device = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)):
        return
    for number in range(count.value):
        flags, is_active, context = ctypes.c_uint(), ctypes.c_int(), ctypes.c_void_p()
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(is_active))
        if not is_active.value:
            continue
        result = driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        if result:
            yield result
            continue
        driver.cuCtxPushCurrent_v2(context)
        try:
            yield question(driver)
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))
            driver.cuDevicePrimaryCtxRelease_v2(device)


def _words(driver: Any, result: int) -> str:
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    driver.cuGetErrorName(result, ctypes.byref(name))
    driver.cuGetErrorString(result, ctypes.byref(text))
    told = [each.value.decode(errors="replace") for each in (name, text) if each.value]
    return ": ".join(told) or f"error {result} of CUDA's driver"
