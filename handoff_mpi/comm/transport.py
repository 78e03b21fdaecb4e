"""Defines the transport protocol, which its implementations in memory and over MPI follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from handoff_mpi.comm.doorbell import Doorbell
from handoff_mpi.messages import Buffers, Message


@dataclass(slots=True)
class Envelope:
    """A received message.

    Attributes:
        source: the rank that sent it.
        message: the tuple it sent; it starts with a kind and a number.
        buffers: the buffers sent with it, in the receiver's memory; see :meth:`Transport.set_receive_allocator`.
    """

    source: int
    message: Message
    buffers: Buffers = ()

    @property
    def kind(self) -> str:
        """The kind of the message."""
        return self.message[0]  # type: ignore[no-any-return]

    @property
    def number(self) -> int:
        """The number behind the kind: that of the run, in messages of runs."""
        return self.message[1]  # type: ignore[no-any-return]

    @property
    def fields(self) -> Message:
        """All that follows kind and number."""
        return self.message[2:]


@dataclass(slots=True)
class RankFailed:
    """The transport reports that a rank is dead."""

    rank: int
    reason: str


#: Allocates a number of bytes: returns the writable buffer to receive into, and the object that the receiver gets.
Allocate: TypeAlias = "Callable[[int], tuple[Any, Any]]"


def fresh_memory(nbytes: int) -> tuple[object, object]:
    """Return writable memory that is not zeroed first; a bytearray's would be."""
    import numpy

    memory = numpy.empty(nbytes, numpy.uint8)
    return memory, memory


class Transport(Protocol):
    """Carries messages between ranks.

    Messages from one rank to another arrive in the order they were sent, except that later messages may overtake one
    with buffers: it arrives with the last of its buffers. Sending never waits for the receiver.
    """

    rank: int
    size: int
    #: Ranks of this host ring it after sending a message; None where there are no doorbells.
    doorbell: Doorbell | None

    def send(self, dest: int, message: Message, buffers: Buffers = ()) -> None:
        """Send a picklable tuple and any number of bytes-like objects to ``dest``, which may be this rank itself.

        The buffers must not change until they have been sent; the transport keeps them alive until then. Messages to
        a dead rank are dropped.
        """
        ...

    def set_receive_allocator(self, allocate: Allocate) -> None:
        """Receive later buffers into memory from ``allocate``; the default is :func:`fresh_memory`."""
        ...

    def drop(self, rank: int) -> None:
        """Treat ``rank`` as dead: abandon the messages in transit to or from it, and send it nothing further."""
        ...

    def poll(self) -> list[Envelope | RankFailed]:
        """Return the messages and failures that have arrived, without waiting."""
        ...

    @property
    def is_transferring(self) -> bool:
        """Whether large buffers are in transit, in or out: then the rank should keep polling instead of sleeping."""
        ...

    @property
    def all_rings(self) -> bool:
        """Whether nothing arrives that does not ring the doorbell, and no message needs looks of this rank to leave."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait until all messages have been sent; return False if ``timeout_s`` seconds were not enough."""
        ...
