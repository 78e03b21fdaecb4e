"""The port over MPI: the only one that carries messages by mpi4py.

A message is one pickled tuple. Buffers follow their header in chunks, on a tag of their own, and are received
straight into their final memory. Everything is non-blocking and matched (``Improbe``), so that one thread at
a time may use the communicator, whichever it is; MPI_THREAD_SERIALIZED is all that is asked for.

A large message may have been announced only: the rest comes when its sender next looks after MPI, which may be after a
long call, or never, if its host was cut off. So nobody waits for it; what that rank sent later is held back meanwhile.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import mpi4py

from handoff_mpi.comm.collectives import COLLECTIVES, WHY_IN_VAIN
from handoff_mpi.comm.doorbell import Doorbell
from handoff_mpi.comm.transport import Allocate, Envelope, RankFailed, fresh_memory
from handoff_mpi.console import print_message
from handoff_mpi.errors import RanksMissing, TransportError
from handoff_mpi.process_exit import exit_process, exit_python

if not os.environ.get("MPI4PY_RC_THREAD_LEVEL"):
    # MULTIPLE doubles the round trip, and one thread at a time is what the loops keep to.
    mpi4py.rc.thread_level = "serialized"

from mpi4py import MPI

_MESSAGE = 1  # tag: a message alone
_HEADER = 2  # tag: a message with buffers
_JOIN_TAG = 3  # tag: ranks that come together
_FIRST_DATA = 16  # tags of transfers
_DATA_TAGS = 16_384
#: No single MPI message is larger: counts stay far below 2^31, and progress is even.
CHUNK_NBYTES = 128 * 1024 * 1024
#: So many messages are taken in before anybody looks at them: those who send may be faster than one who receives.
_MAX_AT_ONCE = 1000
#: A message this small has arrived once it can be seen: no MPI announces so few bytes first.
_WHOLE_NBYTES = 4000
#: Who awaits a larger one does not sleep for so long, and a second longer for so many bytes: its sender may be deaf.
_AWAIT_S = 0.05
_AWAIT_NBYTES_PER_S = 20e6
_FLUSH_TURN_S = 0.0005
#: A wait for ranks to join that lasts longer is reported, with the first of the ranks.
MIN_REPORTED_WAIT_S = 10.0
MAX_NAMED_RANKS = 20
_FT_VARIABLE = "OMPI_MCA_mpi_ft_enable"  # set in every rank by mpirun --with-ft ulfm
_DEATHS = frozenset(getattr(MPI, name, None) for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING")) - {None}


@dataclass(slots=True)
class _Incoming:
    """A message that is still on its way, with the buffers beside it.

    Attributes:
        requests: of what is to come; none if it waits only for messages before it.
        blob: the message as it is sent, if that is among it.
    """

    envelope: Envelope
    requests: list[Any]
    blob: bytearray | None = None

    def whole(self) -> Envelope:
        """Return the message, which has come."""
        if self.blob is not None:
            self.envelope.message = _read(self.blob, self.envelope.source)
        return self.envelope


@dataclass(slots=True)
class _Outgoing:
    """What is being sent, kept alive until it has left."""

    dest: int
    requests: list[Any]
    buffers: Sequence[Any] = field(default_factory=tuple)


def world() -> Any:
    """Return MPI's world communicator, initialising MPI."""
    return MPI.COMM_WORLD


def members(comm: Any) -> tuple[int, ...]:
    """Return the ranks in the world of the members of ``comm``, in its order."""
    group, everyone = comm.Get_group(), MPI.COMM_WORLD.Get_group()
    try:
        return tuple(group.Translate_ranks(None, everyone))
    finally:
        group.Free()
        everyone.Free()


def is_threaded() -> bool:
    """Whether MPI lets a second thread take over the communicator."""
    return bool(MPI.Query_thread() >= MPI.THREAD_SERIALIZED)


def has_fault_tolerance() -> bool:
    """Whether this MPI reports a rank's death and lets the others go on (ULFM, switched on at launch)."""
    return os.environ.get(_FT_VARIABLE) in ("1", "true") and hasattr(MPI.Comm, "Get_failed")


def library() -> str:
    """Return the name and version of the MPI library, on one line."""
    return MPI.Get_library_version().split("\n")[0].split("\0")[0].split(",")[0].strip()


def leave(code: int) -> NoReturn:
    """End this rank's process in the way that hangs nowhere, its exit handlers and what it has started included.

    With fault tolerance on, MPI_Finalize may wait for the dead, so it is left out. Without it, the process ends
    as any other: mpi4py finalises, and MPICH's launcher takes what ends sooner for a crash.
    """
    if has_fault_tolerance():
        exit_process(code)
    exit_python(code, finalise)


def finalise() -> None:
    """Do what mpi4py does at the end of Python, in a process that will not come to that."""
    if not MPI.Is_finalized():
        MPI.Finalize()


@contextmanager
def all_ranks_refused() -> Iterator[None]:
    """Have raise what needs all ranks: in a function, which runs while other ranks work, it would hang its rank.

    That is ``MPI.Finalize`` and the collective operations of ``MPI.COMM_WORLD``.
    """
    usual, world = MPI.Finalize, MPI.COMM_WORLD
    vars(MPI).update(Finalize=_refuse_to_finalise, COMM_WORLD=_WorldOfFunctions(world))
    try:
        yield
    finally:
        vars(MPI).update(Finalize=usual, COMM_WORLD=world)


class _WorldOfFunctions(MPI.Intracomm):
    """The world communicator as functions see it: rank 0 schedules, and never comes to a collective operation."""


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"MPI.COMM_WORLD.{name} would wait for ever: {WHY_IN_VAIN}")

    return refuse


for _name in COLLECTIVES:
    if hasattr(MPI.Intracomm, _name):
        setattr(_WorldOfFunctions, _name, _refused(_name))


def _refuse_to_finalise() -> NoReturn:
    raise RuntimeError("MPI_Finalize is refused while this rank serves a run: the rank needs MPI itself")


def is_active() -> bool:
    """Whether MPI has been initialised, and not finalised."""
    return bool(MPI.Is_initialized() and not MPI.Is_finalized())


def revoke() -> None:
    """Have all ranks that wait in the world communicator, or come to do so, get an error there (ULFM)."""
    MPI.COMM_WORLD.Revoke()


def abort(code: int) -> None:
    """End all ranks of the job."""
    MPI.COMM_WORLD.Abort(code)


def wait_for_all(comm: Any, timeout_s: float) -> None:
    """Return once every rank of ``comm`` has come here; no collective is begun before that.

    A wait that is not short is reported by rank 0, once: a user may take it for a hang.

    Raises:
        RanksMissing: naming, on rank 0, the ranks that have not come in time.
    """
    rank, size = comm.Get_rank(), comm.Get_size()
    now = time.monotonic()
    end, report_at = now + timeout_s, now + MIN_REPORTED_WAIT_S
    if rank == 0:
        missing = set(range(1, size))
        while missing:
            status = MPI.Status()
            if comm.Iprobe(MPI.ANY_SOURCE, _JOIN_TAG, status):
                comm.recv(source=status.Get_source(), tag=_JOIN_TAG)
                missing.discard(status.Get_source())
            elif time.monotonic() > end:
                raise RanksMissing(
                    f"{_named(missing, size)} have not joined within {timeout_s:.0f} s: {_listed(missing)}"
                )
            elif time.monotonic() > report_at:
                report_at = float("inf")
                waits = f"rank 0 waits up to {timeout_s:.0f} s for {_named(missing, size)} to join"
                print_message(f"{waits}: {_listed(missing)}; every rank has to make the same call")
            else:
                time.sleep(_FLUSH_TURN_S)
        for other in range(1, size):
            comm.send(None, other, _JOIN_TAG)
        return
    request = comm.isend(None, 0, _JOIN_TAG)
    while not comm.Iprobe(0, _JOIN_TAG):
        if time.monotonic() > end + 5:
            raise RanksMissing(f"rank 0 has not joined within {timeout_s:.0f} s")
        time.sleep(_FLUSH_TURN_S)
    comm.recv(source=0, tag=_JOIN_TAG)
    request.wait()


def _named(missing: set[int], size: int) -> str:
    return f"{len(missing)} of {size} ranks"


def _listed(ranks: set[int]) -> str:
    names = ", ".join(map(str, sorted(ranks)[:MAX_NAMED_RANKS]))
    return f"{names}, ..." if len(ranks) > MAX_NAMED_RANKS else names


class MPITransport:
    """One rank's end of a duplicated communicator.

    Raises:
        TransportError: the communicator is no intracommunicator.
    """

    def __init__(self, comm: Any = None) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        if comm.Is_inter():
            raise TransportError("handoff_mpi needs an intracommunicator")
        self._comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._status = MPI.Status()
        self._statuses: list[Any] = []  # of the requests tested last; MPI's binding lengthens it
        self._own: deque[Envelope] = deque()
        self._outgoing: deque[_Outgoing] = deque()
        self._incoming: list[_Incoming] = []  # with buffers
        self._awaited_until = 0.0
        self._held: dict[int, deque[_Incoming]] = {}  # by source: in the order in which they are to arrive
        self._arrived: list[Envelope | RankFailed] = []
        self._allocate: Allocate = fresh_memory
        self._transfers = 0
        self._dead: set[int] = set()
        self._abandoned: list[_Incoming | _Outgoing] = []  # MPI may still look at their memory
        self.doorbell = self._hang_up_doorbell()

    def _hang_up_doorbell(self) -> Doorbell | None:
        """Return this rank's doorbell, which knows those of its host."""
        try:
            doorbell = Doorbell()
        except OSError:
            doorbell = None
        here = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        known = dict(here.allgather((self.rank, None if doorbell is None else doorbell.address)))
        here.Free()
        if doorbell is not None:
            doorbell.can_ring({rank: address for rank, address in known.items() if address and rank != self.rank})
        return doorbell

    # -- collectives, used before a run's messages flow ----------------------------------------------

    def allgather(self, value: Any) -> list[Any]:
        """Return every rank's ``value``, in rank order."""
        return list(self._comm.allgather(value))

    # -- sending ------------------------------------------------------------------------------------

    def send(self, dest: int, message: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
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

    def _send_with_buffers(self, dest: int, message: tuple[Any, ...], views: list[memoryview]) -> None:
        self._transfers += 1
        tag = _FIRST_DATA + self._transfers % _DATA_TAGS
        sizes = [view.nbytes for view in views]
        blob = pickle.dumps((message, tag, sizes), protocol=5)
        if len(blob) > _WHOLE_NBYTES:  # a header must be there when it is seen, so what it says goes beside it too
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
            # What arrived since the last look is taken in by one that finds nothing, and found by the next: Open MPI
            # looks first, and makes progress then.
            has_missed = False
            for _ in range(_MAX_AT_ONCE):
                message = self._comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
                if message is not None:
                    self._receive(message, status, arrived)
                elif has_missed:
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
        """Have a message arrive when it is there, and all before it are."""
        self._held.setdefault(incoming.envelope.source, deque()).append(incoming)

    def _receive_buffers(self, source: int, header: Any, tag: int, sizes: list[int]) -> None:
        # Posted before the next probe, so that no probe meets this transfer's chunks.
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
        if self._incoming or any(len(outgoing.requests) > 1 for outgoing in self._outgoing):
            return True
        return bool(self._held) and time.monotonic() < self._awaited_until

    def flush(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while self._outgoing and time.monotonic() < end:
            self._arrived = self.poll()  # progress needs the receiving side too; nothing may get lost
            time.sleep(_FLUSH_TURN_S)
        return not self._outgoing

    # -- the dead -----------------------------------------------------------------------------------

    def _look_at(self, error: Any, doing: str, statuses: Sequence[Any] = ()) -> None:
        """Find out who died; anything else is ours to raise.

        Raises:
            TransportError: MPI failed for another reason.
        """
        if not _error_classes(error, statuses) <= _DEATHS:
            raise TransportError(f"MPI failed while {doing}: {error}") from error
        self._comm.Ack_failed(self.size)
        group = self._comm.Get_group()
        gone = self._comm.Get_failed()
        ranks = gone.Translate_ranks(None, group) if gone.Get_size() else []
        for rank in ranks:
            if rank not in self._dead:
                self._dead.add(rank)
                self._arrived.append(RankFailed(rank, "MPI reports that its process died"))

    def close(self) -> None:
        """Free the communicator; only when every rank does so, and none has died."""
        if self.doorbell is not None:
            self.doorbell.close()
            self.doorbell = None
        if not self._dead and not has_fault_tolerance():
            self._comm.Free()


def _error_classes(error: Any, statuses: Sequence[Any]) -> set[int]:
    """Return what went wrong; of requests that were tested together each has its own answer."""
    kind = error.Get_error_class()
    if kind != MPI.ERR_IN_STATUS:
        return {kind}
    told = {MPI.Get_error_class(status.Get_error()) for status in statuses}
    return told - {MPI.SUCCESS, MPI.ERR_PENDING} or {kind}


def _chunks(view: memoryview) -> list[memoryview]:
    return [view[start : start + CHUNK_NBYTES] for start in range(0, view.nbytes, CHUNK_NBYTES)] or [view]


def _read(blob: bytearray, source: int) -> Any:
    """Return what ``blob`` says.

    Raises:
        TransportError: it is no message of ours.
    """
    try:
        return pickle.loads(blob)
    except Exception as error:
        raise TransportError(f"a message of rank {source} cannot be read: {error}") from error
