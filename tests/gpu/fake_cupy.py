"""Stands in for cupy where there is no device: a module that tests put on the path of ranks and their children.

It sees the devices that CUDA_VISIBLE_DEVICES names when it is imported, and never looks again. Its arrays are numpy's.
What happens on a device is a line in a file of the directory FAKE_CUPY; a file ``broken`` there has the names of
devices that raise at every use.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

_DIRECTORY = Path(os.environ["FAKE_CUPY"])
_VISIBLE = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",") if name]


class CUDARuntimeError(RuntimeError):
    """As that of cupy."""


CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"


def _name() -> str:
    return _VISIBLE[Device.current]


def _note(what: str) -> None:
    with (_DIRECTORY / "notes").open("a") as file:
        file.write(f"{what} {_name()} {os.getpid()}\n")


def _use() -> None:
    broken = _DIRECTORY / "broken"
    if broken.exists() and _name() in broken.read_text().split():
        _note("failed")
        raise CUDARuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error encountered")


class Device:
    """A device by its number among the visible ones."""

    current = 0

    def __init__(self, number: int = 0) -> None:
        if not 0 <= number < len(_VISIBLE):
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = number

    def use(self) -> None:
        """Make it the current one."""
        Device.current = self.id
        _use()

    def __enter__(self) -> Device:
        self._before, Device.current = Device.current, self.id
        return self

    def __exit__(self, *_: object) -> None:
        Device.current = self._before


class ndarray:
    """An array on the current device."""

    def __init__(self, host: Any) -> None:
        _use()
        self._host, self.device = np.array(host), Device(Device.current)
        self.nbytes, self.shape, self.dtype = self._host.nbytes, self._host.shape, self._host.dtype

    def get(self, out: Any = None) -> Any:
        """Return a copy of numpy's."""
        if out is None:
            return self._host.copy()
        out[...] = self._host
        return out

    def set(self, host: Any) -> None:
        """Take the items of numpy's."""
        self._host[...] = host

    def __getitem__(self, place: Any) -> ndarray:
        return ndarray(self._host[place])

    def sum(self) -> ndarray:
        """Return the sum of its items."""
        return ndarray(self._host.sum())

    def __int__(self) -> int:
        return int(self._host)


def array(host: Any) -> ndarray:
    """Return an array on the current device."""
    return ndarray(host)


def arange(count: int) -> ndarray:
    """Return the numbers below ``count``."""
    return ndarray(np.arange(count))


class _Pool:
    def free_all_blocks(self) -> None:
        """Note that blocks are freed."""
        _note("freed")


def get_default_memory_pool() -> _Pool:
    """Return the pool of device memory."""
    return _Pool()


def get_default_pinned_memory_pool() -> _Pool:
    """Return the pool of pinned memory."""
    return _Pool()


class _Memory:
    class OutOfMemoryError(MemoryError):
        """As that of cupy."""


class _Runtime:
    CUDARuntimeError = CUDARuntimeError


class cuda:
    """As the module of cupy."""

    Device, memory, runtime = Device, _Memory, _Runtime

    @staticmethod
    def alloc_pinned_memory(nbytes: int) -> Any:
        """There is none."""
        raise MemoryError
