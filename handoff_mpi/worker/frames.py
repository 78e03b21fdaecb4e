"""Messages over a local socket between a rank and its child: a pickled tuple and buffers beside it."""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

_HEAD = struct.Struct("<QI")


def send_frame(sock: socket.socket, message: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
    """Send a frame; waits at most the socket's time limit for each part.

    Raises:
        OSError: the other side is gone, or takes nothing.
    """
    blob = pickle.dumps(message, protocol=5)
    views = [memoryview(part).cast("B") for part in buffers]
    sizes = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    sock.sendall(_HEAD.pack(len(blob), len(views)) + sizes + blob)
    for view in views:
        sock.sendall(view)


class FrameReader:
    """Puts frames together from what arrives; on a non-blocking socket it never waits for the rest of one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._start()

    def _start(self) -> None:
        self._stage = 0
        self._parts: list[bytearray] = []
        self._expect(_HEAD.size)

    def _expect(self, nbytes: int) -> None:
        self._buffer = bytearray(nbytes)
        self._view = memoryview(self._buffer)

    def read(self) -> tuple[tuple[Any, ...], list[bytearray]] | None:
        """Return the next whole frame, or None if a non-blocking socket does not have it yet.

        Raises:
            EOFError: the other side is gone.
        """
        while True:
            while self._view.nbytes:
                try:
                    count = self._sock.recv_into(self._view)
                except BlockingIOError:
                    return None
                except OSError as error:
                    raise EOFError(str(error)) from error
                if not count:
                    raise EOFError("the other side closed the connection")
                self._view = self._view[count:]
            if self._advance():
                message = pickle.loads(self._parts[1])
                buffers = self._parts[2:]
                self._start()
                return message, buffers

    def _advance(self) -> bool:
        """Take in a part that is whole; return whether it was the last."""
        if self._stage == 0:
            self._length, self._count = _HEAD.unpack(self._buffer)
            self._stage = 1
            self._expect(8 * self._count)
            return False
        if self._stage == 1:
            self._sizes = [self._length, *struct.unpack(f"<{self._count}Q", self._buffer)]
        self._parts.append(self._buffer)
        self._stage += 1
        if self._stage - 2 == len(self._sizes):
            return True
        self._expect(self._sizes[self._stage - 2])
        return False
