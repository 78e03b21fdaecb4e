"""Copies cupy arrays to host memory and back, through a small pinned buffer.

cupy pickles an array by one copy into memory that is not pinned; the driver then stages it piece by piece, without any
overlap. Here the device copies into one half of a pinned buffer while the host copies the other half into the value's
memory, and in the reverse direction likewise. So a process pins the same few megabytes for any number and size of
values.

An array arrives on the device that is current where it is decoded: the first one of the call's claim.

Nothing is sent from device to device, also where MPI is CUDA-aware. A value must outlast its call, be written to files,
be handed to child processes and be evicted, and memory of devices that values occupy is in nobody's ledger; so it rests
in host memory, and there is nothing on the device to be sent by the time it is asked for.

It ran on an H200 with cupy 14.2, on one device, in ranks and in children; the tests use a stub, as they need no device.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: The size of each half: at 10 GB/s it fills in half a millisecond.
CHUNK_NBYTES = 4 * 1024 * 1024
#: Smaller arrays are pickled by cupy.
STAGED_NBYTES = 256 * 1024

_lock = threading.Lock()
_halves: list[_Half] = []


class _Half:
    """A piece of pinned memory."""

    def __init__(self, cupy: Any) -> None:
        import numpy

        self._memory = cupy.cuda.alloc_pinned_memory(CHUNK_NBYTES)  # frees it when it goes
        self.address = ctypes.c_void_p(self._memory.ptr)
        self.bytes = numpy.frombuffer(self._memory, numpy.uint8, CHUNK_NBYTES)


def reducers() -> dict[type, Callable[[Any], Any]]:
    """Return the reducers of device arrays, by type; an empty mapping while cupy is not imported."""
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return {} if kind is None else {kind: _reduce}


def _reduce(array: Any) -> Any:
    return array.__reduce__() if array.nbytes < STAGED_NBYTES else (to_device, (to_host(array),))


def to_host(array: Any) -> object:
    """Return a cupy array, of any device, as a numpy array, in C order."""
    import cupy
    import numpy

    with _lock, array.device:
        if not _has_halves(cupy):
            return array.get()
        host = numpy.empty(array.shape, array.dtype)
        _copy_to_host(cupy.cuda.get_current_stream(), cupy.ascontiguousarray(array), _bytes_of(host))
        return host


def to_device(host: Any) -> object:
    """Return a numpy array as a cupy array on the current device."""
    import cupy

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
