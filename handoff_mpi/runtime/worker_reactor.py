"""The reactor of a worker: it takes in what has happened, lets the machine decide, and carries its commands out.

As on rank 0, a turn has two halves: :meth:`WorkerReactor.step` takes in messages and facts, and
:meth:`WorkerReactor.ready` lets the machine decide and acts. The order of effects is part of the design:

1. Calls that have ended come before messages, and messages before a shortage of memory. A result that outlasts the run
   is in its file before its end is noted; see :mod:`handoff_mpi.runtime.call_io`.
2. Calls that a child was sent ahead of their turn are taken back before the machine handles a request to return calls.
   The names of files of an earlier launch are known before calls begin that read them.
3. Rank 0 hears of changed resources before it hears that the call has ended which changed them.
4. The machine handles the events, and the reactor carries out its commands one after the other: a value is in the store
   before its report is sent, and is served before it is dropped. What comes of a command is handled before the turn
   ends, and only then are children sent further calls.

The reactor reads no clock and looks at no process, file or socket. Two callers do that for it: the driver in
:mod:`handoff_mpi.runtime.worker_driver`, and the simulated ranks in :mod:`handoff_mpi.simulation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from handoff_mpi import messages
from handoff_mpi.comm import Envelope
from handoff_mpi.messages import BYE, CHECK_PROCESS, CRITICAL, FETCH, FILES, LOST, OK, RETRACT, Attempt, Message
from handoff_mpi.results.store import Key
from handoff_mpi.runtime.call_io import CallIO
from handoff_mpi.runtime.worker_ports import (
    NO_FACTS,
    CallsPort,
    MemoryFact,
    MemoryPort,
    SendPort,
    Taken,
    ValuesPort,
    WorkerFacts,
)
from handoff_mpi.serialization import Payload, nbytes_of
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.events import (
    Drop,
    Kill,
    Learn,
    Leave,
    Put,
    QueuedCall,
    Received,
    Send,
    Serve,
    Spill,
    StopLease,
    TakePart,
)
from handoff_mpi.worker.machine import Worker

#: A rank that has asked for a value, or made one that stays, expects the answer, or a request, this soon.
HASTE_S = 0.003
_NOTHING = Taken([], [])


class WorkerReactor:
    """Carries what happens at one rank into its machine, and the commands of the machine out through ports.

    Args:
        transport: sends messages.
        machine: decides.
        values: holds values, and reads and writes their files.
        memory: watches the rank's memory.
        calls: runs calls.
        call_io: holds the events of calls, and answers other ranks.

    Attributes:
        has_left: whether the run is over for this rank.
        results: those that rank 0 sends to all ranks once the run is over, encoded, if any.
        hasty_until: until then a value is likely to come or go.
        now: the time of the last decision, in seconds.
    """

    def __init__(
        self,
        transport: SendPort,
        machine: Worker,
        values: ValuesPort,
        memory: MemoryPort,
        calls: CallsPort,
        call_io: CallIO,
    ) -> None:
        self.machine = machine
        self.has_left = False
        self.results: Payload | None = None
        self.hasty_until = 0.0
        self._transport = transport
        self._values = values
        self._memory = memory
        self._calls = calls
        self._call_io = call_io
        self._number = machine.run
        self.now = 0.0

    # -- the first half of a turn: events -------------------------------------------------------------

    def step(self, arrived: Sequence[Envelope], facts: WorkerFacts, now: float) -> Taken:
        """Take in messages and facts at the time ``now``; calls that have ended are noted already."""
        self.now = now
        taken = self._absorb(arrived) if arrived else _NOTHING
        if facts is not NO_FACTS:
            self._learn_facts(facts)
        return taken

    def _absorb(self, arrived: Sequence[Envelope]) -> Taken:
        taken, events = _NOTHING, self._call_io.events
        for each in arrived:
            on_kind = _ON.get(each.kind)
            if on_kind is not None and each.number == self._number:
                if taken is _NOTHING:
                    taken = Taken([], [])
                on_kind(self, taken, *each.fields)
            events.append(Received(each.source, each.message, each.buffers))
        return taken

    def _on_files(self, taken: Taken, keys: Sequence[tuple[int, Key]]) -> None:
        self._values.are_filed(keys)

    def _on_retract(self, taken: Taken, attempts: Sequence[Attempt]) -> None:
        self._calls.take_back()

    def _on_check_process(self, taken: Taken, rank: int) -> None:
        taken.asked.append(rank)

    def _on_lost(self, taken: Taken, rank: int) -> None:
        taken.lost.append(rank)

    def _learn_facts(self, facts: WorkerFacts) -> None:
        if facts.usage is not None:
            self._transport.send(0, messages.usage(self._number, facts.usage))
        if facts.memory is not None:
            self._learn_memory(facts.memory)
        if facts.lost is not None:
            self.report_process(facts.lost[0], True, facts.lost[1])

    def _learn_memory(self, memory: MemoryFact) -> None:
        """Have the machine count with the memory that was measured, before it handles a shortage."""
        self.machine.budget.measured(memory.room_nbytes, memory.can_spill)
        if memory.pressed is not None:
            self._call_io.note(memory.pressed)
            if memory.pressed.level == CRITICAL:
                self._calls.relieve_idle()

    def report_process(self, rank: int, is_lost: bool, reason: str) -> None:
        """Report to rank 0 how the process of ``rank`` is."""
        self._transport.send(0, messages.process_status(self._number, rank, is_lost, reason))

    @property
    def has_events(self) -> bool:
        """Whether the machine has something to learn."""
        return bool(self._call_io.events)

    def next_wakeup(self) -> float:
        """Return the time at which the next turn is due even if nothing happens."""
        return self.machine.next_wakeup()

    # -- the second half of a turn: effects -----------------------------------------------------------

    def ready(self, clock: Callable[[], float]) -> None:
        """Let the machine decide, and carry out its commands, until nothing comes of them.

        Args:
            clock: returns the time of each decision.
        """
        call_io = self._call_io
        if call_io.updates:
            self._send_updates()
        while True:
            events, call_io.events = call_io.events, []
            self.now = now = clock()
            for command in self.machine.handle(events, now):
                _DO[type(command)](self, command)
            if not call_io.events:
                break
        self._calls.prefill()

    def expect(self, nbytes: int) -> None:
        """Memory is about to be set aside for a buffer that comes: values leave it first if there is no room."""
        for command in self.machine.expect(nbytes):
            _DO[type(command)](self, command)
        self._memory.came_in(nbytes)

    def _send_updates(self) -> None:
        updates = self._call_io.updates
        for _ in range(len(updates)):  # more may come meanwhile, without end
            rank, amounts = updates.popleft()
            self._transport.send(0, messages.update(self._number, rank, amounts))

    def _send(self, command: Send) -> None:
        message = command.message
        kind, run, *fields = message
        if kind == FETCH:
            self.hasty_until = self.now + HASTE_S
            message = self._fetch(run, *fields)
        elif kind == BYE:  # rank 0 prints its summary once all have said goodbye
            self._calls.end_output()
        self._transport.send(command.dest, message, command.buffers)

    def _fetch(
        self,
        run: int,
        request_id: int,
        task: int,
        codec: tuple[int | None, int | None] | None,
        codes: Sequence[tuple[int, bytes]],
        via: int,
        limit_s: float | None,
    ) -> Message:
        """Return the message with the code that encodes the value: the holder may never have seen it."""
        if codec is not None:
            serialize, _ = codec
            codes = [] if serialize is None else [(serialize, self._calls.code(serialize))]
        return messages.fetch(run, request_id, task, codec, codes, via, limit_s)

    def _call(self, command: QueuedCall) -> None:
        self._calls.call(command)

    def _kill(self, command: Kill) -> None:
        self._calls.kill(command.slot)

    def _take_part(self, command: TakePart) -> None:
        self._calls.take_part(command.work)

    def _stop_lease(self, command: StopLease) -> None:
        self._calls.stop(command.work)

    def _learn(self, command: Learn) -> None:
        self._calls.learn(command.codes, command.constant)

    def _serve(self, command: Serve) -> None:
        if command.codec is None or command.codec[0] is None:
            payload = self._call_io.value(command.task)
            self._call_io.answer(command, None if payload is None else Outcome(OK, payload, None, 0.0))
        else:
            self._calls.encode(command)

    def _put(self, command: Put) -> None:
        self.hasty_until = self.now + HASTE_S
        self._values.put(command.task, command.payload)
        self._memory.came_in(nbytes_of(command.payload))

    def _drop(self, command: Drop) -> None:
        self._values.drop(command.task)

    def _spill(self, command: Spill) -> None:
        if self._memory.can_spill:  # the one before may have failed
            try:
                self._values.spill(command.task, command.nbytes)
                self._memory.spilled()
            except OSError as error:
                self._memory.give_up_spilling(error)

    def _leave(self, command: Leave) -> None:
        self.results = command.results
        self.has_left = True


#: The kind of a message that is not the machine's alone to its handler, whose parameters are its fields.
_ON: dict[str, Callable[..., None]] = {
    FILES: WorkerReactor._on_files,
    RETRACT: WorkerReactor._on_retract,
    CHECK_PROCESS: WorkerReactor._on_check_process,
    LOST: WorkerReactor._on_lost,
}
#: Tables of the class, not of each object: bound methods would be reference cycles.
_DO: dict[type, Callable[[WorkerReactor, Any], None]] = {
    Send: WorkerReactor._send,
    QueuedCall: WorkerReactor._call,
    Kill: WorkerReactor._kill,
    TakePart: WorkerReactor._take_part,
    StopLease: WorkerReactor._stop_lease,
    Serve: WorkerReactor._serve,
    Put: WorkerReactor._put,
    Drop: WorkerReactor._drop,
    Spill: WorkerReactor._spill,
    Learn: WorkerReactor._learn,
    Leave: WorkerReactor._leave,
}
