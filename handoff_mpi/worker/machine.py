"""The brain of a worker rank: told what arrived and what ended, it answers what to send and what to run.

Pure, like the scheduler: it knows which values the rank holds, never the values; the shell
(:mod:`handoff_mpi.runtime.worker_loop`) carries out its commands over MPI, the simulated cluster over deques.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from handoff_mpi.encoding import PICKLED, PLAIN, Payload, nbytes_of
from handoff_mpi.messages import (
    ABSENT,
    ALIVE,
    BYE,
    CONSTANT,
    CRITICAL,
    DIED,
    DIRECT,
    DISPATCH,
    FETCH,
    FINISHED,
    FORGET,
    HOME_NBYTES,
    INSIST,
    LOST,
    MEMORY,
    NORMAL,
    OK,
    RAISED,
    RECALL,
    REFER,
    RETURNED,
    STAYS,
    STOP,
    TIMED_OUT,
    TIMEOUT,
    TRANSFERRED,
    UNFETCHED,
    VALUE,
    Entry,
)
from handoff_mpi.worker.events import (
    Call,
    Command,
    Drop,
    Ended,
    Event,
    Fetch,
    InputMissing,
    Kill,
    Learn,
    Leave,
    Pressed,
    Put,
    Received,
    Send,
    Serve,
    Spill,
    Work,
)
from handoff_mpi.worker.spilling import choose_spilled
from handoff_mpi.worker.takers import FAN_OUT, REFERRED_NBYTES, Takers

#: Completions gather for at most this long while there is more to run.
FLUSH_S = 0.001
FLUSH_COUNT = 32
#: Calls that run longer than this are reported while they run.
LONG_CALL_S = 0.1
#: Once referrals have come to nothing this often, a holder must serve itself.
MOST_MISLED = 2
#: More referrals in a row than any tree is deep.
MOST_HOPS = 32
#: A rank that one was referred to has so long to answer, and this many bytes a second longer: it may wait itself, or
#: be in a call that lets nothing else run. Then who referred to it is asked as well.
REFERRAL_S = 1.0
REFERRAL_NBYTES_PER_S = 20e6


class Worker:
    """What one rank does in one run.

    Args:
        rank: its own.
        run: number of the run, part of every message.
        slots: how many calls it runs at once.
        heartbeat_s: a sign of life goes out at least this often.
        store_nbytes: values nobody needs any more are dropped once the store holds more than this.
        tells_transfers: whether rank 0 is told of each value that was fetched.
        reads_files: whether the rank sees the files where values were written; else rank 0 is asked for those.
        fan_out: see :class:`~handoff_mpi.worker.takers.Takers`.
        referred_nbytes: smaller values are sent to whoever asks.

    Attributes:
        held: the values it holds, and their sizes in bytes.
        spilled: those of them that are not in memory.
        is_short: whether it is too short of memory for new tasks, as rank 0 was told.
    """

    def __init__(
        self,
        rank: int,
        run: int,
        slots: int,
        heartbeat_s: float = 15.0,
        store_nbytes: int = 1 << 62,
        tells_transfers: bool = False,
        reads_files: bool = True,
        fan_out: int = FAN_OUT,
        referred_nbytes: int = REFERRED_NBYTES,
    ) -> None:
        self.rank = rank
        self.run = run
        self.heartbeat_s = heartbeat_s
        self.store_nbytes = store_nbytes
        self.tells_transfers = tells_transfers
        self.reads_files = reads_files
        self.referred_nbytes = referred_nbytes
        self.running: list[Work | None] = [None] * slots
        self.queues: list[deque[Work]] = [deque() for _ in range(slots)]
        self.claims: list[Any] = [None] * slots
        self._here: dict[int, Work] = {}  # what waits or runs, by task: the latest attempt
        self._followers: dict[int, list[Work]] = {}  # what waits for the value of a task that is here
        self._latest: list[tuple[int, Payload] | None] = [None] * slots  # the value that each slot sent home last
        self.held: dict[int, int] = {}
        self.spilled: set[int] = set()
        self.is_short = False
        self.is_over = False
        self._held_nbytes = 0
        self._wanted: dict[int, int] = {}  # held values that queued work needs: how many times
        self._forgettable: dict[int, None] = {}
        self._constants: set[int] = set()
        self._waiting_for_constant: dict[int, list[Work]] = {}
        self._fetches: dict[tuple[int, Any], Fetch] = {}
        self._tickets: dict[int, Fetch] = {}
        self._next_ticket = 0
        self._doubts: dict[int, float] = {}  # ticket of a referred request: when to ask elsewhere as well
        self._takers = Takers(fan_out)
        self._lost: set[int] = set()
        self._done: list[Entry] = []
        self._done_since = 0.0
        self._last_sent = 0.0
        self._commands: list[Command] = []
        self._timed: int = 0
        self._unreported: int = 0
        self._on = {
            DISPATCH: self._on_dispatch,
            CONSTANT: self._on_constant,
            RECALL: self._on_recall,
            FORGET: self._on_forget,
            LOST: self._on_lost,
            STOP: self._on_stop,
            FETCH: self._on_fetch,
            VALUE: self._on_value,
            ABSENT: self._on_absent,
            REFER: self._on_refer,
        }
        self.now = 0.0

    def handle(self, events: Iterable[Event], now: float) -> list[Command]:
        """Absorb ``events`` at time ``now`` (seconds) and return what to do, in order."""
        self.now = now
        for event in events:
            kind = type(event)
            if kind is Ended:
                self._on_ended(event)  # type: ignore[arg-type]
            elif kind is Received:
                self._on_received(event)  # type: ignore[arg-type]
            elif kind is Pressed:
                self._on_pressed(event)  # type: ignore[arg-type]
            else:
                self._on_input_missing(event)  # type: ignore[arg-type]
        if self._timed or self._unreported:
            self._look_at_clock()
        if self._doubts:
            self._look_at_referrals()
        if self._done and (
            len(self._done) >= FLUSH_COUNT or now - self._done_since >= FLUSH_S or None in self.running
        ):
            self._flush()
        if now - self._last_sent >= self.heartbeat_s and not self.is_over:
            self._send(0, (ALIVE, self.run, []))
        commands, self._commands = self._commands, []
        return commands

    def next_wakeup(self) -> float:
        """Return the time at which :meth:`handle` must be called again even if nothing happens."""
        wakeup = self._last_sent + self.heartbeat_s
        if self._done:
            wakeup = min(wakeup, self._done_since + FLUSH_S)
        if self._timed or self._unreported:
            for work in self.running:
                if work is not None:
                    if not work.is_reported:
                        wakeup = min(wakeup, work.started + LONG_CALL_S)
                    if work.timeout_s is not None and not work.is_overdue:
                        wakeup = min(wakeup, work.started + work.timeout_s)
        if self._doubts:
            wakeup = min(wakeup, *self._doubts.values())
        return wakeup

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not any(self.running) and not any(self.queues)

    # -- messages -----------------------------------------------------------------------------------

    def _on_received(self, event: Received) -> None:
        message = event.message
        if message[1] == self.run and not self.is_over:
            handler = self._on.get(message[0])
            if handler is not None:
                handler(event.source, message, event.buffers)

    def _on_dispatch(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        _, _, codes, groups = message
        if codes:
            self._commands.append(Learn(codes))
        for slot, claim, assignments in groups:
            if claim is not None:
                self.claims[slot] = claim
            queue = self.queues[slot]
            for task, attempt, id, recipe, sources, timeout_s, flags in assignments:
                here = self._here.get(task)
                if here is not None and here.attempt >= attempt:
                    continue  # a duplicate
                work = Work(task, attempt, id, recipe, sources, timeout_s, flags, slot, self.claims[slot])
                self._here[task] = work
                queue.append(work)
                if sources or recipe[3]:
                    self._want_inputs(work)
            if self.running[slot] is None:
                self._run_next(slot)

    def _on_constant(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        number, head = message[2], message[3]
        self._commands.append(Learn(constant=(number, (*head, *buffers))))
        self._constants.add(number)
        for work in self._waiting_for_constant.pop(number, ()):
            self._arrived(work)

    def _on_recall(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        wanted = set(map(tuple, message[2]))
        self._return([work for queue in self.queues for work in queue if (work.task, work.attempt) in wanted])

    def _return(self, works: list[Work]) -> None:
        """Give back what waits, and what waits for its values."""
        returned = []
        for work in works:
            if work.is_here:
                self.queues[work.slot].remove(work)
                self._abandon(work)
                returned.append((work.task, work.attempt))
                works += self._followers.pop(work.task, ())
        if returned:
            self._send(0, (RETURNED, self.run, returned))

    def _on_forget(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        for task in message[2]:
            if task in self.held:
                self._forgettable[task] = None
                if task in self.spilled and task not in self._wanted:
                    self._drop(task)  # its file would only take room
        self._make_room()

    def _on_stop(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        self.is_over = True
        self._send(0, (BYE, self.run))
        self._commands.append(Leave(message[2]))

    # -- inputs -------------------------------------------------------------------------------------

    def _want_inputs(self, work: Work) -> None:
        for number in work.recipe[3]:
            if number not in self._constants:
                work.waiting += 1
                self._waiting_for_constant.setdefault(number, []).append(work)
        for task, codec, payload, holders in work.sources:
            if payload is not None:
                continue
            if not work.is_here:
                return  # handed back: an earlier input is not to be had
            if task in self.held:
                self._want(work, task)
            elif holders == (self.rank,):
                self._follow(work, task, codec)
            elif holders:
                work.waiting += 1
                self._join_fetch(work, task, codec, holders)
            elif not self.reads_files:
                work.waiting += 1
                self._join_fetch(work, task, None, (0,))

    def _follow(self, work: Work, task: int, codec: Any) -> None:
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

    def _supply(self, maker: Work, payload: Payload) -> None:
        """``maker`` has ended well: what waits for its value may run."""
        for work in self._followers.pop(maker.task):
            if not work.is_here:
                continue
            for task, codec, _, _ in work.sources:
                if task == maker.task and task in self.held:
                    self._want(work, task)
                elif task == maker.task:
                    work.fetched[task, codec] = (payload, -1)
            self._arrived(work)

    def _leave_followers(self, task: int) -> None:
        """``task`` has come to nothing here: what waits for its value goes back, once rank 0 knows why."""
        followers = self._followers.pop(task, None)
        if followers:
            if self._done:
                self._flush()
            self._return(followers)

    def _join_fetch(self, work: Work, task: int, codec: Any, holders: Sequence[int]) -> None:
        fetch = self._fetches.get((task, codec))
        if fetch is not None:
            fetch.works.append(work)
            return
        self._lost.difference_update(holders)  # rank 0 names none that is lost, so they are back
        fetch = Fetch(task, codec, [rank for rank in holders if rank != self.rank], [], [work])
        self._fetches[task, codec] = fetch
        self._ask_next(fetch)

    def _ask_next(self, fetch: Fetch) -> None:
        """Ask another holder: who was asked does not have the value, so neither will those who wait for it here."""
        self._close_tickets(fetch)
        self._turn_away(fetch)
        if fetch.holders:
            self._ask_holder(fetch)
        else:
            self._give_up(fetch)

    def _ask_holder(self, fetch: Fetch) -> None:
        holder = fetch.holders.pop(0)
        if holder not in fetch.asked:
            fetch.asked.append(holder)
        fetch.is_referred = False
        fetch.hops = 0
        self._ask(fetch, holder, INSIST if fetch.misled >= MOST_MISLED else DIRECT)

    def _ask(self, fetch: Fetch, rank: int, via: int) -> None:
        fetch.source = rank
        fetch.since = self.now
        fetch.ticket = self._next_ticket
        fetch.tickets.append(fetch.ticket)
        self._next_ticket += 1
        self._tickets[fetch.ticket] = fetch
        self._commands.append(Send(rank, (FETCH, self.run, fetch.ticket, fetch.task, fetch.codec, (), via)))

    def _close_tickets(self, fetch: Fetch) -> None:
        for ticket in fetch.tickets:
            self._tickets.pop(ticket, None)
            self._doubts.pop(ticket, None)
        fetch.tickets.clear()

    def _turn_away(self, fetch: Fetch) -> None:
        """Let those who wait here look elsewhere.

        They must not go on waiting once somebody else is asked: it might come to wait for one of them. As it is, a
        rank waits only for one that has the value, or that waits for the very rank that referred to it.
        """
        if fetch.askers:
            self._takers.forget(fetch.task)
        for rank, ticket in fetch.askers:
            self._commands.append(Send(rank, (ABSENT, self.run, ticket, None)))
        fetch.askers.clear()

    def _give_up(self, fetch: Fetch) -> None:
        del self._fetches[fetch.task, fetch.codec]
        asked = fetch.asked or [self.rank]
        for work in fetch.works:
            self._hand_back(work, fetch.task, asked)

    def _hand_back(self, work: Work, task: int, asked: Sequence[int]) -> None:
        if work in self.queues[work.slot]:
            self.queues[work.slot].remove(work)
            self._abandon(work)
            self._send(0, (UNFETCHED, self.run, work.task, work.attempt, [(task, list(asked))]))
            self._leave_followers(work.task)

    def _abandon(self, work: Work) -> None:
        """``work`` leaves its queue without having run: nothing is wanted for it any more."""
        work.is_here = False
        self._leave_here(work)
        for fetch in list(self._fetches.values()):
            if work in fetch.works:
                fetch.works.remove(work)
        for works in self._waiting_for_constant.values():
            if work in works:
                works.remove(work)
        self._unwant(work)

    def _want(self, work: Work, task: int) -> None:
        work.wants.append(task)
        self._wanted[task] = self._wanted.get(task, 0) + 1

    def _unwant(self, work: Work) -> None:
        for task in work.wants:
            self._wanted[task] -= 1
            if not self._wanted[task]:
                del self._wanted[task]
        work.wants.clear()

    def _on_value(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        fetch = self._tickets.get(message[2])
        if fetch is None:
            return
        self._close_tickets(fetch)
        del self._fetches[fetch.task, fetch.codec]
        payload = (*message[3], *buffers)
        if self.tells_transfers:
            transfer = (fetch.task, source, nbytes_of(payload), self.now - fetch.since)
            self._send(0, (TRANSFERRED, self.run, [transfer]))
        if fetch.codec is None:
            self._put(fetch.task, payload, max(nbytes_of(payload), HOME_NBYTES))
            self._forgettable[fetch.task] = None  # a copy: it may go once nobody here wants it
        for rank, ticket in fetch.askers:
            self._commands.append(Serve(rank, ticket, fetch.task, None, ()))
        for work in fetch.works:
            if fetch.codec is None:
                self._want(work, fetch.task)
            else:
                work.fetched[fetch.task, fetch.codec] = (payload, source)
            self._arrived(work)
        self._make_room()

    def _on_absent(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        fetch = self._tickets.get(message[2])
        if fetch is None or message[2] != fetch.ticket:  # somebody else was asked meanwhile
            return
        error = message[3]
        if error is None:
            self._seek_elsewhere(fetch)
            return
        self._close_tickets(fetch)
        del self._fetches[fetch.task, fetch.codec]
        for work in fetch.works:
            if work in self.queues[work.slot]:
                self.queues[work.slot].remove(work)
                self._abandon(work)
                self._note((work.task, work.attempt, RAISED, error, 0, self.now, 0.0))
                self._leave_followers(work.task)

    def _on_refer(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        _, _, ticket, rank, nbytes = message
        fetch = self._tickets.get(ticket)
        if fetch is None or ticket != fetch.ticket:
            return
        if not fetch.is_referred:
            fetch.holders.insert(0, source)  # it has the value, and is asked again if this comes to nothing
        fetch.is_referred = True
        fetch.hops += 1
        fetch.nbytes = max(fetch.nbytes, nbytes)
        if rank in self._lost or rank == self.rank or fetch.hops > MOST_HOPS:
            self._seek_elsewhere(fetch)
            return
        self._close_tickets(fetch)
        self._ask(fetch, rank, source)
        self._doubts[fetch.ticket] = self.now + REFERRAL_S + fetch.nbytes / REFERRAL_NBYTES_PER_S

    def _seek_elsewhere(self, fetch: Fetch) -> None:
        fetch.misled += fetch.is_referred
        self._ask_next(fetch)

    def _look_at_referrals(self) -> None:
        """Who was referred to a rank that does not answer for long asks who referred to it as well."""
        for ticket in [ticket for ticket, until in self._doubts.items() if until <= self.now]:
            del self._doubts[ticket]
            fetch = self._tickets[ticket]
            if fetch.holders:
                fetch.misled = MOST_MISLED
                self._ask_holder(fetch)

    def _on_lost(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        rank = message[2]
        self._lost.add(rank)
        self._takers.lose(rank)
        for fetch in list(self._fetches.values()):
            fetch.holders = [holder for holder in fetch.holders if holder != rank]
            fetch.askers = [asker for asker in fetch.askers if asker[0] != rank]
            if fetch.source == rank:
                self._seek_elsewhere(fetch)

    def _arrived(self, work: Work) -> None:
        work.waiting -= 1
        if not work.waiting and self.running[work.slot] is None:
            self._run_next(work.slot)

    def _on_fetch(self, source: int, message: tuple[Any, ...], buffers: Sequence[Any]) -> None:
        _, _, ticket, task, codec, codes, via = message
        self._lost.discard(source)
        if task in self.held:
            if not self._refers(source, ticket, task, codec, via):
                self._commands.append(Serve(source, ticket, task, codec, codes))
            return
        fetch = self._fetches.get((task, codec))
        if fetch is None or fetch.source != via:
            self._commands.append(Send(source, (ABSENT, self.run, ticket, None)))
        elif not self._refers(source, ticket, task, codec, via):
            fetch.askers.append((source, ticket))

    def _refers(self, source: int, ticket: int, task: int, codec: Any, via: int) -> bool:
        """Refer who asks for a value to another that took it from here; whether that was done."""
        nbytes = self.held.get(task, 0)
        if codec is not None or 0 < nbytes < self.referred_nbytes:
            return False
        instead = None if via == INSIST else self._takers.instead(task, source)
        if instead is None:
            self._takers.note(task, source)
            return False
        self._commands.append(Send(source, (REFER, self.run, ticket, instead, nbytes)))
        return True

    # -- calls --------------------------------------------------------------------------------------

    def _run_next(self, slot: int) -> None:
        queue = self.queues[slot]
        for work in queue:
            if not work.waiting:
                queue.remove(work)
                break
        else:
            return
        work.started = self.now
        self.running[slot] = work
        self._timed += work.timeout_s is not None
        self._unreported += 1
        self._commands.append(Call(work))

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
            value = (TIMEOUT, f"took longer than its timeout of {work.timeout_s:g} s", "")
        entry: Entry
        if status == OK:
            payload = event.payload
            assert payload is not None
            if nbytes <= HOME_NBYTES and not work.flags & STAYS:
                entry = (work.task, work.attempt, OK, payload, nbytes, event.started, event.duration)
                self._latest[slot] = (work.task, payload)
            else:
                self._put(work.task, payload, nbytes)
                signed = -nbytes if event.is_persisted else nbytes
                entry = (work.task, work.attempt, OK, None, signed, event.started, event.duration)
        else:
            entry = (work.task, work.attempt, status, value, 0, event.started, event.duration)
        self._note(entry)
        if work.task in self._followers:
            if status == OK:
                assert event.payload is not None
                self._supply(work, event.payload)
            else:
                self._leave_followers(work.task)
        if self.running[slot] is None:
            self._run_next(slot)

    def _stop_running(self, work: Work) -> None:
        self.running[work.slot] = None
        self._leave_here(work)
        self._timed -= work.timeout_s is not None
        self._unreported -= not work.is_reported
        if work.sources:
            self._unwant(work)

    def _leave_here(self, work: Work) -> None:
        if self._here.get(work.task) is work:
            del self._here[work.task]

    def _on_input_missing(self, event: InputMissing) -> None:
        work = event.work
        if self.running[work.slot] is work:
            self._stop_running(work)
            # Where files cannot be seen it was a copy, though another call may have found before that it is gone.
            is_copy = (
                not self.reads_files
                or event.task in self.held
                or any(holders for task, _, _, holders in work.sources if task == event.task)
            )
            self._drop(event.task)
            asked = [self.rank] if is_copy else []  # none asked: the file itself cannot be read
            self._send(0, (UNFETCHED, self.run, work.task, work.attempt, [(event.task, asked)]))
            self._leave_followers(work.task)
            self._run_next(work.slot)

    def _look_at_clock(self) -> None:
        started = []
        for slot, work in enumerate(self.running):
            if work is None:
                continue
            elapsed = self.now - work.started
            if not work.is_reported and elapsed >= LONG_CALL_S:
                work.is_reported = True
                self._unreported -= 1
                started.append((work.task, work.attempt, work.started))
            if work.timeout_s is not None and elapsed >= work.timeout_s and not work.is_overdue:
                work.is_overdue = True
                self._commands.append(Kill(slot))
        if started:
            self._send(0, (ALIVE, self.run, started))

    # -- what is held -------------------------------------------------------------------------------

    def _put(self, task: int, payload: Payload, nbytes: int) -> None:
        self._drop(task)
        self.held[task] = nbytes
        self._held_nbytes += nbytes
        self._commands.append(Put(task, payload))
        self._make_room()

    def _drop(self, task: int) -> None:
        nbytes = self.held.pop(task, None)
        if nbytes is not None:
            self._forgettable.pop(task, None)
            self._takers.forget(task)
            if task in self.spilled:
                self.spilled.discard(task)
            else:
                self._held_nbytes -= nbytes
            self._commands.append(Drop(task))

    def _make_room(self) -> None:
        """Drop values nobody needs, the longest forgotten first, once the store holds too much."""
        if self._held_nbytes <= self.store_nbytes:
            return
        for task in [task for task in self._forgettable if task not in self._wanted]:
            self._drop(task)
            if self._held_nbytes <= self.store_nbytes:
                break

    def _on_pressed(self, event: Pressed) -> None:
        """Memory is short: drop what nobody needs, have moved out what is needed later; at the worst tell rank 0."""
        if self.is_over:
            return
        if self.is_short != (event.level == CRITICAL):
            self.is_short = event.level == CRITICAL
            self._send(0, (MEMORY, self.run, self.is_short, event.words))
        if event.level == NORMAL:
            return
        before = self._held_nbytes
        for task in [task for task in self._forgettable if task not in self._wanted]:
            self._drop(task)
        excess = event.excess_nbytes - (before - self._held_nbytes)
        if event.can_spill and excess > 0:
            self._spill(excess)

    def _spill(self, excess_nbytes: int) -> None:
        in_memory = {task: nbytes for task, nbytes in self.held.items() if task not in self.spilled}
        for task in choose_spilled(in_memory, self.running, self.queues, excess_nbytes):
            self.spilled.add(task)
            self._held_nbytes -= in_memory[task]
            self._commands.append(Spill(task, in_memory[task]))

    # -- what goes home -----------------------------------------------------------------------------

    def _note(self, entry: Entry) -> None:
        if not self._done:
            self._done_since = self.now
        self._done.append(entry)

    def _flush(self) -> None:
        done, self._done = self._done, []
        self._send(0, (FINISHED, self.run, done))

    def _send(self, dest: int, message: tuple[Any, ...]) -> None:
        if dest == 0:
            self._last_sent = self.now
        self._commands.append(Send(dest, message))


def head_of(payload: Payload) -> tuple[Payload, Sequence[Any]]:
    """Split a payload into what travels in the message and what travels beside it."""
    if payload[0] == PLAIN:
        return payload, ()
    return (PICKLED, payload[1]), payload[2:]
