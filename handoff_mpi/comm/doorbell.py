"""Wakes a sleeping rank of the same host: each rank has a doorbell, and a sender rings it after it sends a message.

MPI offers no descriptor on which a sleeping rank could wait. A rank finds messages from other hosts when it polls next,
at most some milliseconds later; messages from its own host wake it at once. A doorbell carries no data: a ring that
arrives twice, late or never costs only time, so other users of the host who ring it do no harm either.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

#: A rank that has just worked, sent or been rung polls for this long before it sleeps.
AWAKE_S = 0.0002
#: Linux chooses an abstract address that is free (unix(7), autobind).
ANY = ""
_GULP = 64


class Doorbell:
    """One rank's doorbell, with the addresses of those that it can ring.

    Attributes:
        address: the abstract Unix address of this doorbell, which the kernel frees when the process ends.
    """

    def __init__(self) -> None:
        """Create a doorbell.

        Raises:
            OSError: this system has no abstract Unix addresses.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(ANY)
            address = self._socket.getsockname()
            if not (isinstance(address, bytes) and address.startswith(b"\0")):
                raise OSError("this system has no abstract Unix addresses")
        except OSError:
            self._socket.close()
            raise
        self.address: bytes = address
        self._others: dict[int, bytes] = {}
        self._awake_until: dict[int, float] = {}
        self._looked_at = 0.0

    def can_ring(self, addresses: Mapping[int, bytes]) -> None:
        """Add doorbells of this host: rank to address."""
        self._others.update(addresses)

    def ring(self, rank: int) -> None:
        """Wake ``rank`` if it is on this host and may be asleep."""
        address = self._others.get(rank)
        if address is None:
            return
        now = time.monotonic()
        if now < self._awake_until.get(rank, 0.0):
            return
        self._awake_until[rank] = now + AWAKE_S
        try:
            self._socket.sendto(b"", address)
        except OSError:  # (contextlib.suppress takes as long as the call)
            pass  # the process has ended, or the queue is full of earlier rings, which will wake the rank as well

    def looked(self) -> None:
        """Note that this rank has looked for messages: one that it finds later has come since."""
        self._looked_at = time.monotonic()

    def hear_from(self, rank: int) -> None:
        """Note a message of ``rank``: if that was sent just now, the rank is awake and need not be rung."""
        now = time.monotonic()
        if rank in self._others and now < self._looked_at + AWAKE_S:
            self._awake_until[rank] = now + AWAKE_S

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when a rank rings the doorbell."""
        return self._socket.fileno()

    def clear(self) -> None:
        """Discard the rings received so far: the next poll finds the messages."""
        try:
            for _ in range(_GULP):
                self._socket.recv(1)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the socket; later rings fail without effect."""
        self._socket.close()
