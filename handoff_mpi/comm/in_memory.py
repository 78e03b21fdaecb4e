"""The port in memory: for runs without MPI, and for tests. Ranks are threads, or all in one."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Sequence
from typing import Any

from handoff_mpi.comm.doorbell import Doorbell
from handoff_mpi.comm.transport import Allocate, Envelope, RankFailed


class MemoryNetwork:
    """``size`` ranks that can reach each other."""

    def __init__(self, size: int) -> None:
        self.inboxes: list[deque[Envelope | RankFailed]] = [deque() for _ in range(size)]
        self.dead: set[int] = set()

    def transport(self, rank: int) -> MemoryTransport:
        """Return the end of the network that ``rank`` holds."""
        return MemoryTransport(self, rank)

    def kill(self, rank: int) -> None:
        """Make ``rank`` dead: the others are told, what is sent to it is dropped."""
        self.dead.add(rank)
        self.inboxes[rank].clear()
        for other, inbox in enumerate(self.inboxes):
            if other not in self.dead:
                inbox.append(RankFailed(rank, "it was ended"))


class MemoryTransport:
    """One rank's end. Messages are copied as a wire would, so that ranks share nothing."""

    doorbell: Doorbell | None = None
    is_transferring = False

    def __init__(self, network: MemoryNetwork, rank: int) -> None:
        self._network = network
        self.rank = rank
        self.size = len(network.inboxes)

    def send(self, dest: int, message: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
        if dest in self._network.dead or self.rank in self._network.dead:
            return
        copy = pickle.loads(pickle.dumps(message, protocol=5))
        # Nothing is left to a later turn: in memory a message has arrived when it was sent.
        self._network.inboxes[dest].append(Envelope(self.rank, copy, [bytearray(part) for part in buffers]))

    def set_receive_allocator(self, allocate: Allocate) -> None:
        """Nothing is received: who sends makes the copies."""

    def drop(self, rank: int) -> None:
        self._network.dead.add(rank)

    def poll(self) -> list[Envelope | RankFailed]:
        inbox = self._network.inboxes[self.rank]
        return [inbox.popleft() for _ in range(len(inbox))]

    def flush(self, timeout_s: float) -> bool:
        return True
