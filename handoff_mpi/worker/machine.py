"""The state machine of a worker rank: it receives events, and returns the commands for its driver to execute.

Pure, like the scheduler: it knows which values the rank holds, never the values; the shell
(:mod:`handoff_mpi.runtime.worker_loop`) carries out its commands over MPI, the simulated cluster over deques. Which
values are held is kept in :mod:`handoff_mpi.worker.held_values`, which are on their way here in
:mod:`handoff_mpi.worker.fetching`; here are the calls, and what waits for one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from handoff_mpi.messages import (
    BYE,
    CONSTANT,
    CRITICAL,
    DIED,
    DISPATCH,
    FETCH,
    FREE_VALUES,
    HEARTBEAT,
    INLINE_RESULT_NBYTES,
    INPUT_UNAVAILABLE,
    ISOLATE,
    KEEP_REMOTE,
    LOST,
    MEMORY,
    NORMAL,
    NOT_FOUND,
    OK,
    REDIRECT,
    RETRACT,
    RETRACTED,
    STOP,
    TIMED_OUT,
    TIMEOUT,
    VALUE,
    Entry,
    ErrorReport,
)
from handoff_mpi.serialization import Payload, nbytes_of
from handoff_mpi.worker.broadcast_tree import FAN_OUT, REFERRED_NBYTES, BroadcastTree
from handoff_mpi.worker.budget import UNLIMITED_NBYTES, counted_nbytes
from handoff_mpi.worker.events import (
    Begun,
    Call,
    Command,
    Ended,
    Event,
    InputMissing,
    Kill,
    Learn,
    Leave,
    Pressed,
    QueuedCall,
    Received,
)
from handoff_mpi.worker.fetching import Fetch, Fetches
from handoff_mpi.worker.held_values import HeldValues
from handoff_mpi.worker.outbox import Outbox
from handoff_mpi.worker.spilling import PORTION_COUNT, PORTION_NBYTES

#: Calls that run longer than this are reported while they run.
LONG_CALL_S = 0.1


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

    Attributes:
        held: the values it holds, and their sizes in bytes.
        spilled: those of them that are not in memory.
        is_short: whether it is too short of memory for new tasks, as it reported to rank 0.
        budget: how many bytes may still come into memory; the shell tells it what it has measured.
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
    ) -> None:
        self.rank = rank
        self.run = run
        self.heartbeat_s = heartbeat_s
        self.reads_files = reads_files
        self.running: list[QueuedCall | None] = [None] * slots
        self.queues: list[deque[QueuedCall]] = [deque() for _ in range(slots)]
        self.claims: list[Any] = [None] * slots
        self._here: dict[int, QueuedCall] = {}  # what waits or runs, by task: the latest attempt
        self._followers: dict[int, list[QueuedCall]] = {}  # what waits for the value of a task that is here
        self._latest: list[tuple[int, Payload] | None] = [None] * slots  # the value that each slot sent home last
        self.is_short = False
        self.is_over = False
        self._constants: set[int] = set()
        self._waiting_for_constant: dict[int, list[QueuedCall]] = {}
        self._outbox = outbox = Outbox(run)
        broadcast_tree = BroadcastTree(fan_out)
        self._held_values = held_values = HeldValues(
            outbox, broadcast_tree, store_nbytes, cache_nbytes, self.running, self.queues
        )
        self.budget = held_values.budget
        self.held = held_values.held
        self.spilled = held_values.spilled
        self._fetches = Fetches(rank, run, outbox, held_values, broadcast_tree, referred_nbytes, tells_transfers)
        self._next_look = math.inf  # no running call is to be reported or ended before this
        self._on = {
            DISPATCH: self._on_dispatch,
            CONSTANT: self._on_constant,
            RETRACT: self._on_recall,
            FREE_VALUES: self._on_forget,
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

    def handle(self, events: Iterable[Event], now: float) -> list[Command]:
        """Absorb ``events`` at time ``now`` (seconds) and return what to do, in order."""
        outbox = self._outbox
        outbox.now = now
        for event in events:
            kind = type(event)
            if kind is Ended:
                self._on_ended(event)  # type: ignore[arg-type]
            elif kind is Received:
                self._on_received(event)  # type: ignore[arg-type]
            elif kind is Pressed:
                self._on_pressed(event)  # type: ignore[arg-type]
            elif kind is Begun:
                self._on_begun(event)  # type: ignore[arg-type]
            else:
                self._on_input_missing(event)  # type: ignore[arg-type]
        if now >= self._next_look:
            self._look_at_clock()
        if self._fetches.doubts:
            self._fetches.look_at_referrals()
        if now >= self._fetches.next_report:
            self._fetches.report_encodings()
        if self._fetches.deferred:
            self._give_up(self._fetches.resume())
        if outbox.done and (outbox.is_due(now) or None in self.running):
            outbox.flush()
        if now - outbox.last_told >= self.heartbeat_s and not self.is_over:
            outbox.tell((HEARTBEAT, self.run, []))
        return outbox.take()

    def next_wakeup(self) -> float:
        """Return the time at which :meth:`handle` must be called again even if nothing happens."""
        wakeup = min(self._outbox.last_told + self.heartbeat_s, self._fetches.next_report)
        if any(self.running):
            wakeup = min(wakeup, self._next_look)
        if self._outbox.done:
            wakeup = min(wakeup, self._outbox.flush_by)
        if self._fetches.doubts:
            wakeup = min(wakeup, *self._fetches.doubts.values())
        return wakeup

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not any(self.running) and not any(self.queues)

    # -- messages -----------------------------------------------------------------------------------

    def _on_received(self, event: Received) -> None:
        message = event.message
        if event.buffers and self.budget.arriving_nbytes:
            self.budget.arrived(sum(counted_nbytes(memoryview(each).nbytes) for each in event.buffers))
        if message[1] == self.run and not self.is_over:
            handler = self._on.get(message[0])
            if handler is not None:
                handler(event.source, message, event.buffers)

    def _on_dispatch(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        _, _, codes, groups = message
        if codes:
            self._outbox.commands.append(Learn(codes))
        incomplete = []
        for slot, claim, assignments in groups:
            if slot >= len(self.queues):
                self._add_slots(slot + 1)
            if claim is not None:
                self.claims[slot] = claim
            queue = self.queues[slot]
            for task, attempt, id, call_template, sources, timeout_s, flags in assignments:
                here = self._here.get(task)
                if here is not None and here.attempt >= attempt:
                    continue  # a duplicate
                work = QueuedCall(task, attempt, id, call_template, sources, timeout_s, flags, slot, self.claims[slot])
                self._here[task] = work
                queue.append(work)
                if sources:
                    work.fetched, work.wants = {}, []
                if (sources or call_template[3]) and not self._want_held(work):
                    incomplete.append(work)
        # A value that is fetched takes room: by then all that is wanted of what is here must be known.
        for work in incomplete:
            self._want_missing(work)
        for slot, _, _ in groups:
            if self.running[slot] is None:
                self._run_next(slot)

    def _add_slots(self, slots: int) -> None:
        """Rank 0 uses more slots of this rank than before: its resources have grown."""
        more = slots - len(self.queues)
        self.running += [None] * more
        self.queues += [deque() for _ in range(more)]
        self.claims += [None] * more
        self._latest += [None] * more

    def _on_constant(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        number, head = message[2], message[3]
        constant = (*head, *buffers)
        self.budget.take(nbytes_of(constant))
        self._outbox.commands.append(Learn(constant=(number, constant)))
        self._constants.add(number)
        for work in self._waiting_for_constant.pop(number, ()):
            self._arrived(work)

    def _on_recall(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        wanted = set(map(tuple, message[2]))
        waiting = [work for queue in self.queues for work in queue if not work.is_ahead]  # else it may have begun
        self._return([work for work in waiting if (work.task, work.attempt) in wanted])

    def _return(self, works: list[QueuedCall]) -> None:
        """Give back what waits, and what waits for its values."""
        returned = []
        for work in works:
            if work.is_here:
                self.queues[work.slot].remove(work)
                self._abandon(work)
                returned.append((work.task, work.attempt))
                works += self._followers.pop(work.task, ())
        if returned:
            self._outbox.tell((RETRACTED, self.run, returned))

    def _on_forget(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        self._held_values.forget(message[2])

    def _on_stop(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        self.is_over = True
        self._outbox.tell((BYE, self.run))
        self._outbox.commands.append(Leave(message[2]))

    # -- inputs -------------------------------------------------------------------------------------

    def _want_held(self, work: QueuedCall) -> bool:
        """Want the constants of ``work`` and its inputs that are held; return whether those are all its inputs."""
        for number in work.call_template[3]:
            if number not in self._constants:
                work.waiting += 1
                self._waiting_for_constant.setdefault(number, []).append(work)
        is_complete = True
        for task, _, payload, _ in work.sources:
            if payload is not None:
                continue
            if task in self.held:
                self._held_values.want(work, task)
            else:
                is_complete = False
        return is_complete

    def _want_missing(self, work: QueuedCall) -> None:
        """Ask for the inputs of ``work`` that are not held, or wait for those that are made here."""
        for task, codec, payload, holders in work.sources:
            if payload is not None or task in self.held:
                continue
            if not work.is_here:
                return  # handed back: an earlier input is unavailable
            if holders == (self.rank,):
                self._follow(work, task, codec)
            elif holders:
                self._fetch(work, task, codec, holders)
            elif not self.reads_files:
                self._fetch(work, task, None, (0,))

    def _fetch(self, work: QueuedCall, task: int, codec: Any, holders: Sequence[int]) -> None:
        work.waiting += 1
        self._give_up(self._fetches.join(work, task, codec, holders))

    def _follow(self, work: QueuedCall, task: int, codec: Any) -> None:
        """``work`` takes a value that is made here: it may wait for it, or come too late for it."""
        latest = self._latest[work.slot]
        if task in self._here:
            followers = self._followers.setdefault(task, [])
            if work not in followers:
                work.waiting += 1
                followers.append(work)
        elif latest is not None and latest[0] == task:
            work.fetched[task, codec] = (latest[1], -1)
        else:
            self._hand_back(work, task, (self.rank,))

    def _supply(self, maker: QueuedCall, payload: Payload) -> None:
        """``maker`` has ended well: what waits for its value may run."""
        for work in self._followers.pop(maker.task):
            if not work.is_here:
                continue
            for task, codec, _, _ in work.sources:
                if task == maker.task and task in self.held:
                    self._held_values.want(work, task)
                elif task == maker.task:
                    work.fetched[task, codec] = (payload, -1)
            self._arrived(work)

    def _leave_followers(self, task: int) -> None:
        """``task`` has failed here: calls that wait for its value go back, once rank 0 knows why."""
        followers = self._followers.pop(task, None)
        if followers:
            if self._outbox.done:
                self._outbox.flush()
            self._return(followers)

    def _give_up(self, fetches: Iterable[Fetch]) -> None:
        """These have failed: hand back the calls that wait for them."""
        for fetch in fetches:
            for work in fetch.works:
                self._hand_back(work, fetch.task, fetch.asked or [self.rank])

    def _hand_back(self, work: QueuedCall, task: int, asked: Sequence[int]) -> None:
        if work in self.queues[work.slot]:
            self.queues[work.slot].remove(work)
            self._abandon(work)
            self._outbox.tell((INPUT_UNAVAILABLE, self.run, work.task, work.attempt, [(task, list(asked))]))
            self._leave_followers(work.task)

    def _abandon(self, work: QueuedCall) -> None:
        """``work`` leaves its queue without having run: nothing is wanted for it any more."""
        work.is_here = False
        self._leave_here(work)
        self._fetches.leave(work)
        for works in self._waiting_for_constant.values():
            if work in works:
                works.remove(work)
        self._held_values.unwant(work)

    def _on_value(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        fetch = self._fetches.on_value(source, message, buffers)
        if fetch is not None:
            for work in fetch.works:
                self._arrived(work)
            self._held_values.make_room()
            self._held_values.reserve()

    def _on_not_found(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        ended, reason = self._fetches.on_not_found(message), message[3]
        if reason is None:
            self._give_up(ended)
            return
        for fetch in ended:
            for work in fetch.works:
                status, error = reason
                self._fail(work, fetch, status, ErrorReport(*error))

    def _fail(self, work: QueuedCall, fetch: Fetch, status: int, error: ErrorReport) -> None:
        """An input of ``work`` could not be encoded, which is part of its call: so that call has ended."""
        if work in self.queues[work.slot]:
            self.queues[work.slot].remove(work)
            self._abandon(work)
            sources = [(task, codec) for task, codec, *_ in work.sources]
            error = error._replace(input=sources.index((fetch.task, fetch.codec)))
            since = fetch.since
            self._outbox.note((work.task, work.attempt, status, error, 0, since, self._outbox.now - since))
            self._leave_followers(work.task)

    def _on_redirect(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        self._give_up(self._fetches.on_redirect(source, message))

    def _on_lost(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        self._give_up(self._fetches.lose(message[2]))

    def _arrived(self, work: QueuedCall) -> None:
        work.waiting -= 1
        if not work.waiting and self.running[work.slot] is None:
            self._run_next(work.slot)

    # -- calls --------------------------------------------------------------------------------------

    def _run_next(self, slot: int) -> None:
        queue = self.queues[slot]
        for work in queue:
            if work.is_ahead or not work.waiting:
                queue.remove(work)
                break
        else:
            return
        now = work.started = self._outbox.now
        self.running[slot] = work
        if self.budget.largest_nbytes:
            self._reserve_for_call(work)
        timeout_s = work.timeout_s
        due = now + (LONG_CALL_S if timeout_s is None or timeout_s > LONG_CALL_S else timeout_s)
        if due < self._next_look:
            self._next_look = due
        self._outbox.commands.append(Call(work))

    def _reserve_for_call(self, work: QueuedCall) -> None:
        """Have room, before a call begins, for its result, and for inputs that are read from files or copied."""
        is_copied = bool(work.flags & ISOLATE)
        held, spilled = self.held, self.spilled
        copied = sum(held.get(task, 0) for task in work.wants if is_copied or task in spilled)
        self.budget.begin(work, copied)
        self._held_values.reserve()

    def _on_begun(self, event: Begun) -> None:
        """The timeout counts from here on, without earlier waits."""
        event.work.started = self._outbox.now
        event.work.is_overdue = False
        self._next_look = self._outbox.now

    def prefill(self, slot: int, room: int, suits: Callable[[QueuedCall, QueuedCall], bool]) -> list[QueuedCall]:
        """Return the calls that are to be sent ahead, behind all that were: they run in that order, when those before
        have, and are not given back. Each has its inputs, or will have them by the value of the one before it.

        Args:
            room: how many there may be.
            suits: whether a call can be sent ahead behind another; the first that cannot ends the search.
        """
        before = self.running[slot]
        queue = self.queues[slot]
        chosen: list[QueuedCall] = []
        place = 0
        for work in tuple(queue):
            if before is None or len(chosen) == room:
                break
            if not work.is_ahead:
                if work.waiting and not self._waits_only_for(work, before):
                    continue
                if not suits(work, before):
                    break
                work.is_ahead = True
                chosen.append(work)
                if queue[place] is not work:
                    queue.remove(work)
                    queue.insert(place, work)
            before = work
            place += 1
        return chosen

    def _waits_only_for(self, work: QueuedCall, maker: QueuedCall) -> bool:
        return work.waiting == 1 and not maker.flags & KEEP_REMOTE and work in self._followers.get(maker.task, ())

    def _on_ended(self, event: Ended) -> None:
        work = event.work
        slot = work.slot
        if self.running[slot] is not work:
            return
        self._stop_running(work)
        status, value = event.status, event.error
        nbytes = event.nbytes
        if work.is_overdue and status == DIED:
            status = TIMED_OUT
            why = f"took longer than its timeout of {work.timeout_s:g} s"
            value = ErrorReport(TIMEOUT, why, output="" if value is None else ErrorReport(*value).output)
        entry: Entry
        if status == OK:
            payload = event.payload
            assert payload is not None
            if nbytes <= INLINE_RESULT_NBYTES and not work.flags & KEEP_REMOTE:
                entry = (work.task, work.attempt, OK, payload, nbytes, event.started, event.duration)
                self._latest[slot] = (work.task, payload)
            else:
                if nbytes > INLINE_RESULT_NBYTES:
                    self.budget.learn(work, nbytes)
                self._held_values.put(work.task, payload, nbytes)
                signed = -nbytes if event.is_persisted else nbytes
                entry = (work.task, work.attempt, OK, None, signed, event.started, event.duration)
        else:
            entry = (work.task, work.attempt, status, value, 0, event.started, event.duration)
        self._outbox.note(entry)
        if work.task in self._followers:
            if status == OK:
                assert event.payload is not None
                self._supply(work, event.payload)
            else:
                self._leave_followers(work.task)
        if entry[3] is None:  # the value stays here
            self._held_values.reserve()
        if self.running[slot] is None:
            self._run_next(slot)

    def _stop_running(self, work: QueuedCall) -> None:
        self.running[work.slot] = None
        if work.promised_nbytes:
            self.budget.end(work)
        if self._here.get(work.task) is work:
            del self._here[work.task]
        if work.sources:
            self._held_values.unwant(work)

    def _leave_here(self, work: QueuedCall) -> None:
        if self._here.get(work.task) is work:
            del self._here[work.task]

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
            self._outbox.tell((INPUT_UNAVAILABLE, self.run, work.task, work.attempt, [(event.task, asked)]))
            self._leave_followers(work.task)
            self._run_next(work.slot)

    def _look_at_clock(self) -> None:
        """Report calls that last, end those that have used up their time, and note when to look again."""
        started, now, self._next_look = [], self._outbox.now, math.inf
        for slot, work in enumerate(self.running):
            if work is None:
                continue
            elapsed = now - work.started
            if not work.is_reported and elapsed >= LONG_CALL_S:
                work.is_reported = True
                started.append((work.task, work.attempt, work.started))
            if work.timeout_s is not None and elapsed >= work.timeout_s and not work.is_overdue:
                work.is_overdue = True
                self._outbox.commands.append(Kill(slot))
            if not work.is_reported:
                self._next_look = min(self._next_look, work.started + LONG_CALL_S)
            if work.timeout_s is not None and not work.is_overdue:
                self._next_look = min(self._next_look, work.started + work.timeout_s)
        if started:
            self._outbox.tell((HEARTBEAT, self.run, started))

    # -- memory -------------------------------------------------------------------------------------

    def _on_pressed(self, event: Pressed) -> None:
        """Memory is short: drop what nobody needs, have moved out what is needed later; at the worst tell rank 0."""
        if self.is_over:
            return
        if self.is_short != (event.level == CRITICAL):
            self.is_short = event.level == CRITICAL
            self._outbox.tell((MEMORY, self.run, self.is_short, event.words))
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
