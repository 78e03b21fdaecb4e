"""Implements the transport in memory, for runs without MPI and for tests. Ranks are threads, or share one thread."""

from __future__ import annotations

import pickle
from collections import deque

from handoff_mpi.comm.doorbell import Doorbell
from handoff_mpi.comm.transport import Allocate, Envelope, RankFailed
from handoff_mpi.messages import Buffers, Message


class MemoryNetwork:
    """Connects ``size`` ranks of one process."""

    def __init__(self, size: int) -> None:
        self.inboxes: list[deque[Envelope | RankFailed]] = [deque() for _ in range(size)]
        self.dead: set[int] = set()

    def transport(self, rank: int) -> MemoryTransport:
        """Return the transport of ``rank``."""
        return MemoryTransport(self, rank)

    def kill(self, rank: int) -> None:
        """Mark ``rank`` as dead: the other ranks receive :class:`RankFailed`, messages to it are dropped."""
        self.dead.add(rank)
        self.inboxes[rank].clear()
        for other, inbox in enumerate(self.inboxes):
            if other not in self.dead:
                inbox.append(RankFailed(rank, "it was killed"))


class MemoryTransport:
    """One rank's transport. It copies each message, as a network would, so that ranks share no objects."""

    doorbell: Doorbell | None = None
    is_transferring = all_rings = False

    def __init__(self, network: MemoryNetwork, rank: int) -> None:
        self._network = network
        self.rank = rank
        self.size = len(network.inboxes)

    def send(self, dest: int, message: Message, buffers: Buffers = ()) -> None:
        if dest in self._network.dead or self.rank in self._network.dead:
            return
        copy = pickle.loads(pickle.dumps(message, protocol=5))
        # Delivery is immediate, so flush has nothing to wait for.
        self._network.inboxes[dest].append(Envelope(self.rank, copy, [bytearray(part) for part in buffers]))

    def set_receive_allocator(self, allocate: Allocate) -> None:
        """Ignore ``allocate``: the sender makes the copies."""

    def drop(self, rank: int) -> None:
        self._network.dead.add(rank)

    def poll(self) -> list[Envelope | RankFailed]:
        inbox = self._network.inboxes[self.rank]
        return [inbox.popleft() for _ in range(len(inbox))]

    def flush(self, timeout_s: float) -> bool:
        return True
