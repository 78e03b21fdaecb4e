"""Implements the transport over MPI. No other module of the package sends messages by mpi4py.

A message is one pickled tuple. Its buffers follow the header in chunks, on a separate tag for each transfer, and MPI
receives them directly into their final memory. All operations are non-blocking and use matched probes (``Improbe``), so
any thread may use the communicator, one at a time; MPI_THREAD_SERIALIZED suffices.

MPI sends a large message by rendezvous: the receiver first sees its envelope, and the data follow when the sender next
makes MPI progress. That may be after a long call, or never, if the sender's host has lost its network. So a receive
never waits for the data; it holds back later messages of that sender instead, to keep their order.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.comm.doorbell import Doorbell
from handoff_mpi.comm.mpi import FLUSH_TURN_S, has_fault_tolerance  # before MPI: it sets the thread level
from handoff_mpi.comm.transport import Allocate, Envelope, RankFailed, fresh_memory
from handoff_mpi.errors import TransportError

# isort: split
from mpi4py import MPI

_MESSAGE = 1  # tag: a message alone
_HEADER = 2  # tag: a message with buffers
_FIRST_DATA = 16  # the first tag of transfers
_DATA_TAGS = 16_384
#: The largest MPI message: counts stay far below 2^31, and concurrent transfers progress evenly.
CHUNK_NBYTES = 128 * 1024 * 1024
#: One poll returns about this many messages at most: senders may be faster than the receiver.
_MAX_AT_ONCE = 1000
#: A message of this size is complete when a probe finds it: MPI libraries send it eagerly, without rendezvous.
_WHOLE_NBYTES = 4000
#: A rank that expects a larger message does not sleep for this long, plus the transfer time at this rate. The time is
#: bounded because the sender may not make progress.
_AWAIT_S = 0.05
_AWAIT_NBYTES_PER_S = 20e6
_DEATHS = frozenset(getattr(MPI, name, None) for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING")) - {None}


@dataclass(slots=True)
class _Incoming:
    """A message that has not arrived completely, with its buffers.

    Attributes:
        requests: the pending receives; empty if it waits only for earlier messages.
        blob: the memory that receives the pickled message, if that is received separately.
    """

    envelope: Envelope
    requests: list[object]
    blob: bytearray | None = None

    def whole(self) -> Envelope:
        """Return the message after its receives have completed."""
        if self.blob is not None:
            self.envelope.message = _read(self.blob, self.envelope.source)
        return self.envelope


@dataclass(slots=True)
class _Outgoing:
    """A message that is being sent, whose buffers must stay alive until its sends have completed."""

    dest: int
    requests: list[object]
    buffers: Sequence[object] = field(default_factory=tuple)


class MPITransport:
    """One rank's end of a duplicated communicator.

    Raises:
        TransportError: the communicator is an intercommunicator.
    """

    def __init__(self, comm: Any = None) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        if comm.Is_inter():
            raise TransportError("cannot use this communicator: it is an intercommunicator; pass an intracommunicator")
        self._comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._status = MPI.Status()
        self._statuses: list[Any] = []  # of the requests tested last; mpi4py lengthens it
        self._own: deque[Envelope] = deque()
        self._outgoing: deque[_Outgoing] = deque()
        self._incoming: list[_Incoming] = []  # with buffers
        self._awaited_until = 0.0
        self._held: dict[int, deque[_Incoming]] = {}  # by source, in the order of sending
        self._arrived: list[Envelope | RankFailed] = []
        self._allocate: Allocate = fresh_memory
        self._transfers = 0
        self._dead: set[int] = set()
        self._abandoned: list[_Incoming | _Outgoing] = []  # kept alive: MPI may still access their memory
        self._is_rung_by_all = False
        self.doorbell = self._create_doorbell()

    def _create_doorbell(self) -> Doorbell | None:
        """Return this rank's doorbell, which can ring those of the other ranks of its host."""
        try:
            doorbell = Doorbell()
        except OSError:
            doorbell = None
        here = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        known = dict(here.allgather((self.rank, None if doorbell is None else doorbell.address)))
        here.Free()
        if doorbell is not None:
            doorbell.can_ring({rank: address for rank, address in known.items() if address and rank != self.rank})
            self._is_rung_by_all = len(known) == self.size and all(known.values())
        return doorbell

    # -- collective operations, for use before a run sends messages -----------------------------------

    def allgather(self, value: Any) -> list[Any]:
        """Return every rank's ``value``, in rank order."""
        return list(self._comm.allgather(value))

    # -- sending ------------------------------------------------------------------------------------

    def send(self, dest: int, message: tuple[object, ...], buffers: Sequence[Any] = ()) -> None:
        if dest == self.rank:
            copy = pickle.loads(pickle.dumps(message, protocol=5))
            self._own.append(Envelope(dest, copy, buffers))
            return
        if dest in self._dead:
            return
        try:
            if buffers:
                self._send_with_buffers(dest, message, [memoryview(part).cast("B") for part in buffers])
            else:
                blob = pickle.dumps(message, protocol=5)
                request = self._comm.Isend([blob, MPI.BYTE], dest, _MESSAGE)
                if not request.Test():
                    self._outgoing.append(_Outgoing(dest, [request], (blob,)))
            if self.doorbell is not None:
                self.doorbell.ring(dest)
        except MPI.Exception as error:
            self._look_at(error, f"sending to rank {dest}")

    def set_receive_allocator(self, allocate: Allocate) -> None:
        self._allocate = allocate

    def drop(self, rank: int) -> None:
        self._dead.add(rank)

    def _send_with_buffers(self, dest: int, message: tuple[object, ...], views: list[memoryview]) -> None:
        self._transfers += 1
        tag = _FIRST_DATA + self._transfers % _DATA_TAGS
        sizes = [view.nbytes for view in views]
        blob = pickle.dumps((message, tag, sizes), protocol=5)
        if len(blob) > _WHOLE_NBYTES:  # a header must be sent eagerly, so a large message is sent as a buffer
            views = [memoryview(pickle.dumps(message, protocol=5)), *views]
            blob = pickle.dumps((None, tag, [view.nbytes for view in views]), protocol=5)
        requests = [self._comm.Isend([blob, MPI.BYTE], dest, _HEADER)]
        requests += [self._comm.Isend([chunk, MPI.BYTE], dest, tag) for view in views for chunk in _chunks(view)]
        self._outgoing.append(_Outgoing(dest, requests, (blob, *views)))

    # -- receiving ----------------------------------------------------------------------------------

    def poll(self) -> list[Envelope | RankFailed]:
        arrived, self._arrived = self._arrived, []
        while self._own:
            arrived.append(self._own.popleft())
        status = self._status
        try:
            # Open MPI's Improbe looks for a message before it makes progress. So a probe that finds nothing may take in
            # new messages, and only two misses in a row mean that there are none. Who has found some looks again soon.
            has_missed = False
            for _ in range(_MAX_AT_ONCE):
                message = self._comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
                if message is not None:
                    self._receive(message, status, arrived)
                elif has_missed or arrived:
                    break
                else:
                    has_missed = True
        except MPI.Exception as error:
            self._look_at(error, "receiving")
        if self._incoming:
            self._finish_incoming(arrived)
        if self._held:
            self._finish_held(arrived)
        if self._outgoing:
            self._drop_sent()
        if self._arrived:
            arrived += self._arrived
            self._arrived = []
        if self.doorbell is not None:
            self.doorbell.looked()
        return arrived

    def _receive(self, message: Any, status: Any, arrived: list[Envelope | RankFailed]) -> None:
        source, tag, nbytes = status.Get_source(), status.Get_tag(), status.Get_count(MPI.BYTE)
        if self.doorbell is not None:
            self.doorbell.hear_from(source)
        blob = bytearray(nbytes)
        if tag == _HEADER:
            message.Recv([blob, MPI.BYTE])
            self._receive_buffers(source, *_read(blob, source))
            return
        request = None
        if nbytes <= _WHOLE_NBYTES:
            message.Recv([blob, MPI.BYTE])
        else:
            request = message.Irecv([blob, MPI.BYTE])
        if source not in self._held and (request is None or request.Test()):
            arrived.append(Envelope(source, _read(blob, source)))
            return
        self._hold(_Incoming(Envelope(source, ()), [] if request is None else [request], blob))
        self._awaited_until = max(self._awaited_until, time.monotonic() + _AWAIT_S + nbytes / _AWAIT_NBYTES_PER_S)

    def _hold(self, incoming: _Incoming) -> None:
        """Deliver a message only after it is complete and all earlier messages of its sender are delivered."""
        self._held.setdefault(incoming.envelope.source, deque()).append(incoming)

    def _receive_buffers(self, source: int, header: Any, tag: int, sizes: list[int]) -> None:
        # The receives are posted before the next probe, so that no probe matches this transfer's chunks.
        blob = bytearray(sizes.pop(0)) if header is None else None
        memories = [self._allocate(nbytes) for nbytes in sizes]
        targets = [target for target, _ in memories] if blob is None else [blob, *(target for target, _ in memories)]
        requests = [
            self._comm.Irecv([chunk, MPI.BYTE], source, tag)
            for target in targets
            for chunk in _chunks(memoryview(target).cast("B"))
        ]
        self._incoming.append(_Incoming(Envelope(source, header, [kept for _, kept in memories]), requests, blob))

    def _finish_incoming(self, arrived: list[Envelope | RankFailed]) -> None:
        waiting = []
        for incoming in self._incoming:
            is_done = self._are_done(incoming.requests, "receiving from", incoming.envelope.source)
            if is_done and incoming.envelope.source in self._held:
                self._hold(incoming)
            elif is_done:
                arrived.append(incoming.whole())
            elif is_done is None or incoming.envelope.source in self._dead:
                self._abandoned.append(incoming)
            else:
                waiting.append(incoming)
        self._incoming = waiting

    def _finish_held(self, arrived: list[Envelope | RankFailed]) -> None:
        for source, held in list(self._held.items()):
            is_done: bool | None = True
            while held and (is_done := self._are_done(held[0].requests, "receiving from", source)):
                arrived.append(held.popleft().whole())
            if held and (is_done is None or source in self._dead):
                self._abandoned += held
                held.clear()
            if not held:
                del self._held[source]

    def _drop_sent(self) -> None:
        for _ in range(len(self._outgoing)):
            outgoing = self._outgoing.popleft()
            is_done = self._are_done(outgoing.requests, "sending to", outgoing.dest)
            if not is_done:
                is_lost = is_done is None or outgoing.dest in self._dead
                (self._abandoned if is_lost else self._outgoing).append(outgoing)

    def _are_done(self, requests: list[Any], doing: str, rank: int) -> bool | None:
        """Whether all requests with ``rank`` have completed; None if they failed because it died.

        Raises:
            TransportError: MPI failed for another reason.
        """
        try:
            return bool(MPI.Request.Testall(requests, self._statuses))
        except MPI.Exception as error:
            self._look_at(error, f"{doing} rank {rank}", self._statuses[: len(requests)])
            return None

    @property
    def is_transferring(self) -> bool:
        # Asked at each look of a loop that waits: without sends there must be no step but the first.
        if self._incoming or (self._outgoing and any(len(outgoing.requests) > 1 for outgoing in self._outgoing)):
            return True
        return bool(self._held) and time.monotonic() < self._awaited_until

    @property
    def all_rings(self) -> bool:
        # MPI may send a large message in parts, when this rank looks.
        return self._is_rung_by_all and not self._outgoing

    def flush(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while self._outgoing and time.monotonic() < end:
            self._arrived = self.poll()  # sends make progress only if this rank receives too; keep what it receives
            time.sleep(FLUSH_TURN_S)
        return not self._outgoing

    # -- dead ranks ---------------------------------------------------------------------------------

    def _look_at(self, error: Any, doing: str, statuses: Sequence[Any] = ()) -> None:
        """Find the ranks that died, if ``error`` reports a death.

        Raises:
            TransportError: MPI failed for another reason.
        """
        if not _error_classes(error, statuses) <= _DEATHS:
            raise TransportError(f"MPI failed while {doing}: {error}; `handoff-mpi doctor` checks MPI") from error
        self._comm.Ack_failed(self.size)
        group = self._comm.Get_group()
        failed = self._comm.Get_failed()
        ranks = failed.Translate_ranks(None, group) if failed.Get_size() else []
        for rank in ranks:
            if rank not in self._dead:
                self._dead.add(rank)
                self._arrived.append(RankFailed(rank, "MPI reports that its process died"))

    def close(self) -> None:
        """Free the communicator unless a rank has died; every rank must call this."""
        if self.doorbell is not None:
            self.doorbell.close()
            self.doorbell = None
        if not self._dead and not has_fault_tolerance():
            self._comm.Free()


def _error_classes(error: Any, statuses: Sequence[Any]) -> set[int]:
    """Return the MPI error classes of ``error``; requests that were tested together have one status each."""
    kind = error.Get_error_class()
    if kind != MPI.ERR_IN_STATUS:
        return {kind}
    reported = {MPI.Get_error_class(status.Get_error()) for status in statuses}
    return reported - {MPI.SUCCESS, MPI.ERR_PENDING} or {kind}


def _chunks(view: memoryview) -> list[memoryview]:
    return [view[start : start + CHUNK_NBYTES] for start in range(0, view.nbytes, CHUNK_NBYTES)] or [view]


def _read(blob: bytearray, source: int) -> Any:
    """Return the object that is pickled in ``blob``.

    Raises:
        TransportError: ``blob`` cannot be unpickled.
    """
    try:
        return pickle.loads(blob)
    except Exception as error:
        remedy = "run the same version of Python and handoff_mpi on all ranks"
        raise TransportError(f"cannot read a message from rank {source}: {error}; {remedy}") from error
