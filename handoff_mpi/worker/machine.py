"""The state machine of a worker rank: it receives events, and returns the commands for its driver to execute.

Pure, like the scheduler: it knows which values the rank holds, never the values. Drivers carry out its commands, over
MPI or over a simulated network. Which values are held is kept in :mod:`handoff_mpi.worker.held_values`, which are on
their way here in :mod:`handoff_mpi.worker.fetching`, what calls wait for in :mod:`handoff_mpi.worker.inputs`, and the
calls themselves in :mod:`handoff_mpi.worker.slots`; here it is decided when a call begins and what its end means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from handoff_mpi import messages
from handoff_mpi.messages import (
    CONSTANT,
    CRITICAL,
    DISPATCH,
    FETCH,
    FREE_VALUES,
    INLINE_RESULT_NBYTES,
    ISOLATE,
    KEEP_REMOTE,
    LOST,
    NORMAL,
    NOT_FOUND,
    OK,
    REDIRECT,
    RETRACT,
    STOP,
    VALUE,
    Attempt,
    Buffers,
    Entry,
    Group,
    Message,
)
from handoff_mpi.serialization import Payload, nbytes_of
from handoff_mpi.worker.broadcast_tree import FAN_OUT, REFERRED_NBYTES, BroadcastTree
from handoff_mpi.worker.budget import UNLIMITED_NBYTES, counted_nbytes
from handoff_mpi.worker.call_clock import CallClock, failure_of
from handoff_mpi.worker.events import (
    Begun,
    Command,
    ElementBegun,
    Ended,
    Event,
    InputMissing,
    Learn,
    Leave,
    PartEnded,
    Pressed,
    QueuedCall,
    Received,
    StopLease,
)
from handoff_mpi.worker.fetching import Fetches
from handoff_mpi.worker.held_values import HeldValues
from handoff_mpi.worker.inputs import Inputs
from handoff_mpi.worker.outbox import REPORT_DELAY_S, Outbox
from handoff_mpi.worker.slots import Slots
from handoff_mpi.worker.spilling import PORTION_COUNT, PORTION_NBYTES

#: An idle rank of a run that stays open gives a sign of life at least this often.
MAX_IDLE_HEARTBEAT_S = 3600.0


class Worker:
    """The state of one rank in one run.

    Args:
        rank: its own.
        run: number of the run, part of every message.
        slots: how many calls it runs at once.
        heartbeat_s: a sign of life goes out at least this often.
        store_nbytes: values that no call here needs are dropped once the store holds more than this.
        cache_nbytes: values that no call in the job needs are dropped once they take more than this.
        tells_transfers: whether rank 0 receives a report of each fetched value.
        reads_files: whether the rank sees the files where values were written; else rank 0 is asked for those.
        fan_out: see :class:`~handoff_mpi.worker.broadcast_tree.BroadcastTree`.
        referred_nbytes: smaller values are sent to each rank that asks.
        stays_open: whether rank 0 may take no messages for hours: while it sends none and nothing runs here, signs of
            life become ever rarer, so that they do not gather there.

    Attributes:
        slots: its calls.
        held: the values it holds, and their sizes in bytes.
        spilled: those of them that are not in memory.
        is_short: whether it is too short of memory for new tasks, as it reported to rank 0.
        budget: how many bytes may still come into memory; it receives what the driver has measured.
    """

    def __init__(
        self,
        rank: int,
        run: int,
        slots: int,
        heartbeat_s: float = 15.0,
        store_nbytes: int = UNLIMITED_NBYTES,
        cache_nbytes: int = UNLIMITED_NBYTES,
        tells_transfers: bool = False,
        reads_files: bool = True,
        fan_out: int = FAN_OUT,
        referred_nbytes: int = REFERRED_NBYTES,
        stays_open: bool = False,
    ) -> None:
        self.rank = rank
        self.run = run
        self._usual_heartbeat_s = self.heartbeat_s = heartbeat_s
        self._stays_open = stays_open
        self.reads_files = reads_files
        self.slots = Slots(slots)
        self.running, self.queues = self.slots.running, self.slots.queues
        self.is_short = False
        self.is_over = False
        self._outbox = outbox = Outbox(run)
        broadcast_tree = BroadcastTree(fan_out)
        self._held_values = held_values = HeldValues(
            outbox, broadcast_tree, store_nbytes, cache_nbytes, self.running, self.queues
        )
        self.budget = held_values.budget
        self.held = held_values.held
        self.spilled = held_values.spilled
        self._fetches = Fetches(rank, run, outbox, held_values, broadcast_tree, referred_nbytes, tells_transfers)
        self._inputs = Inputs(rank, run, outbox, self.slots, held_values, self._fetches, reads_files)
        self._clock = CallClock(run, outbox, self.running)
        self._on: dict[str, Callable[..., None]] = {
            DISPATCH: self._on_dispatch,
            CONSTANT: self._on_constant,
            RETRACT: self._on_retract,
            FREE_VALUES: self._on_free_values,
            LOST: self._on_lost,
            STOP: self._on_stop,
            FETCH: self._fetches.on_fetch,
            VALUE: self._on_value,
            NOT_FOUND: self._on_not_found,
            REDIRECT: self._on_redirect,
        }

    def close(self) -> None:
        """Break the reference cycles, so that the run's tables are freed at once; what still arrives is passed over."""
        self._on.clear()

    def handle(self, events: Sequence[Event], now: float) -> list[Command]:
        """Absorb ``events`` at time ``now`` (seconds) and return what to do, in order."""
        outbox = self._outbox
        outbox.now = now
        if len(events) == 1 and type(events[0]) is Ended:
            following = self._follow(events[0])
            if following is not None:
                return [following]
        for event in events:
            kind = type(event)
            if kind is Ended:
                self._on_ended(event)  # type: ignore[arg-type]
            elif kind is Received:
                self._on_received(event)  # type: ignore[arg-type]
            elif kind is Pressed:
                self._on_pressed(event)  # type: ignore[arg-type]
            elif kind is Begun:
                self._clock.on_begun(event)  # type: ignore[arg-type]
            elif kind is PartEnded:
                self._on_part_ended(event)  # type: ignore[arg-type]
            elif kind is ElementBegun:
                self._clock.on_element_begun(event)  # type: ignore[arg-type]
            else:
                self._on_input_missing(event)  # type: ignore[arg-type]
        if now >= self._clock.next_look:
            self._clock.look()
        if self._fetches.doubts:
            self._fetches.look_at_referrals()
        if now >= self._fetches.next_report:
            self._fetches.report_encodings()
        if self._fetches.deferred:
            self._inputs.give_up(self._fetches.resume())
        if outbox.done and (outbox.is_due(now) or None in self.running):
            outbox.flush()
        if now - outbox.last_told >= self.heartbeat_s and not self.is_over:
            outbox.tell(messages.heartbeat(self.run))
            if self._stays_open and not any(self.running):
                self.heartbeat_s = min(2 * self.heartbeat_s, max(self.heartbeat_s, MAX_IDLE_HEARTBEAT_S))
        return outbox.take()

    def next_wakeup(self) -> float:
        """Return the time at which :meth:`handle` must be called again even if nothing happens."""
        wakeup = min(self._outbox.last_told + self.heartbeat_s, self._fetches.next_report)
        if any(self.running):
            wakeup = min(wakeup, self._clock.next_look)
        if self._outbox.done:
            wakeup = min(wakeup, self._outbox.flush_by)
        if self._fetches.doubts:
            wakeup = min(wakeup, *self._fetches.doubts.values())
        return wakeup

    # -- messages -----------------------------------------------------------------------------------

    def _on_received(self, event: Received) -> None:
        buffers = event.buffers
        if buffers and self.budget.arriving_nbytes:
            self.budget.arrived(sum(counted_nbytes(memoryview(each).nbytes) for each in buffers))
        kind, run, *fields = event.message
        self.heartbeat_s = self._usual_heartbeat_s
        if run == self.run and not self.is_over:
            handler = self._on.get(kind)
            if handler is None:
                return
            if buffers:
                handler(event.source, *fields, buffers)
            else:
                handler(event.source, *fields)

    def _on_dispatch(self, source: int, codes: Sequence[tuple[int, bytes]], groups: Sequence[Group]) -> None:
        if codes:
            self._outbox.commands.append(Learn(codes))
        slots, inputs = self.slots, self._inputs
        here, incomplete = slots.here, []
        for slot, claim, assignments in groups:
            if slot >= len(slots.queues):
                slots.grow(slot + 1)
            if claim is not None:
                slots.claims[slot] = claim
            queue, claim = slots.queues[slot], slots.claims[slot]
            for task, attempt, id, call_template, sources, timeout_s, flags, elements in assignments:
                known = here.get(task)
                if known is not None and known.attempt >= attempt:
                    continue  # a duplicate
                work = QueuedCall(task, attempt, id, call_template, sources, timeout_s, flags, slot, claim)
                here[task] = work
                queue.append(work)
                if elements is not None:
                    work.elements = elements
                    inputs.follow_lease(work)
                if sources:
                    work.fetched, work.wants = {}, []
                _, _, _, constants, *_ = call_template
                if (sources or constants) and not inputs.want_held(work, constants):
                    incomplete.append(work)
        # A value that is fetched takes room: by then all that is wanted of what is here must be known.
        for work in incomplete:
            inputs.want_missing(work)
        for slot, _, _ in groups:
            if self.running[slot] is None:
                self._run_next(slot)

    def _on_constant(self, source: int, number: int, head: Message, buffers: Buffers = ()) -> None:
        payload = (*head, *buffers)
        self.budget.take(nbytes_of(payload))
        self._outbox.commands.append(Learn(constant=(number, payload)))
        self._have_come(self._inputs.constant_has_come(number))

    def _on_retract(self, source: int, attempts: Sequence[Attempt]) -> None:
        wanted = set(map(tuple, attempts))
        waiting = [work for queue in self.queues for work in queue if not work.is_ahead]  # else it may have begun
        self._inputs.give_back([work for work in waiting if (work.task, work.attempt) in wanted])
        self._stop_leases(work for work in self.running if work is not None and (work.task, work.attempt) in wanted)

    def _on_free_values(self, source: int, tasks: Sequence[int]) -> None:
        self._held_values.forget(tasks)

    def _on_stop(self, source: int, results: Payload | None) -> None:
        self.is_over = True
        self._stop_leases(self.running)
        self._outbox.tell(messages.bye(self.run))
        self._outbox.commands.append(Leave(results))

    def _on_value(self, source: int, request_id: int, head: Message, buffers: Buffers = ()) -> None:
        works = self._inputs.value_has_come(source, request_id, head, buffers)
        if works is not None:
            self._have_come(works)
            self._held_values.make_room()
            self._held_values.reserve()

    def _on_not_found(self, source: int, request_id: int, reason: tuple[int, Message] | None) -> None:
        self._inputs.not_found(request_id, reason)

    def _on_redirect(self, source: int, request_id: int, rank: int, nbytes: int) -> None:
        self._inputs.give_up(self._fetches.on_redirect(source, request_id, rank, nbytes))

    def _on_lost(self, source: int, rank: int) -> None:
        self._inputs.give_up(self._fetches.lose(rank))

    def _have_come(self, works: Iterable[QueuedCall]) -> None:
        """One of the inputs that each of ``works`` waits for is here."""
        for work in works:
            work.waiting -= 1
            if not work.waiting and self.running[work.slot] is None:
                self._run_next(work.slot)

    # -- calls --------------------------------------------------------------------------------------

    def _run_next(self, slot: int) -> None:
        work = self.slots.take_next(slot)
        if work is None:
            return
        self._clock.begins(work)
        if self.budget.largest_nbytes:
            self._reserve_for_call(work)
        self._outbox.commands.append(work)

    def _reserve_for_call(self, work: QueuedCall) -> None:
        """Have room, before a call begins, for its result, and for inputs that are read from files or copied."""
        is_copied = bool(work.flags & ISOLATE)
        held, spilled = self.held, self.spilled
        copied = sum(held.get(task, 0) for task in work.wants if is_copied or task in spilled)
        self.budget.begin(work, copied)
        self._held_values.reserve()

    def _on_part_ended(self, event: PartEnded) -> None:
        work = event.work
        if self.running[work.slot] is work and not self.is_over:
            work.columns += (event.report.column,) if work.task in self.slots.followers else ()
            self._outbox.tell(messages.elements(self.run, work.task, work.attempt, event.report))

    def _stop_leases(self, works: Iterable[QueuedCall | None]) -> None:
        """Have the leases among running calls stop at the next element."""
        for work in works:
            if work is not None and work.elements is not None and not work.is_stopping:
                work.is_stopping = True
                self._outbox.commands.append(StopLease(work))

    def _on_ended(self, event: Ended) -> None:
        work, outcome = event.work, event.outcome
        slot = work.slot
        if self.running[slot] is not work:
            return
        self._stop_running(work)
        status, payload, report, nbytes = outcome.status, outcome.payload, outcome.report, event.nbytes
        started, duration = event.started, outcome.duration
        is_inline = True
        entry: Entry
        if status != OK:
            entry = (work.task, work.attempt, *failure_of(work, outcome), 0, started, duration, False)
        elif report is not None:
            entry = (work.task, work.attempt, OK, report, nbytes, started, duration, False)
        elif nbytes <= INLINE_RESULT_NBYTES and not work.flags & KEEP_REMOTE:
            assert payload is not None
            entry = (work.task, work.attempt, OK, payload, nbytes, started, duration, False)
            self.slots.latest[slot] = (work.task, payload)
        else:
            is_inline = False
            self._keep(work, payload, nbytes)
            entry = (work.task, work.attempt, OK, None, nbytes, started, duration, event.is_persisted)
        self._outbox.note(entry)
        if report is not None and duration >= REPORT_DELAY_S:
            self._outbox.hurry()  # rank 0 has sent but one more, and may have none behind it
        if work.task in self.slots.followers:
            if payload is not None:
                self._have_come(self._inputs.supply(work, payload))
            elif report is not None:
                self._outbox.hurry()  # rank 0 must have these values should this rank die in what takes them
                self._have_come(self._inputs.supply_elements(work, outcome.column or report.column))
            else:
                self._inputs.leave_followers(work.task)
        if not is_inline:
            self._held_values.reserve()
        if self.running[slot] is None:
            self._run_next(slot)

    def _follow(self, event: Ended) -> QueuedCall | None:
        """End a call, and begin the next of its slot; None, with nothing done, if that is not all that is to be done.

        Most short calls follow one another so. It does the same as the rest of the turn would, in a third of the time.
        """
        work, outcome, outbox, now = event.work, event.outcome, self._outbox, self._outbox.now
        task, slot, payload, done = work.task, work.slot, outcome.payload, outbox.done
        queue = self.queues[slot]
        if (
            not (queue and done)
            or self.slots.followers.get(task, []) != [queue[0]] * queue[0].waiting
            or self.running[slot] is not work
            or payload is None
            or event.nbytes > INLINE_RESULT_NBYTES
            or work.flags & KEEP_REMOTE
            or self.held
            or self.budget.largest_nbytes
            or now >= self._clock.next_look
            or self._fetches.awaited
            or outbox.is_due(now, 1)
            or now - outbox.last_told >= self.heartbeat_s
            or None in self.running
        ):
            return None
        done.append((task, work.attempt, OK, payload, event.nbytes, event.started, outcome.duration, False))
        self.slots.latest[slot] = (task, payload)
        self.slots.leave(work)
        following = self.running[slot] = queue.popleft()
        if following.waiting:
            self._inputs.supply(work, payload)
            following.waiting = 0
        self._clock.begins(following)
        return following

    def _keep(self, work: QueuedCall, payload: Payload | None, nbytes: int) -> None:
        """The value of ``work`` stays here."""
        assert payload is not None
        if nbytes > INLINE_RESULT_NBYTES:
            self.budget.learn(work, nbytes)
        self._held_values.put(work.task, payload, nbytes)

    def _stop_running(self, work: QueuedCall) -> None:
        self.running[work.slot] = None
        if work.promised_nbytes:
            self.budget.end(work)
        self.slots.leave(work)
        if work.sources:
            self._held_values.unwant(work)

    def _on_input_missing(self, event: InputMissing) -> None:
        work = event.work
        if self.running[work.slot] is work:
            self._stop_running(work)
            # Where files cannot be seen it was a copy, though another call may have found before that it is lost.
            is_copy = (
                not self.reads_files
                or event.task in self.held
                or any(holders for task, _, _, holders in work.sources if task == event.task)
            )
            self._held_values.drop(event.task)
            asked = [self.rank] if is_copy else []  # none asked: the file itself cannot be read
            missing = [(event.task, asked)]
            self._outbox.tell(messages.input_unavailable(self.run, work.task, work.attempt, missing))
            self._inputs.leave_followers(work.task)
            self._run_next(work.slot)

    # -- memory -------------------------------------------------------------------------------------

    def _on_pressed(self, event: Pressed) -> None:
        """Memory is short: drop what nobody needs, have moved out what is needed later; at the worst tell rank 0."""
        if self.is_over:
            return
        if self.is_short != (event.level == CRITICAL):
            self.is_short = event.level == CRITICAL
            self._outbox.tell(messages.memory(self.run, self.is_short, event.words))
            if self.is_short:
                self._stop_leases(self.running)
        if event.level == NORMAL:
            return
        excess = event.excess_nbytes - self._held_values.drop_unneeded()
        if event.can_spill and excess > 0:
            self._held_values.spill(min(excess, PORTION_NBYTES), PORTION_COUNT)

    def expect(self, nbytes: int) -> list[Command]:
        """A buffer of ``nbytes`` is about to come: return what to do before memory is set aside for it."""
        nbytes = counted_nbytes(nbytes)
        if nbytes and not self.is_over:
            self._held_values.reserve(nbytes)
            self.budget.expect(nbytes)
        return self._outbox.take()
