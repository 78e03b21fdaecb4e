"""Copies cupy arrays to host memory and back, through a small pinned buffer.

cupy pickles an array by one copy into memory that is not pinned; the driver then stages it piece by piece, without any
overlap. Here the device copies into one half of a pinned buffer while the host copies the other half into the value's
memory, and in the reverse direction likewise. So a process pins the same few megabytes for any number and size of
values.

Only a call with a claim of devices receives an array on a device, the first one of its claim. Everybody else (a call
without such a claim, rank 0, who reads results on a login node) receives an array of numpy, and needs no cupy.

Nothing is sent from device to device, also where MPI is CUDA-aware. A value must outlast its call, be written to files,
be handed to child processes and be evicted, and memory of devices that values occupy is in nobody's ledger; so it rests
in host memory, and there is nothing on the device to be sent by the time it is asked for.

It ran on an H200 with cupy 14.2, on one device, in ranks and in children (``python -m tests.gpu``): 1 GB takes 0.23 s
to host memory, most of it for the pages of that, and 0.12 s back. Other tests use a stub, as they need no device.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: The size of each half: at 10 GB/s it fills in half a millisecond.
CHUNK_NBYTES = 4 * 1024 * 1024
#: Smaller arrays are copied by cupy, without a buffer.
STAGED_NBYTES = 256 * 1024

_lock = threading.Lock()
_halves: list[_Half] = []


class _Receiver(threading.local):
    """Whether this thread decodes for a call that has claimed devices."""

    has_device = False


_receiver = _Receiver()


@contextmanager
def receiving(has_device: bool) -> Iterator[None]:
    """Have this thread decode device arrays to the current device if ``has_device``, else to host memory."""
    before, _receiver.has_device = _receiver.has_device, has_device
    try:
        yield
    finally:
        _receiver.has_device = before


class _Half:
    """A piece of pinned memory."""

    def __init__(self, cupy: Any) -> None:
        import numpy

        self._memory = cupy.cuda.alloc_pinned_memory(CHUNK_NBYTES)  # frees it when it goes
        self.address = ctypes.c_void_p(self._memory.ptr)
        self.bytes = numpy.frombuffer(self._memory, numpy.uint8, CHUNK_NBYTES)


def free_pools(devices: int, pinned: bool = False) -> None:
    """Give the memory back that cupy's pools keep for later arrays: other processes cannot use it.

    Args:
        devices: so many devices, from 0 on, were used in this process.
        pinned: whether to give back pinned host memory as well.
    """
    cupy: Any = sys.modules.get("cupy")
    if not devices or getattr(cupy, "get_default_memory_pool", None) is None:
        return
    try:
        for number in range(devices):
            with cupy.cuda.Device(number):  # the pool of each device is its own
                cupy.get_default_memory_pool().free_all_blocks()
        if pinned:
            cupy.get_default_pinned_memory_pool().free_all_blocks()
    except cupy.cuda.runtime.CUDARuntimeError:
        pass  # the context is broken: its memory is given back when its process ends, which is soon


def reducers() -> dict[type, Callable[[Any], Any]]:
    """Return the reducers of device arrays, by type; an empty mapping while cupy is not imported."""
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return {} if kind is None else {kind: _reduce}


def _reduce(array: Any) -> Any:
    return to_device, (to_host(array),)


def to_host(array: Any) -> object:
    """Return a cupy array, of any device, as a numpy array, in C order."""
    import cupy
    import numpy

    if array.nbytes < STAGED_NBYTES:
        with array.device:
            return array.get()
    with _lock, array.device:
        if not _has_halves(cupy):
            return array.get()
        host = numpy.empty(array.shape, array.dtype)
        _copy_to_host(cupy.cuda.get_current_stream(), cupy.ascontiguousarray(array), _bytes_of(host))
        return host


def to_device(host: Any) -> object:
    """Return a numpy array as a cupy array on the current device, if who decodes it has claimed one; else itself.

    Pickles name this function.
    """
    return _copied_to_device(host) if _receiver.has_device else host


def _copied_to_device(host: Any) -> object:
    import cupy

    if host.nbytes < STAGED_NBYTES:
        return cupy.array(host)
    with _lock:
        if not _has_halves(cupy):
            return cupy.array(host)
        array = cupy.empty(host.shape, host.dtype)
        _copy_to_device(cupy.cuda.get_current_stream(), _bytes_of(host), array)
        return array


def _has_halves(cupy: Any) -> bool:
    """Whether this process has its pinned memory; allocation is retried at each call after a failure."""
    try:
        while len(_halves) < 2:
            _halves.append(_Half(cupy))
    except (MemoryError, cupy.cuda.runtime.CUDARuntimeError):
        return False
    return True


def _bytes_of(host: object) -> object:
    import numpy

    return numpy.ascontiguousarray(host).reshape(-1).view(numpy.uint8)


def _pieces(nbytes: int) -> Iterator[tuple[_Half, slice]]:
    """Return the pieces of ``nbytes`` bytes, each with the half it goes through."""
    for number, start in enumerate(range(0, nbytes, CHUNK_NBYTES)):
        yield _halves[number % 2], slice(start, min(start + CHUNK_NBYTES, nbytes))


def _copy_to_host(stream: Any, array: Any, target: Any) -> None:
    filling: tuple[object, _Half, slice] | None = None
    for half, piece in _pieces(target.nbytes):
        (array.data + piece.start).copy_to_host_async(half.address, piece.stop - piece.start, stream)
        event = stream.record()
        if filling is not None:
            _empty(*filling, target)
        filling = event, half, piece
    if filling is not None:
        _empty(*filling, target)


def _empty(event: Any, half: _Half, piece: slice, target: Any) -> None:
    event.synchronize()
    target[piece] = half.bytes[: piece.stop - piece.start]


def _copy_to_device(stream: Any, source: Any, array: Any) -> None:
    left: dict[_Half, Any] = {}  # events after which a half may be filled again
    for half, piece in _pieces(source.nbytes):
        if half in left:
            left[half].synchronize()
        half.bytes[: piece.stop - piece.start] = source[piece]
        (array.data + piece.start).copy_from_host_async(half.address, piece.stop - piece.start, stream)
        left[half] = stream.record()
    stream.synchronize()
