"""Messages over a local socket between a rank and its child: a pickled tuple, which begins with its kind, and buffers.

A frame is the size of its pickled part, that part (the message and the place of each buffer), and those buffers
that travel in the stream. The others lie in shared memory, whose descriptors arrive with the frame's first byte.
"""

from __future__ import annotations

import errno
import os
import pickle
import select
import socket
import struct
from array import array
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from handoff_mpi.messages import Buffers, Message
from handoff_mpi.serialization import PICKLED, Payload
from handoff_mpi.worker.shared_memory import SHARED_NBYTES, Descriptor, Place, SharedBlock, read

#: A message, and the buffers beside it.
Frame: TypeAlias = "tuple[Message, list[Any]]"

# A rank to its child; the parameters of the handlers in :mod:`handoff_mpi.worker.child_main` are the fields.
LEARN = "learn"
SOURCES = "sources"
SETUP = "setup"
OUTPUT = "output"
RUN = "run"
TRIM = "trim"
CALL = "call"
AHEAD = "ahead"
ENCODE = "encode"

# A child to its rank
BEGUN = "begun"  # no fields: a call that had to be prepared begins
ENDED = "ended"  # status, head, error, began, duration, and the report of a lease; buffers: the rest of the payload
PART = "part"  # report: a part of a lease that still runs
VOID = "void"  # no fields: a call that was sent ahead; see :mod:`handoff_mpi.worker.call_pipeline`
SPENT = "spent"  # no fields: CUDA is broken in the child, which must make no further call
UPDATE = "update"  # rank, its resources
DECODING = "decoding"  # number of a piece; see :mod:`handoff_mpi.worker.dry_run`

_SIZE = struct.Struct("<Q")
_AHEAD_NBYTES = 16 * 1024
_ANCILLARY_NBYTES = socket.CMSG_SPACE(253 * array("i").itemsize)


class DescriptorsLost(EOFError):
    """Descriptors could not be taken in: this process has too many files open."""


def split(payload: Payload) -> tuple[Payload, Buffers]:
    """Return what of ``payload`` goes into a message, and what beside it; see :func:`join`."""
    kind, head, *buffers = payload
    if kind == PICKLED and len(head) >= SHARED_NBYTES:
        return (PICKLED, None), [head, *buffers]
    return (kind, head), buffers


def join(head: Payload, buffers: Buffers) -> Payload:
    """Return the payload that :func:`split` took apart."""
    if head == (PICKLED, None):
        pickled, *rest = buffers
        return (PICKLED, bytes(pickled), *rest)
    return (*head, *buffers)


def send_frame(sock: socket.socket, message: Message, buffers: Buffers = (), limit_s: float | None = None) -> None:
    """Send a frame.

    Args:
        sock: blocking or not.
        message: can be pickled.
        buffers: contiguous; large ones are copied at most once, into shared memory.
        limit_s: the longest that a non-blocking socket may take nothing.

    Raises:
        OSError: the other side has ended, or reads nothing.
    """
    if not buffers:
        _send(sock, _packed(message), (), limit_s)
        return
    views = [memoryview(part).cast("B") for part in buffers]
    sizes = [view.nbytes for view in views]
    if max(sizes) >= SHARED_NBYTES:
        try:
            _send_shared(sock, message, views, limit_s)
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:  # too many descriptors of this user are on their way
                raise
    _send(sock, _packed(message, sizes), (), limit_s)
    for view in views:
        _send(sock, view, (), limit_s)


def send_descriptors(
    sock: socket.socket, message: Message, descriptors: Sequence[int], limit_s: float | None = None
) -> None:
    """Send a frame with copies of open descriptors, for :meth:`FrameReader.take_descriptors`.

    Raises:
        OSError: the other side has ended, or reads nothing; or there are too many descriptors.
    """
    copies = [Descriptor(os.dup(each)) for each in descriptors]
    _send(sock, _packed(message), copies, limit_s)


def packed_frame(message: Message) -> bytes:
    """Return a frame without buffers as its bytes, for :func:`send_packed`."""
    return _packed(message)


def send_packed(sock: socket.socket, frames: Sequence[bytes], limit_s: float | None = None) -> None:
    """Send frames at once; see :func:`send_frame`.

    Raises:
        OSError: the other side has ended, or reads nothing.
    """
    _send(sock, b"".join(frames), (), limit_s)


def _send_shared(sock: socket.socket, message: Message, views: Sequence[memoryview], limit_s: float | None) -> None:
    loan = SharedBlock(views)
    try:
        _send(sock, _packed(message, loan.places, len(loan.descriptors)), loan.descriptors, limit_s)
    finally:
        loan.close()
    for view, place in zip(views, loan.places, strict=True):
        if isinstance(place, int):
            _send(sock, view, (), limit_s)


def _packed(message: Message, places: Sequence[Place] = (), count: int = 0) -> bytes:
    blob = pickle.dumps((message, places, count), protocol=5)
    return _SIZE.pack(len(blob)) + blob


def _send(
    sock: socket.socket, part: bytes | memoryview, descriptors: Sequence[Descriptor], limit_s: float | None
) -> None:
    """Send ``part``, and ``descriptors`` with its first byte."""
    done = 0
    while done < len(part):
        rest = memoryview(part)[done:] if done else part
        try:
            done += _send_first(sock, rest, descriptors) if descriptors and not done else sock.send(rest)
        except BlockingIOError:
            _wait_until_writable(sock, limit_s)


def _send_first(sock: socket.socket, part: bytes | memoryview, descriptors: Sequence[Descriptor]) -> int:
    numbers = array("i", [descriptor.number for descriptor in descriptors])
    return sock.sendmsg([part], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])


def _wait_until_writable(sock: socket.socket, limit_s: float | None) -> None:
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    if not poller.poll(None if limit_s is None else 1000 * limit_s):
        raise TimeoutError(f"the other side took nothing for {limit_s:g} s")


class FrameReader:
    """Puts frames together from what arrives; on a non-blocking socket it never waits for the rest of one.

    Args:
        sock: blocking or not; only this reader may read from it.
        is_kept: whether shared memory may be handed on or sent over a network; else its descriptors are closed.
    """

    def __init__(self, sock: socket.socket, is_kept: bool = False) -> None:
        self._sock = sock
        self._is_kept = is_kept
        self._ahead = memoryview(bytearray(_AHEAD_NBYTES))
        self._start = self._end = 0  # of what was read ahead
        self._descriptors: deque[Descriptor] = deque()
        self._frames = self._read_frames()
        self._is_within = False

    def read(self) -> Frame | None:
        """Return the next whole frame, or None if a non-blocking socket does not have it yet.

        Raises:
            EOFError: the other side has ended, or its descriptors could not be received.
        """
        frame = None if self._is_within else self._whole_frame()
        if frame is not None:
            return frame
        try:
            frame = next(self._frames)
        except StopIteration:
            raise EOFError("the connection was lost before") from None
        self._is_within = frame is None
        return frame

    def _whole_frame(self) -> Frame | None:
        """Return the next frame if all of it was read ahead, and it has no buffers, as most do; else None."""
        start = self._start + _SIZE.size
        if start > self._end:
            return None
        (nbytes,) = _SIZE.unpack_from(self._ahead, self._start)
        if start + nbytes > self._end:
            return None
        try:
            message, places, _ = pickle.loads(self._ahead[start : start + nbytes])
        except Exception:
            return None  # the generator meets that too, and ends
        if places:
            return None
        self._start = start + nbytes
        return message, []

    def take_descriptors(self, count: int) -> list[Descriptor]:
        """Return the descriptors that came with the frame that was read last, from :func:`send_descriptors`.

        Raises:
            DescriptorsLost: they are not there.
        """
        if len(self._descriptors) < count:
            raise DescriptorsLost("descriptors could not be taken in: too many files are open")
        return [self._descriptors.popleft() for _ in range(count)]

    @property
    def has_more(self) -> bool:
        """Whether something has arrived that was not returned yet."""
        return self.has_read_ahead or bool(select.select([self._sock], (), (), 0.0)[0])

    @property
    def has_read_ahead(self) -> bool:
        """Whether something has been read already that was not returned yet."""
        return self._end > self._start

    def close(self) -> None:
        """Give up what has arrived of a frame."""
        self._frames.close()
        while self._descriptors:
            self._descriptors.popleft().close()

    def _read_frames(self) -> Generator[Frame | None, None, None]:
        while True:
            yield (yield from self._read_frame())  # never in a variable: it would live until the next

    def _read_frame(self) -> Generator[None, None, Frame]:
        if self._end - self._start < _SIZE.size:
            yield from self._read_ahead(_SIZE.size)
        (nbytes,) = _SIZE.unpack_from(self._ahead, self._start)
        self._start += _SIZE.size
        if nbytes > _AHEAD_NBYTES:
            message, places, count = pickle.loads((yield from self._take(nbytes)))
        else:
            if self._end - self._start < nbytes:
                yield from self._read_ahead(nbytes)
            message, places, count = pickle.loads(self._ahead[self._start : self._start + nbytes])
            self._start += nbytes
        if not places:
            return message, []
        buffers: list[object] = []
        for place in places:
            buffers.append((yield from self._take(place)) if isinstance(place, int) else None)
        if count:
            self._map(places, buffers, count)
        return message, buffers

    def _map(self, places: Sequence[Place], buffers: list[object], count: int) -> None:
        """Put the buffers that are shared where ``buffers`` has none yet."""
        wanted: list[list[int]] = [[] for _ in range(count)]
        for number, place in enumerate(places):
            if not isinstance(place, int):
                wanted[place[0]].append(number)
        for numbers in wanted:
            extents = [places[number][1:] for number in numbers]  # type: ignore[index]
            for number, part in zip(numbers, read(self._descriptors.popleft(), extents, self._is_kept), strict=True):
                buffers[number] = part

    def _read_ahead(self, nbytes: int) -> Generator[None, None, None]:
        """Have at least ``nbytes`` read ahead; yields while they are not there."""
        rest = bytes(self._ahead[self._start : self._end])
        self._start, self._end = 0, len(rest)
        self._ahead[: self._end] = rest
        while self._end < nbytes:
            count = self._receive(self._ahead[self._end :])
            if count is None:
                yield
            else:
                self._end += count

    def _take(self, nbytes: int) -> Generator[None, None, bytearray]:
        """Return the next ``nbytes``, received straight to where they stay; yields while they are not there."""
        part = bytearray(nbytes)
        view = memoryview(part)
        ready = min(nbytes, self._end - self._start)
        view[:ready] = self._ahead[self._start : self._start + ready]
        self._start += ready
        view = view[ready:]
        while view:
            count = self._receive(view)
            if count is None:
                yield
            else:
                view = view[count:]
        return part

    def _receive(self, view: memoryview) -> int | None:
        """Receive into ``view``, and any descriptors; return how many bytes, or None if there are none yet."""
        try:
            count, ancillary, flags, _ = self._sock.recvmsg_into([view], _ANCILLARY_NBYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError(str(error)) from error
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array("i")
                numbers.frombytes(data[: len(data) // numbers.itemsize * numbers.itemsize])
                self._descriptors.extend(map(Descriptor, numbers))
        if flags & socket.MSG_CTRUNC:
            raise DescriptorsLost("shared memory could not be taken in: too many files are open")
        if not count:
            raise EOFError("the other side closed the connection")
        return count
