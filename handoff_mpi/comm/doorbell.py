"""A doorbell for each rank of a host: who sends a message rings it, so that a rank that sleeps wakes at once.

MPI offers nothing that a sleeper could wait for. Between hosts ranks find their messages when they next look, some
milliseconds later at the worst; within a host they need not. A doorbell carries no data: a ring that is heard twice,
late or not at all costs time and no more, so other users of that host who ring it do no harm either.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress

#: Who has done something, or was rung, looks again and again for so long before it sleeps for more than a moment.
AWAKE_S = 0.0002
#: Linux chooses an abstract address that is free (unix(7), autobind).
ANY = ""
_GULP = 64


class Doorbell:
    """One rank's doorbell, and those it can ring.

    Attributes:
        address: where it is rung; an abstract Unix address, which goes with the process.
    """

    def __init__(self) -> None:
        """Hang up a doorbell.

        Raises:
            OSError: there are no abstract addresses here.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(ANY)
            address = self._socket.getsockname()
            if not (isinstance(address, bytes) and address.startswith(b"\0")):
                raise OSError("abstract addresses are Linux's own")
        except OSError:
            self._socket.close()
            raise
        self.address: bytes = address
        self._others: dict[int, bytes] = {}
        self._awake_until: dict[int, float] = {}

    def can_ring(self, addresses: Mapping[int, bytes]) -> None:
        """Take in rank to address of those of this host."""
        self._others.update(addresses)

    def ring(self, rank: int) -> None:
        """Wake ``rank``, if it is of this host and may sleep."""
        address = self._others.get(rank)
        if address is None:
            return
        now = time.monotonic()
        if now < self._awake_until.get(rank, 0.0):
            return
        self._awake_until[rank] = now + AWAKE_S
        # It is gone; or has been rung a few times already, and will hear that.
        with suppress(OSError):
            self._socket.sendto(b"", address)

    def hear_from(self, rank: int) -> None:
        """Note that ``rank`` has sent something just now: it is awake."""
        if rank in self._others:
            self._awake_until[rank] = time.monotonic() + AWAKE_S

    def fileno(self) -> int:
        """Return a descriptor that is readable once the doorbell was rung."""
        return self._socket.fileno()

    def clear(self) -> None:
        """Forget that it was rung: what was sent is found by the next look."""
        with suppress(BlockingIOError):
            for _ in range(_GULP):
                self._socket.recv(1)

    def close(self) -> None:
        """Take it down."""
        self._socket.close()
