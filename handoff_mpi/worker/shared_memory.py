"""Memory that a rank and its children share: anonymous files whose descriptors pass between them.

A large buffer is written once into such a file, and the receiver of the descriptor maps it. Nothing has a name:
the kernel frees the memory with the last descriptor and the last mapping, however their processes end.

Ranks of one host do not hand values to each other this way: the segment costs a write into fresh pages before anyone
can map it, while Open MPI reads straight from the sender's memory (CMA). Measured between ranks on two cores, sent to
1, 2 and 4 at once, 1 to 64 MiB, the segment took 1.5 to 4 times as long as messages into memory in use, and 0.9 to 4
times as long as into fresh memory. It would save memory, one copy a host in place of one a rank, and nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import weakref
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from handoff_mpi.serialization import Payload

#: Copying a smaller buffer through the socket is faster than creating, mapping and freeing its pages.
SHARED_NBYTES = 1024 * 1024
#: A frame brings at most this many descriptors; the kernel takes 253.
MAX_IN_FRAME = 250
#: Descriptors kept open so that values can be handed on; select() and the user's own files need theirs.
MAX_KEPT = 256
#: Beyond this many mappings values are copied: the kernel gives a process some 65,000, for everything.
MAX_MAPPED = 16_384

#: Where a frame's buffer is: in the stream (its size), or shared (number of the descriptor, offset, size).
Place: TypeAlias = "int | tuple[int, int, int]"

_PAGE = mmap.PAGESIZE
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value
_PY_BUFFER_NBYTES = 256  # more than a Py_buffer has; only its first field, the address, is read

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


class Descriptor:
    """An open descriptor, closed once: by hand or with the last reference."""

    def __init__(self, number: int) -> None:
        self._numbers = [number]

    @property
    def number(self) -> int:
        """The open descriptor, or -1 once it is closed."""
        return self._numbers[0] if self._numbers else -1

    def close(self) -> None:
        """Close it, if it is open; from any thread."""
        try:
            os.close(self._numbers.pop())  # only one thread pops it
        except IndexError:
            pass

    __del__ = close


class Memory(mmap.mmap):
    """Mapped shared memory, read-only for Python; unmapped with the last view of it.

    Attributes:
        address: where it begins.
        descriptor: hands it on to other processes, while it is open.
    """

    address: int
    descriptor: Descriptor


_mapped: weakref.WeakSet[Memory] = weakref.WeakSet()
_ruined: list[Memory] = []
# By identity, the longest unused first.
_kept: weakref.WeakValueDictionary[int, Descriptor] = weakref.WeakValueDictionary()


def _address(buffer: object) -> int:
    raw = ctypes.create_string_buffer(_PY_BUFFER_NBYTES)
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), raw, 0)
    try:
        return ctypes.c_void_p.from_buffer(raw).value or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(raw)


def map_memory(descriptor: Descriptor, nbytes: int, is_writable: bool) -> Memory:
    """Map the first ``nbytes`` of a shared file.

    Args:
        descriptor: of the file.
        nbytes: at most the file's size.
        is_writable: whether the pages are, for the sake of network cards that register no others for
            sending; Python's view of them never is.

    Raises:
        OSError: there is no room for a mapping.
    """
    if len(_mapped) >= MAX_MAPPED:
        raise OSError(errno.ENOMEM, "too many mappings")
    # mmap.mmap() would keep a second descriptor open as long as it maps one, so it gets none: it owns empty
    # pages, which ours replace.
    memory = Memory(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    memory.address = _address(memory)
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
    where = _mmap(memory.address, nbytes, protection, mmap.MAP_SHARED | _MAP_FIXED, descriptor.number, 0)
    if where == _MAP_FAILED:
        _ruined.append(memory)  # its pages may be freed, and belong to another by the time it would free them
        raise OSError(ctypes.get_errno(), "shared memory cannot be mapped")
    memory.descriptor = descriptor
    _mapped.add(memory)
    return memory


def mapped_nbytes() -> int:
    """Return how many bytes of shared memory this process maps, whether it has touched them or not."""
    return sum(map(len, list(_mapped)))


def _keep(descriptor: Descriptor) -> None:
    """Leave ``descriptor`` open for handing on; beyond a limit, close what was longest not handed on."""
    _touch(descriptor)
    while len(_kept) > _limit(MAX_KEPT):
        _, oldest = next(iter(_kept.items()))
        _kept.pop(id(oldest), None)
        oldest.close()


def _touch(descriptor: Descriptor) -> None:
    _kept.pop(id(descriptor), None)
    _kept[id(descriptor)] = descriptor


def _limit(most: int) -> int:
    """Return ``most``, or less where a process may open few files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, soft // 4)


def write(views: Iterable[memoryview]) -> tuple[Descriptor, list[int]]:
    """Copy ``views`` into a new shared file; return it, and their offsets there.

    This is the one place where buffers are copied for sharing.

    Raises:
        OSError: there is no memory, no descriptor, or no such thing here.
    """
    descriptor = _new_file()
    offsets: list[int] = []
    end = 0
    try:
        for view in views:
            offsets.append(end)
            _write_at(descriptor, view, end)
            end += -(-view.nbytes // _PAGE) * _PAGE
    except BaseException:
        descriptor.close()  # at once, as others may keep the error
        raise
    return descriptor, offsets


def _new_file() -> Descriptor:
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "this system has no anonymous files")
    return Descriptor(os.memfd_create("handoff", os.MFD_CLOEXEC))


def _write_at(descriptor: Descriptor, view: memoryview, offset: int) -> None:
    # Written, not mapped and filled: it is twice as fast, and where memory is short write() fails, while a store
    # into a mapping would kill the process.
    while view.nbytes:
        done = os.pwrite(descriptor.number, view, offset)
        view, offset = view[done:], offset + done


def read(descriptor: Descriptor, extents: Sequence[tuple[int, int]], is_kept: bool) -> list[object]:
    """Return the memory at ``extents``, (offset, size) each, of a shared file that was received.

    Args:
        descriptor: taken over.
        extents: what is wanted of it.
        is_kept: whether it may be handed on or sent over a network; else its descriptor is closed.

    Raises:
        EOFError: the file is shorter.
    """
    try:
        memory = map_memory(descriptor, max(offset + nbytes for offset, nbytes in extents), is_kept)
    except OSError:
        try:
            return [_copy_of(descriptor, offset, nbytes) for offset, nbytes in extents]
        finally:
            descriptor.close()
    if is_kept:
        _keep(descriptor)
    else:
        descriptor.close()
    view = memoryview(memory)
    return [view[offset : offset + nbytes] for offset, nbytes in extents]


def _copy_of(descriptor: Descriptor, offset: int, nbytes: int) -> bytearray:
    copy = bytearray(nbytes)
    view = memoryview(copy)
    while view.nbytes:
        done = os.preadv(descriptor.number, [view], offset)
        if not done:
            raise EOFError("shared memory is shorter than it was said to be")
        view, offset = view[done:], offset + done
    return copy


def locate(view: memoryview) -> tuple[Memory, int] | None:
    """Return the shared memory that ``view`` is of and its offset there; None if it can be handed on by copy only."""
    memory = view.obj
    if not isinstance(memory, Memory) or memory.descriptor.number < 0:
        return None
    return memory, _address(view) - memory.address


def allocate(nbytes: int) -> tuple[object, object]:
    """Return memory of ``nbytes`` that children can map: as it is written to once, and as it is kept, read-only.

    Raises:
        OSError: there is no memory, no descriptor, or no such thing here.
    """
    descriptor = _new_file()
    try:
        # Now, for later a store into a page that cannot be had would kill the process.
        os.posix_fallocate(descriptor.number, 0, nbytes)
        memory = map_memory(descriptor, nbytes, True)
    except BaseException:
        descriptor.close()
        raise
    _keep(descriptor)
    return (ctypes.c_char * nbytes).from_address(memory.address), memoryview(memory)


def share(payload: Payload) -> Payload:
    """Return ``payload`` with its large buffers where children can map them: handing it on copies nothing.

    Without memory or descriptors to be had, it stays as it is.
    """
    parts = list(payload)
    views = [memoryview(part).cast("B") for part in parts[2:]]
    numbers = [number for number, view in enumerate(views) if view.nbytes >= SHARED_NBYTES and locate(view) is None]
    if not numbers:
        return payload
    try:
        descriptor, offsets = write(views[number] for number in numbers)
    except OSError:
        return payload
    extents = [(offset, views[number].nbytes) for number, offset in zip(numbers, offsets, strict=True)]
    for number, part in zip(numbers, read(descriptor, extents, True), strict=True):
        parts[2 + number] = part
    return tuple(parts)


class SharedBlock:
    """The placement of one frame's buffers: in the stream, or in memory shared with the receiver.

    Args:
        views: the buffers, as bytes.

    Attributes:
        places: of each buffer.
        descriptors: what goes with the frame.
    """

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.places: list[Place] = [view.nbytes for view in views]
        self.descriptors: list[Descriptor] = []
        self._copies: Descriptor | None = None
        large = [number for number, view in enumerate(views) if view.nbytes >= SHARED_NBYTES]
        self._lend(views, large)
        self._copy(views, [number for number in large if isinstance(self.places[number], int)])

    def _lend(self, views: Sequence[memoryview], numbers: Sequence[int]) -> None:
        """Place the views that are of shared memory already."""
        found = [(number, *place) for number in numbers if (place := locate(views[number])) is not None]
        sizes: dict[Memory, int] = {}
        for number, memory, _ in found:
            sizes[memory] = sizes.get(memory, 0) + views[number].nbytes
        # One descriptor is left for the copies of all the others, so the largest are lent.
        lent = sorted(sizes, key=sizes.__getitem__, reverse=True)[: _limit(MAX_IN_FRAME) - 1]
        indices = {memory: index for index, memory in enumerate(lent)}
        for number, memory, offset in found:
            if memory in indices:
                self.places[number] = indices[memory], offset, views[number].nbytes
        for memory in lent:
            _touch(memory.descriptor)
            self.descriptors.append(memory.descriptor)

    def _copy(self, views: Sequence[memoryview], numbers: Sequence[int]) -> None:
        """Place copies of the views with these numbers; without memory for them they stay in the stream."""
        if not numbers:
            return
        try:
            self._copies, offsets = write(views[number] for number in numbers)
        except OSError:
            return
        for number, offset in zip(numbers, offsets, strict=True):
            self.places[number] = len(self.descriptors), offset, views[number].nbytes
        self.descriptors.append(self._copies)

    def close(self) -> None:
        """Close the file of copies: the receiver has a descriptor of its own by now, or never will."""
        if self._copies is not None:
            self._copies.close()
