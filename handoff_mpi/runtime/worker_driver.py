"""The shell around a worker's machine: carries messages into it, calls out of it, and values between."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from handoff_mpi import messages
from handoff_mpi.comm import Envelope, RankFailed, Transport, fresh_memory
from handoff_mpi.messages import (
    BYE,
    CHECK_PROCESS,
    CRITICAL,
    FETCH,
    FILES,
    INLINE_RESULT_NBYTES,
    KEEP,
    KEEP_REMOTE,
    LOST,
    OK,
    RAISED,
    RETRACT,
    ErrorReport,
    Message,
)
from handoff_mpi.resources.memory import Gauge
from handoff_mpi.results.store import ResultStore
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.children import Children
from handoff_mpi.runtime.encoders import Encoders
from handoff_mpi.runtime.host_usage import HostUsage, interval_s
from handoff_mpi.runtime.memory_monitor import MemoryMonitor
from handoff_mpi.runtime.output import RankOutput
from handoff_mpi.runtime.process_monitor import LIVES, UNSEEN, ProcessMonitor
from handoff_mpi.runtime.progress_thread import ProgressThread
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.value_store import RankValues
from handoff_mpi.serialization import Payload, head_of, nbytes_of
from handoff_mpi.worker.call_spec import CallSpec, Outcome
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.draws import NONE
from handoff_mpi.worker.events import (
    Call,
    Drop,
    Ended,
    Event,
    InputMissing,
    Kill,
    Learn,
    Leave,
    Put,
    QueuedCall,
    Received,
    Send,
    Serve,
    Spill,
)
from handoff_mpi.worker.machine import Worker
from handoff_mpi.worker.randomness import GlobalGenerators, seeded_by_setup
from handoff_mpi.worker.shared_memory import SHARED_NBYTES, allocate, mapped_nbytes

#: Calls follow one another for this long before messages are looked for.
_BURST_S = 0.0005
#: A rank that has asked for a value, or made one that stays, expects the answer, or a request, this soon.
HASTE_S = 0.003


#: To find out what limits the memory of this process takes longer than a small run.
_gauge = lru_cache(maxsize=4)(Gauge)


def _memory_for_children(nbytes: int) -> tuple[Any, Any]:
    """Large values are received where children can map them, so that they are not copied once more for each call."""
    if nbytes >= SHARED_NBYTES:
        try:
            return allocate(nbytes)
        except OSError:
            pass  # then they are copied
    return fresh_memory(nbytes)


class WorkerDriver:
    """The shell around one rank's worker machine for one run.

    Args:
        child_pool: children of runs before, and for those after; None if the run's are all to end with it.
        store: see :class:`~handoff_mpi.runtime.value_store.RankValues`.
        only_calls: whether nothing else that users wrote runs in this process while the run does.
    """

    def __init__(
        self,
        transport: Transport,
        setup: RunSetup,
        child_pool: ChildPool | None = None,
        store: ResultStore | None = None,
        only_calls: bool = False,
    ) -> None:
        self.transport = transport
        self.setup = setup
        self._values = RankValues(transport.rank, setup, store)
        self.machine = Worker(
            transport.rank,
            setup.number,
            setup.slots,
            setup.heartbeat_s,
            setup.store_nbytes,
            setup.cache_nbytes,
            setup.tells_transfers,
            reads_files=self._values.sees_files,
        )
        seeded = NONE if setup.setup is None else seeded_by_setup()
        self.caller = CallRunner(transport.rank, setup.run, GlobalGenerators(setup.seeds, seeded))
        self._output = None if setup.output is None else RankOutput(transport.rank, setup)
        if self._output is not None:
            self.caller.output = self._output.of_rank(stays=only_calls)
        self.lock = threading.Lock()
        self.call_serial = 0
        self.is_calling = False
        self.own_work: QueuedCall | None = None
        self.progress_thread: ProgressThread | None = None
        self.results: Any = None
        self.has_left = False
        self._hasty_until = 0.0
        self._process_monitor = ProcessMonitor(transport.rank, setup.pids)
        self._children = Children(
            setup,
            self.machine,
            self.caller,
            child_pool,
            self._spec,
            self._end,
            self._note,
            self.update_resources,
            self._output,
        )
        self._sent = self._children.sent
        self._encoders = Encoders(transport.rank, self._children.start, self._value, self._answer)
        self._memory_monitor = self._make_memory_monitor()
        self._usage = HostUsage(has_gpus=True) if setup.usage_s else None
        self._began = clock()
        self._next_sample = self._began + setup.usage_s
        self._make_memory = _memory_for_children if setup.isolation == "process" or setup.slots > 1 else fresh_memory
        transport.set_receive_allocator(self._allocate)
        self._own_calls: deque[QueuedCall] = deque()
        self._own_serves: deque[Serve] = deque()
        self._events: list[Event] = []
        self._updates: deque[tuple[int, dict[str, Any]]] = deque()

    def _make_memory_monitor(self) -> MemoryMonitor:
        gauge = _gauge(self.setup.memory_nbytes, self.setup.ranks_here)
        children, encoders = self._children, self._encoders

        def pids() -> list[int]:
            return [*children.pids(), *encoders.pids()]

        return MemoryMonitor(gauge, self.setup.ranks_here, pids, mapped_nbytes, self._values.can_spill)

    def _allocate(self, nbytes: int) -> tuple[Any, Any]:
        """Return memory for a buffer that is about to come; values leave memory first if there is no room for it."""
        for command in self.machine.expect(nbytes):
            _DO[type(command)](self, command)
        self._memory_monitor.came_in(nbytes)
        return self._make_memory(nbytes)

    # -- a turn -------------------------------------------------------------------------------------

    def turn(self, arrived: Sequence[Envelope | RankFailed] = ()) -> bool:
        """Take in what arrived and what children say, and do what the machine wants; whether anything was done.

        The caller holds ``lock`` if the progress thread may run.
        """
        if not arrived and self._has_nothing_to_do():
            return False
        if any(self._sent):
            self._children.look()
            if any(isinstance(each, Envelope) and each.kind == RETRACT for each in arrived):
                self._children.take_back()
            self._children.listen()
        if self._encoders:
            self._encoders.turn()
        events = self._take_events()
        for each in arrived:
            if isinstance(each, Envelope):
                if each.kind in (CHECK_PROCESS, LOST):
                    self._hear_of_neighbour(*each.message)
                elif each.kind == FILES and each.number == self.setup.number:
                    (keys,) = each.fields
                    self._values.are_filed(keys)
                events.append(Received(each.source, each.message, each.buffers))
        self._look_around(events)
        was_busy = bool(events)
        self._settle(events)
        return was_busy

    def _has_nothing_to_do(self) -> bool:
        """Whether a turn would do nothing, as most do."""
        if self._events or self._updates or self._encoders or any(self._sent):
            return False
        now = clock()
        if now >= self._process_monitor.next_look or now >= self._memory_monitor.next_look:
            return False
        return now < self.machine.next_wakeup()

    def _settle(self, events: list[Event]) -> None:
        """Tell the machine, do what it wants, and so on until nothing comes of it."""
        if self._updates:
            self._send_updates()
        while True:
            for command in self.machine.handle(events, clock()):
                _DO[type(command)](self, command)
            if not self._events:
                break
            events = self._take_events()
        if any(self._sent):
            self._children.prefill()

    def _send_updates(self) -> None:
        """Tell rank 0 of changed resources, before it hears that the call has ended which changed them."""
        for _ in range(len(self._updates)):  # more may come meanwhile, without end
            rank, amounts = self._updates.popleft()
            self.transport.send(0, messages.update(self.setup.number, rank, amounts))

    def _look_around(self, events: list[Event]) -> None:
        now = clock()
        if now >= self._memory_monitor.next_look:
            self._look_at_memory(now, events)
        if now >= self._process_monitor.next_look and (reason := self._process_monitor.is_lost(0, now)):
            self._process_monitor.forget(0)
            raise ConnectionError(f"rank 0 is lost: {reason}")  # every rank of its host sees that for itself
        lost = self._process_monitor.look_around(now)
        if lost is not None:
            rank, reason = lost
            if rank == 0:
                raise ConnectionError(f"rank 0 is lost: {reason}")
            self.transport.send(0, messages.process_status(self.setup.number, rank, True, reason))

    def _look_at_memory(self, now: float, events: list[Event]) -> None:
        if self._usage is not None and now >= self._next_sample:
            self._next_sample = now + max(self.setup.usage_s, interval_s(1, now - self._began))
            self.transport.send(0, messages.usage(self.setup.number, self._usage.sample()))
        pressed = self._memory_monitor.look(now)
        self.machine.budget.measured(self._memory_monitor.room_nbytes, self._memory_monitor.can_spill)
        if pressed is not None:
            events.append(pressed)
            if pressed.level == CRITICAL:
                self._children.relieve_idle()
                self._encoders.relieve_idle()

    def _hear_of_neighbour(self, kind: str, run: int, rank: int) -> None:
        if run != self.setup.number:
            return
        if kind == LOST:
            self._process_monitor.forget(rank)
            return
        state, reason = self._process_monitor.examine(rank, clock())
        if state != UNSEEN:
            self.transport.send(0, messages.process_status(run, rank, state != LIVES, reason))

    def run_own_calls(self) -> bool:
        """Run calls in this very thread, if any wait; whether there were any. Not under ``lock``.

        Looking for messages costs more than a short call: between calls, for a moment, only the machine is asked.
        """
        if self._own_serves:
            self._serve_encoded(self._own_serves.popleft())
            return True
        if not self._own_calls:
            return False
        if self.setup.store_factory is not None:  # which is user code, and is called between two calls
            self._run_burst()
            return True
        self.caller.begin()
        try:
            self._run_burst()
        finally:
            self.caller.finish()
        return True

    def _run_burst(self) -> None:
        end = clock() + _BURST_S
        while self._own_calls:
            work = self._own_calls.popleft()
            started = clock()
            if started >= end:
                self._own_calls.appendleft(work)
                break
            outcome = self._run_own_call(work)
            with self.lock:
                if outcome is not None:
                    self._end(work, outcome, started)
                events, self._events = self._events, []
                self._settle(events)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _run_own_call(self, work: QueuedCall) -> Outcome | None:
        """Run a call; None if an input is unavailable."""
        self.own_work = work
        self._begin_calling()
        try:
            spec = self._spec(work)
            return None if spec is None else self.caller.call(spec)
        finally:
            self.is_calling = False

    def _begin_calling(self) -> None:
        """Code of the user runs in this thread from now on, for any time: a progress thread looks after messages."""
        self.call_serial += 1
        self.is_calling = True
        if self.progress_thread is not None and self.progress_thread.is_parked:
            self.progress_thread.wake()

    def own_calls(self) -> list[tuple[int, int, int, float]]:
        """Return (task, attempt, rank, start) of the call that runs in this very process; from any thread."""
        work = self.own_work
        if work is None or not self.is_calling:
            return []
        return [(work.task, work.attempt, self.transport.rank, work.started)]

    @property
    def has_own_call(self) -> bool:
        return bool(self._own_calls or self._own_serves)

    @property
    def is_hasty(self) -> bool:
        """Whether a value is likely to come or go at once: sleeps would take longer than most transfers."""
        return clock() < self._hasty_until

    def sockets(self) -> list[Any]:
        """Return what becomes readable when a child speaks."""
        return [*self._children.sockets(), *self._encoders.sockets()]

    def update_resources(self, rank: int, amounts: dict[str, Any]) -> None:
        """Have rank 0 told, at the next turn; from any thread."""
        self._updates.append((rank, amounts))

    # -- calls --------------------------------------------------------------------------------------

    def _call(self, command: Call) -> None:
        work = command.work
        if work.is_ahead:
            return  # its child has it
        if self._children.is_for_child(work):
            self._children.call(work)
        else:
            self._own_calls.append(work)

    def _spec(self, work: QueuedCall) -> CallSpec | None:
        """Return all that a call needs; None if an input is unavailable after all."""
        values = self._inputs(work) if work.sources else ()
        if values is None:
            return None
        cores, gpus = work.claim
        return CallSpec(work.id, work.attempt, work.call_template, values, cores, gpus)

    def _inputs(self, work: QueuedCall) -> list[tuple[Payload, Any, int]] | None:
        """Gather a call's inputs; if one is unavailable after all, hand the work back, and return None."""
        values: list[tuple[Payload, Any, int]] = []
        for task, codec, payload, _ in work.sources:
            if payload is None and (task, codec) in work.fetched:
                payload, source = work.fetched[task, codec]
                values.append((payload, codec, source))
                continue
            if payload is None:
                payload = self._value(task)
                if payload is None:
                    self._events.append(InputMissing(work, task))
                    return None
            values.append((payload, codec, -1))
        return values

    def _end(self, work: QueuedCall, outcome: Outcome, started: float) -> None:
        payload = outcome.payload
        nbytes = 0 if payload is None else nbytes_of(payload)
        is_persisted = False
        goes_home = nbytes <= INLINE_RESULT_NBYTES and not work.flags & KEEP_REMOTE
        if payload is not None and not goes_home and self._values.sees_files:
            if work.flags & KEEP:
                problem = self._values.write(work.task, payload, nbytes)
                is_persisted = not problem
                if problem:
                    outcome = Outcome(RAISED, None, ErrorReport("OSError", f"its result {problem}"), outcome.duration)
            elif self._values.is_worth_writing(nbytes, outcome.duration):
                is_persisted = self._values.checkpoint(work.task, payload, nbytes)
        status, error = outcome.status, outcome.error
        ended = Ended(work, status, outcome.payload, nbytes, error, started, outcome.duration, is_persisted)
        self._events.append(ended)

    def _note(self, event: Event) -> None:
        self._events.append(event)

    def _kill(self, command: Kill) -> None:
        self._children.kill(command.slot)

    # -- values -------------------------------------------------------------------------------------

    def _send(self, command: Send) -> None:
        message = command.message
        kind, run, *fields = message
        if kind == FETCH:
            self._hasty_until = clock() + HASTE_S
            message = self._fetch(run, *fields)
        elif kind == BYE:
            self._end_output()
        self.transport.send(command.dest, message, command.buffers)

    def _fetch(
        self, run: int, request_id: int, task: int, codec: Any, codes: Any, via: int, limit_s: float | None
    ) -> Message:
        """Return the message with the code that encodes the value: the holder may never have seen it."""
        if codec is not None:
            serialize, _ = codec
            codes = [] if serialize is None else [(serialize, self.caller.blobs[serialize])]
        return messages.fetch(run, request_id, task, codec, codes, via, limit_s)

    def _end_output(self) -> None:
        """Rank 0 prints its summary once all have said goodbye: what functions have printed comes before it."""
        if self._output is not None and not self.is_calling:
            self._output.close()

    def _value(self, task: int) -> Payload | None:
        """Return a value that is held here or lies in a file; None if it is unavailable."""
        return self._values.get(task, task in self.machine.held)

    def _put(self, command: Put) -> None:
        self._hasty_until = clock() + HASTE_S
        self._values.put(command.task, command.payload)
        self._memory_monitor.came_in(nbytes_of(command.payload))

    def _drop(self, command: Drop) -> None:
        self._values.drop(command.task)

    def _spill(self, command: Spill) -> None:
        if self._memory_monitor.can_spill:  # the one before may have failed
            try:
                self._values.spill(command.task, command.nbytes)
                self._memory_monitor.spilled()
            except OSError as error:
                self._memory_monitor.give_up_spilling(error)

    def _learn(self, command: Learn) -> None:
        self.caller.learn(command.codes, command.constant)

    def _serve(self, command: Serve) -> None:
        if command.codec is None or command.codec[0] is None:
            payload = self._value(command.task)
            self._answer(command, None if payload is None else Outcome(OK, payload, None, 0.0))
        elif command.limit_s is not None or self.setup.isolation == "process":
            self._encoders.serve(command)
        else:
            self._own_serves.append(command)  # user code runs where calls run, never beside one

    def _answer(self, command: Serve, outcome: Outcome | None) -> None:
        """Send a value to a rank that asked for it; None if it is unavailable."""
        number = self.setup.number
        if outcome is None or outcome.payload is None:
            reason = None if outcome is None else (outcome.status, outcome.error)
            self.transport.send(command.dest, messages.not_found(number, command.request_id, reason))
        else:
            head, buffers = head_of(outcome.payload)
            self.transport.send(command.dest, messages.value(number, command.request_id, head), buffers)

    def _serve_encoded(self, command: Serve) -> None:
        with self.lock:
            payload = self._value(command.task)
        outcome = None
        if payload is not None:
            self.caller.learn(command.codes, None)
            self.own_work = None
            self._begin_calling()
            try:
                outcome = self.caller.encode(payload, command.codec, command.dest)
            finally:
                self.is_calling = False
        with self.lock:
            self._answer(command, outcome)

    def _leave(self, command: Leave) -> None:
        self.results = command.results
        self.has_left = True

    def close(self) -> None:
        """End the children, free the values, and break the reference cycles.

        Running children are killed: their results are not wanted any more.
        """
        self.transport.set_receive_allocator(fresh_memory)
        self.caller.close()
        self._children.close()
        self._encoders.close()
        if self._output is not None:
            self._output.close()
        self._values.close()
        self.machine.close()


#: A table of the class, not of each object: bound methods would be reference cycles.
_DO: dict[type, Callable[[WorkerDriver, Any], None]] = {
    Send: WorkerDriver._send,
    Call: WorkerDriver._call,
    Kill: WorkerDriver._kill,
    Serve: WorkerDriver._serve,
    Put: WorkerDriver._put,
    Drop: WorkerDriver._drop,
    Spill: WorkerDriver._spill,
    Learn: WorkerDriver._learn,
    Leave: WorkerDriver._leave,
}
