"""The borders of a worker's reactor: the ports it acts through, and the facts that its driver gathers for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from handoff_mpi.messages import Buffers, Message
from handoff_mpi.results.store import Key
from handoff_mpi.serialization import Payload
from handoff_mpi.worker.events import Pressed, QueuedCall, Serve


class SendPort(Protocol):
    """The part of a :class:`~handoff_mpi.comm.Transport` that a worker acts through."""

    def send(self, dest: int, message: Message, buffers: Buffers = ()) -> None:
        """Send a message, and ``buffers`` beside it, to ``dest``."""
        ...


class ValuesPort(Protocol):
    """Holds the values of a rank, and reads and writes their files; see :mod:`handoff_mpi.runtime.value_store`."""

    @property
    def sees_files(self) -> bool:
        """Whether values that outlast the run can be written and read here."""
        ...

    def are_filed(self, keys: Iterable[tuple[int, Key]], /) -> None:
        """Take in that the values of these tasks lie in files of another run, under these keys."""
        ...

    def get(self, task: int, is_held: bool, /) -> Payload | None:
        """Return a value, from the store if it ``is_held`` there, else from its file; None if it is unavailable."""
        ...

    def put(self, task: int, payload: Payload, /) -> None:
        """Put a value into the store."""
        ...

    def drop(self, task: int, /) -> None:
        """Drop a value from the store."""
        ...

    def spill(self, task: int, nbytes: int, /) -> None:
        """Move a value of the store, of ``nbytes`` bytes, out of memory.

        Raises:
            OSError: it could not be written.
        """
        ...

    def is_worth_writing(self, nbytes: int, duration: float, /) -> bool:
        """Whether a value of ``nbytes`` bytes, made in ``duration`` seconds, is written to be safe."""
        ...

    def write(self, task: int, payload: Payload, nbytes: int, /) -> str:
        """Write a value to its file; return what went wrong, in words."""
        ...

    def checkpoint(self, task: int, payload: Payload, nbytes: int, /) -> bool:
        """Write a value that need not outlast the run; return whether it is written."""
        ...


class MemoryPort(Protocol):
    """Watches the memory of a rank; see :class:`~handoff_mpi.runtime.memory_monitor.MemoryMonitor`."""

    @property
    def can_spill(self) -> bool:
        """Whether values can (still) be moved out."""
        ...

    def came_in(self, nbytes: int, /) -> None:
        """Take in that a value of ``nbytes`` bytes is in memory now."""
        ...

    def spilled(self) -> None:
        """Take in that a value was moved out."""
        ...

    def give_up_spilling(self, error: OSError, /) -> None:
        """Move no more values out of memory, as it failed."""
        ...


class CallsPort(Protocol):
    """Runs the calls of a rank, and the code of users that encodes values; see :mod:`handoff_mpi.runtime.rank_calls`.

    The inputs of a call come from a :class:`~handoff_mpi.runtime.call_io.CallIO`, which hears of its end.
    """

    def learn(self, codes: Sequence[tuple[int, bytes]], constant: tuple[int, Payload] | None, /) -> None:
        """Take in encoded callables, or a large constant, by number."""
        ...

    def code(self, number: int, /) -> bytes:
        """Return an encoded callable by its number."""
        ...

    def call(self, work: QueuedCall, /) -> None:
        """Run a call, unless a child was sent it ahead of its turn, and so runs it anyway."""
        ...

    def kill(self, slot: int, /) -> None:
        """End the call that runs in a slot, and none that has begun since."""
        ...

    def take_part(self, work: QueuedCall, /) -> None:
        """Have the machine learn what has ended of a lease that runs, if anything has."""
        ...

    def stop(self, work: QueuedCall, /) -> None:
        """Have no further element of a lease begin, and the machine learn which will not."""
        ...

    def prefill(self) -> None:
        """Send children the calls that come next."""
        ...

    def take_back(self) -> None:
        """Take calls back that children were sent ahead of their turn, unless they have begun."""
        ...

    def encode(self, command: Serve, /) -> None:
        """Encode a value for the rank that asks for it, and answer that rank."""
        ...

    def relieve_idle(self) -> None:
        """Have idle children give back the memory that they keep."""
        ...

    def end_output(self) -> None:
        """Forward the last of what functions have printed."""
        ...


class MemoryFact(NamedTuple):
    """A measurement of the memory of the rank.

    Attributes:
        room_nbytes: how many bytes may come into memory until the next.
        can_spill: whether values can be moved out.
        pressed: what the machine must know of a shortage, if anything.
    """

    room_nbytes: int
    can_spill: bool
    pressed: Pressed | None


class WorkerFacts(NamedTuple):
    """Facts that a worker has found out by other means than messages, for one turn.

    Attributes:
        memory: its measurement, if it was time for one.
        usage: a sample of the use of the host, if it was time for one.
        lost: a rank of this host whose process no longer exists, and why that is said.
    """

    memory: MemoryFact | None = None
    usage: Mapping[str, float] | None = None
    lost: tuple[int, str] | None = None


#: Most turns have none.
NO_FACTS = WorkerFacts()


class Taken(NamedTuple):
    """The results of a step that its caller sees to.

    Attributes:
        asked: ranks whose processes the caller must look at; it reports each.
        lost: ranks that are lost, of which the machine learns in the second half of the turn.
    """

    asked: list[int]
    lost: list[int]
