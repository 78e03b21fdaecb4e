"""The port: what a transport does, whatever carries the messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from handoff_mpi.comm.doorbell import Doorbell


@dataclass(slots=True)
class Envelope:
    """A message that arrived.

    Attributes:
        source: the rank that sent it.
        message: the tuple it sent.
        buffers: what travelled beside it, in memory of our own; see :meth:`Transport.set_receive_allocator`.
    """

    source: int
    message: tuple[Any, ...]
    buffers: Sequence[Any] = ()


@dataclass(slots=True)
class RankFailed:
    """The transport found that a rank is dead."""

    rank: int
    reason: str


#: Makes memory of so many bytes: a writable buffer to receive into, and what the receiver gets of it.
Allocate: TypeAlias = "Callable[[int], tuple[Any, Any]]"


def fresh_memory(nbytes: int) -> tuple[Any, Any]:
    """Return memory that is not zeroed first, as bytearray's is, and that the receiver may write to."""
    import numpy

    memory = numpy.empty(nbytes, numpy.uint8)
    return memory, memory


class Transport(Protocol):
    """Carries messages between ranks.

    Messages from one rank to another arrive in the order they were sent; one with buffers may be overtaken
    by later ones, since it arrives when the last of its buffers has. Sending never waits for the receiver.
    """

    rank: int
    size: int
    #: Rung by ranks of this host when they have sent something; None where nobody rings.
    doorbell: Doorbell | None

    def send(self, dest: int, message: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
        """Send a picklable tuple and any number of bytes-like objects to ``dest``, oneself included.

        The buffers must not change until they were sent; the transport keeps them alive until then. What is
        sent to a dead rank is dropped.
        """
        ...

    def set_receive_allocator(self, allocate: Allocate) -> None:
        """Receive buffers from now on into memory that ``allocate`` makes; at first it is :func:`fresh_memory`."""
        ...

    def drop(self, rank: int) -> None:
        """Give up what is on its way to or from ``rank``, and send it nothing more: it is gone."""
        ...

    def poll(self) -> list[Envelope | RankFailed]:
        """Return at once with what has arrived."""
        ...

    @property
    def is_transferring(self) -> bool:
        """Whether large buffers are on their way, in or out: then nobody should sleep."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything sent has left; return whether it has."""
        ...
