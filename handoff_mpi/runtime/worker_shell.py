"""The shell around a worker's machine: carries messages into it, calls out of it, and values between."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from handoff_mpi.comm import Envelope, RankGone, Transport, fresh_memory
from handoff_mpi.encoding import EncodingError, Payload, head_of, nbytes_of
from handoff_mpi.messages import (
    ABSENT,
    CRITICAL,
    DEATH,
    DIED,
    FETCH,
    FILES,
    HOME_NBYTES,
    ISOLATE,
    KEEP,
    LOOK,
    LOOKED,
    LOST,
    RAISED,
    RECALL,
    STAYS,
    UPDATE,
    VALUE,
)
from handoff_mpi.resources.memory import Gauge
from handoff_mpi.runtime.attendant import Attendant
from handoff_mpi.runtime.neighbours import LIVES, LOOK_S, UNSEEN, Neighbours, Stops, look_at
from handoff_mpi.runtime.pace import at, clock
from handoff_mpi.runtime.relief import Relief
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.values import RankValues
from handoff_mpi.worker.ahead import AHEAD_NBYTES, FEW_SENT, MOST_SENT, SentCalls
from handoff_mpi.worker.calls import Caller, CallSpec, Outcome, describe
from handoff_mpi.worker.events import (
    Begun,
    Call,
    Drop,
    Ended,
    Event,
    InputMissing,
    Kill,
    Learn,
    Leave,
    Put,
    Received,
    Send,
    Serve,
    Spill,
    Work,
)
from handoff_mpi.worker.machine import Worker
from handoff_mpi.worker.runners import Child, frame_ahead
from handoff_mpi.worker.shared import SHARED_NBYTES, allocate, mapped_nbytes, share
from handoff_mpi.worker.spares import Spares, close_all

# States of a process that has ended, and was not reaped yet.
_DEAD = frozenset({"Z", "X"})

#: A child that has not begun a call with a timeout this long after that is given up.
_PREPARE_LIMIT_S = 300.0
#: Calls follow one another for this long before messages are looked for.
_BURST_S = 0.0005
#: Whoever has asked for a value, or made one that stays, expects the answer, or to be asked, this soon.
HASTE_S = 0.003


def _memory_for_children(nbytes: int) -> tuple[Any, Any]:
    """Large values are received where children can map them, so that they are not copied once more for each call."""
    if nbytes >= SHARED_NBYTES:
        try:
            return allocate(nbytes)
        except OSError:
            pass  # then they are copied
    return fresh_memory(nbytes)


def _is_given_up(work: Work, now: float) -> bool:
    """Whether a child has had so long to begin a call that it never will."""
    return work.is_overdue and now - work.started >= (work.timeout_s or 0.0) + _PREPARE_LIMIT_S


class WorkerShell:
    """The shell around one rank's worker machine for one run.

    Args:
        spares: children of runs before, and for those after; None if the run's are all to end with it.
    """

    def __init__(self, transport: Transport, setup: RunSetup, spares: Spares | None = None) -> None:
        self.transport = transport
        self.setup = setup
        self._values = RankValues(transport.rank, setup)
        self.machine = Worker(
            transport.rank,
            setup.number,
            setup.slots,
            setup.heartbeat_s,
            setup.store_nbytes,
            setup.tells_transfers,
            reads_files=self._values.sees_files,
        )
        self.caller = Caller(transport.rank, setup.run)
        self.lock = threading.Lock()
        self.call_serial = 0
        self.is_calling = False
        self.attendant: Attendant | None = None
        self.results: Any = None
        self.has_left = False
        self._hasty_until = 0.0
        self._neighbours = Neighbours(transport.rank, setup.pids)
        self._stops = Stops()
        self._next_look = 0.0
        if setup.isolation != "rank" or setup.slots > 1:
            transport.receive_into(_memory_for_children)
        self._relief = self._make_relief()
        self._codes: dict[int, bytes] = {}
        self._constants: dict[int, Payload] = {}
        self._spares = spares
        self._children: list[Child | None] = [None] * setup.slots
        self._sent = [SentCalls() for _ in range(setup.slots)]  # to each child
        self._own_calls: deque[Work] = deque()
        self._own_serves: deque[Serve] = deque()
        self._events: list[Event] = []
        self._updates: deque[tuple[int, dict[str, Any]]] = deque()
        self._do = {
            Send: self._send,
            Call: self._call,
            Kill: self._kill,
            Serve: self._serve,
            Put: self._put,
            Drop: self._drop,
            Spill: self._spill,
            Learn: self._learn,
            Leave: self._leave,
        }

    def _make_relief(self) -> Relief:
        gauge = Gauge(self.setup.memory_nbytes, self.setup.ranks_here)
        return Relief(gauge, self.setup.ranks_here, self._pids_of_children, mapped_nbytes, self._values.can_spill)

    # -- a turn -------------------------------------------------------------------------------------

    def turn(self, arrived: Sequence[Envelope | RankGone] = ()) -> bool:
        """Take in what arrived and what children say, and do what the machine wants; whether anything was done.

        The caller holds ``lock`` if an attendant may be about.
        """
        if not arrived and self._has_nothing_to_do():
            return False
        if any(self._sent):
            self._look_at_children()
            if any(isinstance(each, Envelope) and each.message[0] == RECALL for each in arrived):
                self._take_back_calls()
            self._listen_to_children()
        events = self._take_events()
        for each in arrived:
            if isinstance(each, Envelope):
                if each.message[0] in (LOOK, LOST):
                    self._hear_of_neighbour(each.message)
                elif each.message[0] == FILES and each.message[1] == self.setup.number:
                    self._values.are_filed(each.message[2])
                events.append(Received(each.source, each.message, each.buffers))
        self._look_around(events)
        while self._updates:
            rank, amounts = self._updates.popleft()
            self.transport.send(0, (UPDATE, self.setup.number, rank, amounts))
        was_busy = bool(events)
        self._settle(events)
        return was_busy

    def _has_nothing_to_do(self) -> bool:
        """Whether a turn would come to nothing, as most do."""
        if self._events or self._updates or any(self._sent):
            return False
        now = clock()
        if now >= self._neighbours.next_look or now >= self._relief.next_look:
            return False
        return now < self.machine.next_wakeup()

    def _settle(self, events: list[Event]) -> None:
        """Tell the machine, do what it wants, and so on until nothing comes of it."""
        while True:
            for command in self.machine.handle(events, clock()):
                self._do[type(command)](command)  # type: ignore[operator]
            events = self._take_events()
            if not events:
                break
        for slot, sent in enumerate(self._sent):
            if sent and len(sent) <= FEW_SENT and not sent.has_void:
                self._send_ahead(slot, sent)

    def _look_around(self, events: list[Event]) -> None:
        now = clock()
        if now >= self._relief.next_look and (pressed := self._relief.look(now)) is not None:
            events.append(pressed)
            if pressed.level == CRITICAL:
                self._relieve_idle_children()
        lost = self._neighbours.look_around(now)
        if lost is not None:
            rank, reason = lost
            if rank == 0:
                raise ConnectionError(f"rank 0 is lost: {reason}")
            self.transport.send(0, (LOOKED, self.setup.number, rank, True, reason))

    def _look_at_children(self) -> None:
        """End a child that was stopped for long: its call would never end. Nor would that of one that is dead, if
        what it had forked holds its end of the socket, or that of one that never comes to begin it.
        """
        now = clock()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        for sent, child in zip(self._sent, self._children, strict=True):
            if sent and child is not None:
                state = look_at(child.pid)[0]
                if state in _DEAD:
                    child.bury()
                if sent.running is not None and _is_given_up(sent.running, now):
                    child.kill()
                stopped_s = self._stops.look(child.pid, state, now)
                if stopped_s is not None and stopped_s >= self._stops.limit_s:
                    child.kill(f"its process had been stopped for {stopped_s:.0f} s and was ended")

    def _hear_of_neighbour(self, message: tuple[Any, ...]) -> None:
        kind, run, rank = message
        if run != self.setup.number:
            return
        if kind == LOST:
            self._neighbours.forget(rank)
            return
        state, reason = self._neighbours.examine(rank, clock())
        if state != UNSEEN:
            self.transport.send(0, (LOOKED, run, rank, state != LIVES, reason))

    def run_own_calls(self) -> bool:
        """Run calls in this very thread, if any wait; whether there were any. Not under ``lock``.

        Looking for messages costs more than a short call: between calls, for a moment, only the machine is asked.
        """
        if self._own_serves:
            self._serve_encoded(self._own_serves.popleft())
            return True
        if not self._own_calls:
            return False
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
                self._settle(self._take_events())
        return True

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _run_own_call(self, work: Work) -> Outcome | None:
        """Run a call; None if an input was not to be had."""
        self.call_serial += 1
        self.is_calling = True
        if self.attendant is not None and self.attendant.is_parked:
            self.attendant.wake()
        try:
            spec = self._spec(work)
            return None if spec is None else self.caller.call(spec)
        finally:
            self.is_calling = False

    @property
    def has_own_call(self) -> bool:
        return bool(self._own_calls or self._own_serves)

    @property
    def is_hasty(self) -> bool:
        """Whether a value is likely to come or go at once: sleeps would take longer than most transfers."""
        return clock() < self._hasty_until

    def sockets(self) -> list[Any]:
        """Return what becomes readable when a child speaks."""
        return [child for child, sent in zip(self._children, self._sent, strict=True) if sent]

    def update_resources(self, rank: int, amounts: dict[str, Any]) -> None:
        """Have rank 0 told, at the next turn; from any thread."""
        self._updates.append((rank, amounts))

    # -- calls --------------------------------------------------------------------------------------

    def _call(self, command: Call) -> None:
        work = command.work
        if work.is_ahead:
            return  # its child has it
        if self._is_own(work):
            self._own_calls.append(work)
            return
        spec = self._spec(work)
        if spec is None:
            return
        try:
            child = self._child(work)
            child.call(spec)
            self._sent[work.slot].sent([work])
        except OSError as error:
            lost = self._children[work.slot]
            self._children[work.slot] = None
            self._sent[work.slot].lost()
            how = lost.how_it_died() if lost is not None else (f"no child process could be started: {error}", "")
            self._end(work, Outcome(DIED, None, (DEATH, *how), 0.0), clock())

    def _is_own(self, work: Work) -> bool:
        """Whether a call runs in the rank itself."""
        return self.setup.isolation == "rank" and work.slot == 0 and not work.flags & ISOLATE

    def _send_ahead(self, slot: int, sent: SentCalls) -> None:
        """Send a child the calls that come next, so that it need not wait for them."""
        frames: list[bytes] = []

        def suits(work: Work, before: Work) -> bool:
            frame = self._frame_ahead(work, before)
            if frame is not None:
                frames.append(frame)
            return frame is not None

        works = self.machine.send_ahead(slot, MOST_SENT - len(sent), suits)
        child = self._children[slot]
        if works and child is not None:
            sent.sent(works)
            try:
                child.call_ahead(frames)
            except OSError:
                pass  # it is gone, which is noticed when it is listened to

    def _frame_ahead(self, work: Work, before: Work) -> bytes | None:
        """Return a call as it is sent behind ``before``; None if it must be sent in its turn."""
        child = self._children[work.slot]
        codes, _, _, constants = work.recipe
        if child is None or self._is_own(work):
            return None
        if not (child.knows.issuperset(codes) and child.knows_constants.issuperset(constants)):
            return None
        values: list[Any] = []
        for task, codec, payload, _ in work.sources:
            if payload is None:
                payload = work.fetched.get((task, codec), (None,))[0]
            is_at_hand = task == before.task if payload is None else len(payload) == 2
            if codec is not None or not is_at_hand:
                return None
            values.append((payload, None, -1))
        cores, gpus = work.claim
        frame = frame_ahead(CallSpec(work.id, work.attempt, work.recipe, values, cores, gpus))
        return frame if len(frame) <= AHEAD_NBYTES else None

    def _child(self, work: Work) -> Child:
        """Return the slot's child, started if there is none, told all it needs for ``work``."""
        child = self._children[work.slot]
        if child is None:
            child = self._children[work.slot] = self._spare() or Child(
                self.transport.rank, self.setup.run, self.setup.setup
            )
        wanted = [number for number in work.recipe[0] if number not in child.knows]
        if wanted:
            child.learn([(number, self._codes[number]) for number in wanted])
        for number in work.recipe[3]:
            if number not in child.knows_constants:
                child.learn_constant(number, self._shared_constant(number))
        return child

    def _spare(self) -> Child | None:
        if self._spares is None or self.setup.setup is not None:
            return None
        return self._spares.take(self.setup.run)

    def _shared_constant(self, number: int) -> Payload:
        """Return a constant in memory that all children can map."""
        constant = self._constants[number] = share(self._constants[number])
        self.caller.learn((), (number, constant))
        return constant

    def _spec(self, work: Work) -> CallSpec | None:
        """Gather a call's inputs; if one is not to be had after all, hand the work back."""
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
        cores, gpus = work.claim
        return CallSpec(work.id, work.attempt, work.recipe, values, cores, gpus)

    def _end(self, work: Work, outcome: Outcome, started: float) -> None:
        nbytes = 0 if outcome.payload is None else nbytes_of(outcome.payload)
        is_persisted = False
        goes_home = nbytes <= HOME_NBYTES and not work.flags & STAYS
        if outcome.payload is not None and not goes_home and self._values.sees_files:
            must = bool(work.flags & KEEP)
            if must or self._values.is_worth_writing(nbytes, outcome.duration):
                problem = self._values.write(work.task, outcome.payload, nbytes)
                is_persisted = not problem
                if problem and must:
                    outcome = Outcome(RAISED, None, ("OSError", f"its result {problem}", ""), outcome.duration)
        status, error = outcome.status, outcome.error
        ended = Ended(work, status, outcome.payload, nbytes, error, started, outcome.duration, is_persisted)
        self._events.append(ended)

    def _kill(self, command: Kill) -> None:
        """End a call, and none that has begun since."""
        slot = command.slot
        work, child = self.machine.running[slot], self._children[slot]
        if child is not None and not child.is_preparing:  # else its call has not begun
            self._take_back(slot)
            self._listen_to(slot)
            if self._sent[slot].running is work:
                child.kill()

    def _relieve_idle_children(self) -> None:
        for slot, child in enumerate(self._children):
            if child is not None and not self._sent[slot]:
                child.give_back_freed_memory()
        if self._spares is not None:
            self._spares.close()

    def _pids_of_children(self) -> list[int]:
        spares = [] if self._spares is None else self._spares.pids()
        return [*(child.pid for child in self._children if child is not None), *spares]

    def _listen_to_children(self) -> None:
        for slot, sent in enumerate(self._sent):
            if sent:
                self._listen_to(slot)

    def _listen_to(self, slot: int) -> None:
        """Take in all that a child has said."""
        child, sent = self._children[slot], self._sent[slot]
        try:
            while sent and child is not None and (frame := child.poll()) is not None:
                kind = frame[0][0]
                if kind == "ended":
                    self._child_ended(sent.ended(), *frame)
                elif kind == "void":
                    self._send_again(slot, sent.voided())
                elif kind == "begun":
                    assert sent.running is not None
                    self._events.append(Begun(sent.running))
                else:
                    self._updates.append((frame[0][1], frame[0][2]))
        except EOFError:
            self._child_died(slot)

    def _child_ended(self, work: Work | None, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        assert work is not None, "what is void does not run"
        _, status, head, error, began, duration = message
        payload = None if head is None else (*head, *buffers)
        self._end(work, Outcome(status, payload, error, duration), at(began))

    def _child_died(self, slot: int) -> None:
        """The call that ran has come to nothing; those sent ahead are sent to another child."""
        child, sent = self._children[slot], self._sent[slot]
        assert child is not None
        self._children[slot] = None
        work = sent.running
        sent.lost()
        if work is not None:
            started = work.started or clock()  # the machine does not know yet that the call before has ended
            self._end(work, Outcome(DIED, None, (DEATH, *child.how_it_died()), clock() - started), started)

    def _take_back_calls(self) -> None:
        """Calls are recalled: those sent ahead can be given back if they have not begun."""
        for slot, sent in enumerate(self._sent):
            if sent:
                self._take_back(slot)

    def _take_back(self, slot: int) -> None:
        """Keep what was sent ahead from beginning, unless it has begun."""
        child, sent = self._children[slot], self._sent[slot]
        if child is not None and len(sent) > 1 and not sent.has_void:
            self._send_again(slot, sent.taken_back(child.take_back()))

    def _send_again(self, slot: int, void: Sequence[Work]) -> None:
        """The child will not run these: if it is one's turn it is sent anew; so are the others when it is theirs."""
        running = self.machine.running[slot]
        if running is not None and running in void:
            self._call(Call(running))

    # -- values -------------------------------------------------------------------------------------

    def _send(self, command: Send) -> None:
        message = command.message
        if message[0] == FETCH:
            self._hasty_until = clock() + HASTE_S
        if message[0] == FETCH and message[4] is not None:
            # The holder encodes for us, and may never have seen the code that does it.
            serialize = message[4][0]
            codes = [] if serialize is None else [(serialize, self._codes[serialize])]
            message = (*message[:5], codes, message[6])
        self.transport.send(command.dest, message, command.buffers)

    def _value(self, task: int) -> Payload | None:
        """Return a value that is held here or lies in a file; None if it is not to be had."""
        return self._values.get(task, task in self.machine.held)

    def _put(self, command: Put) -> None:
        self._hasty_until = clock() + HASTE_S
        self._values.put(command.task, command.payload)
        self._relief.came_in(nbytes_of(command.payload))

    def _drop(self, command: Drop) -> None:
        self._values.drop(command.task)

    def _spill(self, command: Spill) -> None:
        if self._relief.can_spill:  # the one before may have failed
            try:
                self._values.spill(command.task, command.nbytes)
                self._relief.spilled()
            except OSError as error:
                self._relief.give_up_spilling(error)

    def _learn(self, command: Learn) -> None:
        self._codes.update(command.codes)
        self.caller.learn(command.codes, command.constant)
        if command.constant is not None:
            self._constants[command.constant[0]] = command.constant[1]

    def _serve(self, command: Serve) -> None:
        if command.codec is not None:
            self._own_serves.append(command)  # user code runs where calls run, never beside one
            return
        payload = self._value(command.task)
        if payload is None:
            self.transport.send(command.dest, (ABSENT, self.setup.number, command.ticket, None))
            return
        self._send_value(command, payload)

    def _send_value(self, command: Serve, payload: Payload) -> None:
        head, buffers = head_of(payload)
        self.transport.send(command.dest, (VALUE, self.setup.number, command.ticket, head), buffers)

    def _serve_encoded(self, command: Serve) -> None:
        with self.lock:
            payload = self._value(command.task)
        error = None
        try:
            if payload is not None:
                self.caller.learn(command.codes, None)
                payload = self.caller.encode_for(payload, command.codec, command.dest)
        except EncodingError as problem:
            error = describe(problem)
        except BaseException as problem:
            error = describe(problem)
        with self.lock:
            if payload is None or error is not None:
                self.transport.send(command.dest, (ABSENT, self.setup.number, command.ticket, error))
            else:
                self._send_value(command, payload)

    def _leave(self, command: Leave) -> None:
        self.results = command.results
        self.has_left = True

    def close(self) -> None:
        """End the children; running ones are killed, their results are not wanted any more."""
        self.transport.receive_into(fresh_memory)
        for child in self.sockets():
            child.kill()
        busy = [child for child, sent in zip(self._children, self._sent, strict=True) if child is not None and sent]
        idle = [child for child, sent in zip(self._children, self._sent, strict=True) if child is not None and not sent]
        close_all([*busy, *(idle if self._spares is None else self._spares.keep(idle))])
        self._children = [None] * len(self._children)
        self._sent = [SentCalls() for _ in self._children]
        self._values.close()
