"""What rank 0 does: poll, handle, keep, send; one turn after the other until the run is over."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.comm import Envelope, RankGone, Transport
from handoff_mpi.dag import Plan
from handoff_mpi.encoding import Payload
from handoff_mpi.errors import DAGError, JobLost, JournalError, ValueUnavailable
from handoff_mpi.messages import (
    ABSENT,
    ALIVE,
    BYE,
    CONSTANT,
    DISPATCH,
    FETCH,
    FILES,
    FINISHED,
    FORGET,
    ISOLATE,
    KEEP,
    LOOK,
    LOOKED,
    LOST,
    OK,
    RECALL,
    RETURNED,
    STAYS,
    STOP,
    TRANSFERRED,
    UNFETCHED,
    UPDATE,
    VALUE,
    Entry,
)
from handoff_mpi.resources import parse_resources
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.results.store import DirectoryStore, Key, ResultStore
from handoff_mpi.runtime.chronicle import Chronicle
from handoff_mpi.runtime.inquiry import HostGuard
from handoff_mpi.runtime.neighbours import GONE, LIVES, STOPPED, Neighbours
from handoff_mpi.runtime.pace import Pace, clock
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.runtime.tracking import Tracking
from handoff_mpi.runtime.worker_shell import WorkerShell
from handoff_mpi.scheduler import (
    Announce,
    Dispatch,
    Event,
    Examine,
    Examined,
    Finished,
    Forget,
    Heard,
    Persisted,
    RankLost,
    Recall,
    ResourcesUpdated,
    Returned,
    Scheduler,
    State,
    StopRequested,
    Unfetched,
    ValueLost,
)
from handoff_mpi.worker.machine import head_of

_FOR_WORKERS = frozenset({DISPATCH, CONSTANT, FILES, RECALL, FORGET, LOST, LOOK, STOP, FETCH, VALUE, ABSENT})
#: Workers that have not said goodbye after this long are left behind.
GOODBYE_S = 10.0
#: Seconds between two looks at the run-dir.
CONFIRM_S = 1.0
#: How long a launcher that dies takes to be gone.
LAUNCHER_S = 1.0
#: How many ranks of a host are asked to look at a silent one: they may be deaf themselves.
_MOST_ASKED = 4


@dataclass(slots=True)
class LoopSettings:
    """What the loop needs to know of a run.

    Attributes:
        run: the run's name.
        number: the run's number, part of every message.
        workers: the ranks that take part besides rank 0.
        drain_s: seconds that running calls are given once the run is stopped.
        tracker: the user's resource tracker, or None.
        pids: host to its ranks' process ids, by rank; rank 0's own host comes first.
        heartbeat_s: ranks of other hosts get a sign of life this often; 0 sends none.
        guard: looks after other hosts; None where nobody could be asked.
        confirm: called once a second; it raises when the run is no longer this launch's.
    """

    run: str
    number: int
    workers: Sequence[int]
    drain_s: float
    tracker: Any = None
    pids: dict[str, dict[int, int]] = field(default_factory=dict)
    heartbeat_s: float = 0.0
    guard: HostGuard | None = None
    confirm: Callable[[], None] = lambda: None


class SchedulerLoop:
    """Carries events into the scheduler and its commands out.

    Args:
        transport: rank 0's end.
        scheduler: the machine, its tasks submitted or to be submitted by ``submit``.
        plan: the run's tables.
        recorder: what ran where and when.
        home: where values rest that came home.
        kept: where values are written that must outlast the run.
        chronicle: writes the journal.
        settings: see there.
        shell: rank 0's own worker, if it computes.
    """

    def __init__(
        self,
        transport: Transport,
        scheduler: Scheduler,
        plan: Plan,
        recorder: Recorder,
        home: ResultStore,
        kept: DirectoryStore,
        chronicle: Chronicle | None,
        settings: LoopSettings,
        shell: WorkerShell | None,
    ) -> None:
        self.transport = transport
        self.scheduler = scheduler
        self.settings = settings
        self.recorder = recorder
        self.stop_reason: Callable[[], str] = lambda: ""
        here = next(iter(settings.pids.values()), {})
        self._neighbours = Neighbours(0, here)
        self._far = [rank for rank in settings.workers if rank not in here]
        self._next_confirm = 0.0
        self._next_greeting = 0.0
        self._plan = plan
        self.file_keys: dict[int, Key] = {}  # of values that an earlier launch wrote
        self._files_at: dict[int, set[int]] = {}
        self._home = home
        self._kept = kept
        self._chronicle = chronicle
        self._trouble = ""
        self._bringing: dict[int, tuple[int, int]] = {}  # ticket: (task, rank that holds its value)
        self._to_bring: dict[int, None] = {}
        self._next_ticket = -1  # negative, so that no ticket of rank 0's own worker is the same
        self._shell = shell
        self._codes_at: dict[int, set[int]] = {}
        self._constants_at: dict[int, set[int]] = {}
        self._launcher = os.getppid()
        self._stopped_at: float | None = None
        self._said_goodbye: set[int] = set()
        self.gone: set[int] = set()
        self._updates: list[tuple[int, dict[str, Any]]] = []
        self._outbox: dict[int, list[Any]] = {}
        self._tracking = None if settings.tracker is None else Tracking(settings.tracker)

    # -- the run --------------------------------------------------------------------------------------

    def run(self, first: Iterable[Event]) -> None:
        """Run until the scheduler is done, or was stopped and what ran has ended or used up its drain.

        Raises:
            JobLost: the launcher is gone.
            Superseded: a newer launch has taken over.
        """
        pace = Pace()
        events: list[Event] = [*first]
        while True:
            if os.getppid() != self._launcher:
                self._leave_lost_job()
            arrived = self.transport.poll()
            mine = self._absorb(arrived, events)
            self._look_at_stop(events)
            self._look_around(events)
            was_busy = bool(events) or bool(arrived)
            self._turn(events)
            events = []
            if self._shell is not None:
                was_busy |= self._shell.turn(mine)
                was_busy |= self._shell.run_own_calls()
            if (self.scheduler.is_over and not self._bringing) or self._has_drained():
                return
            wakeup = self.scheduler.next_wakeup()
            sockets: list[Any] = []
            if self._shell is not None:
                wakeup = min(wakeup, self._shell.machine.next_wakeup())
                sockets = self._shell.sockets()
            pace.wait(was_busy, self.transport.is_transferring, wakeup, sockets)

    def _leave_lost_job(self) -> None:
        if self.settings.workers:
            raise JobLost("the launcher is gone; what was done is in the journal, and the same command resumes")

    def _turn(self, events: list[Event]) -> None:
        """Let the machine handle ``events``; a tracker's refusals are events too."""
        self.scheduler.logs_claims = self.recorder.wants_claims()
        while True:
            commands = self.scheduler.handle(events, clock())
            events = []
            self._write_down()
            if self._tracking is not None:
                self._tracking.settle(self.scheduler.log)
            self.recorder.transitions(self.scheduler)
            for command in commands:
                if isinstance(command, Dispatch):
                    if self._tracking is not None:
                        events += self._tracking.request(command, self.scheduler.specs)
                    if command.tasks:
                        self._pack(command)
                elif isinstance(command, Recall):
                    self._flush_to(command.rank)
                    self._send(command.rank, (RECALL, self.settings.number, command.tasks))
                elif isinstance(command, Forget):
                    self._send(command.rank, (FORGET, self.settings.number, command.tasks))
                elif isinstance(command, Announce):
                    self._announce(command.rank)
                elif isinstance(command, Examine):
                    self._examine(command.rank, events)
            for rank in list(self._outbox):
                self._flush_to(rank)
            self._bring_again()
            if not events:
                return

    def _announce(self, lost: int) -> None:
        for ticket in [ticket for ticket, (_, rank) in self._bringing.items() if rank == lost]:
            self._to_bring[self._bringing.pop(ticket)[0]] = None
        for rank in self._everyone():
            if rank != lost:
                self._send(rank, (LOST, self.settings.number, lost))

    def _write_down(self) -> None:
        """Write this turn into the journal, before anything acts on it."""
        if self._chronicle is None:
            return
        try:
            self._chronicle.turn(self.scheduler.log)
        except JournalError as error:
            # What goes on is not lost, only not remembered: it may run again when the run is resumed.
            self._chronicle = None
            self._trouble = str(error)
            print(f"handoff: {error}", file=sys.stderr, flush=True)

    def _look_at_stop(self, events: list[Event]) -> None:
        reason = self._trouble or self.stop_reason()
        if reason and self._stopped_at is None:
            self._stopped_at = clock()
            events.append(StopRequested(reason))

    def _has_drained(self) -> bool:
        return self._stopped_at is not None and clock() - self._stopped_at >= self.settings.drain_s

    # -- what arrives -----------------------------------------------------------------------------------

    def _absorb(self, arrived: Sequence[Envelope | RankGone], events: list[Event]) -> list[Envelope]:
        """Turn what arrived into the scheduler's events; return what is for rank 0's own worker."""
        mine: list[Envelope] = []
        lost: list[Event] = []  # comes last: what a rank said before it died counts
        heard: dict[int, None] = {0: None} if self._shell is not None else {}
        gone = tuple(self.gone)
        for each in arrived:
            if isinstance(each, RankGone):
                self._lose(each.rank, each.reason, lost)
                continue
            message = each.message
            if message[1] != self.settings.number or each.source in gone:
                continue  # what comes late of a lost rank: its host was cut off, say, and is back
            heard[each.source] = None
            if message[0] in (VALUE, ABSENT) and message[2] in self._bringing:
                self._absorb_kept(each, events)
            elif message[0] == FETCH and (self._shell is None or message[3] in self.scheduler.tasks.persisted):
                self._serve_file(each)
            elif message[0] in _FOR_WORKERS:
                mine.append(each)
            elif message[0] == LOOKED and message[3]:
                self._lose(message[2], message[4], lost)
            else:
                self._absorb_one(each.source, message, events)
        while self._updates:
            self._absorb_update(*self._updates.pop(0), events)
        if heard:
            events.append(Heard(tuple(heard)))
        events += lost
        return mine

    def _lose(self, rank: int, reason: str, events: list[Event], with_its_host: bool = False) -> None:
        self.gone.add(rank)
        self._neighbours.forget(rank)
        self.transport.drop(rank)
        events.append(RankLost(rank, reason, with_its_host))
        if self.gone.issuperset(self.settings.workers):
            self._await_end_of_launcher()

    def _await_end_of_launcher(self) -> None:
        """All ranks gone at once mean a launcher that dies: they lose it a moment before its children are told."""
        end = clock() + LAUNCHER_S
        while clock() < end:
            if os.getppid() != self._launcher:
                self._leave_lost_job()
            time.sleep(0.01)

    def _look_around(self, events: list[Event]) -> None:
        now = clock()
        lost = self._neighbours.look_around(now)
        if lost is not None:
            self._lose(*lost, events)
        if now >= self._next_confirm:
            self._next_confirm = now + CONFIRM_S
            self.settings.confirm()
            self._greet(now)
            self._guard_hosts(now, events)

    def _guard_hosts(self, now: float, events: list[Event]) -> None:
        guard = self.settings.guard
        for rank, reason in () if guard is None else guard.look(self.scheduler.heard, self.gone, now):
            if rank not in self.gone:
                self._lose(rank, reason, events, with_its_host=True)

    def _greet(self, now: float) -> None:
        """Show ranks of other hosts that rank 0 lives; those of this host can look at its process."""
        if self.settings.heartbeat_s and now >= self._next_greeting:
            self._next_greeting = now + self.settings.heartbeat_s
            for rank in self._far:
                self._send(rank, (ALIVE, self.settings.number))

    def _examine(self, rank: int, events: list[Event]) -> None:
        """Look at a silent rank's process, or have ranks of its host do it."""
        state, reason = self._neighbours.examine(rank, clock())
        if state in (GONE, STOPPED):
            self._lose(rank, reason, events)
        elif state == LIVES:
            events.append(Examined(rank, False, reason))
        else:
            here = next((ranks for ranks in self.settings.pids.values() if rank in ranks), {})
            for other in [other for other in here if other not in (0, rank) and other not in self.gone][:_MOST_ASKED]:
                self._send(other, (LOOK, self.settings.number, rank))

    def _absorb_one(self, source: int, message: tuple[Any, ...], events: list[Event]) -> None:
        kind = message[0]
        if kind == FINISHED:
            entries = self._keep_values(message[2])
            self.recorder.finished(source, entries)
            if self._chronicle is not None:
                self._chronicle.finished(source, entries)
            events.append(Finished(source, message[2]))
            self._bring_kept(source, entries)
        elif kind == ALIVE:
            for task, attempt, started in message[2]:
                if self.scheduler.is_current(task, attempt):
                    self.recorder.started(source, task, attempt, started)
        elif kind == RETURNED:
            events.append(Returned(source, message[2]))
        elif kind == UNFETCHED:
            events.append(Unfetched(source, message[2], message[3], message[4]))
            self._rewrite(message[4])
        elif kind == UPDATE:
            self._absorb_update(message[2], message[3], events)
        elif kind == TRANSFERRED:
            self.recorder.transferred(source, message[2])
        elif kind == LOOKED:
            events.append(Examined(message[2], False, message[4]))
        elif kind == BYE:
            self._said_goodbye.add(source)

    # -- values that must outlast the run, from ranks that do not see the run-dir --------------------------

    def _bring_kept(self, source: int, entries: Sequence[Entry]) -> None:
        for task, _, status, value, nbytes, _, _ in entries:
            if status == OK and value is None and nbytes >= 0 and self.scheduler.specs[task].keep:
                self._bring(task, source)

    def _bring(self, task: int, holder: int) -> None:
        self._bringing[self._next_ticket] = (task, holder)
        self._send(holder, (FETCH, self.settings.number, self._next_ticket, task, None, ()))
        self._next_ticket -= 1

    def _rewrite(self, missing: Sequence[tuple[int, Sequence[int]]]) -> None:
        """A kept value whose file cannot be read is brought from a rank that holds it still, if there is one."""
        for task, asked in missing:
            if self.scheduler.specs[task].keep and (not asked or 0 in asked):
                self._to_bring[task] = None

    def _bring_again(self) -> None:
        """What could not be had from one rank or file may be brought from a rank, or is made again."""
        tasks = self.scheduler.tasks
        to_bring, self._to_bring = self._to_bring, {}
        for task in to_bring:
            holders = tasks.holders.get(task)
            if holders and task not in tasks.persisted:
                self._bring(task, holders[0])

    def _serve_file(self, each: Envelope) -> None:
        """Send a value that lies in a file to a rank that does not see it."""
        _, run, ticket, task, _, _ = each.message
        try:
            head, buffers = head_of(self._kept.get(self._file_key(task)))
            self._send(each.source, (VALUE, run, ticket, head), buffers)
        except (KeyError, ValueUnavailable):
            self._send(each.source, (ABSENT, run, ticket, None))

    def _file_key(self, task: int) -> Key:
        return self.file_keys.get(task, (self.settings.run, task))

    def _absorb_kept(self, each: Envelope, events: list[Event]) -> None:
        task, source = self._bringing.pop(each.message[2])
        if each.message[0] == ABSENT:
            events.append(ValueLost(task, (source,)))
            self._to_bring[task] = None
            return
        payload = (*each.message[3], *each.buffers)
        try:
            self._kept.put((self.settings.run, task), payload)
        except OSError as error:
            what = f"the value of {self._plan.ids[task]!r} could not be written to {self._kept.directory}"
            print(f"handoff: {what}: {error}", file=sys.stderr, flush=True)
        else:
            events.append(Persisted(task))
            if self._chronicle is not None:
                self._chronicle.persisted(task)

    def _absorb_update(self, rank: int, resources: dict[str, Any], events: list[Event]) -> None:
        try:
            events.append(ResourcesUpdated(rank, parse_resources(resources)))
        except DAGError as error:
            print(f"handoff: update_node_resources({rank}, {resources!r}): {error}", file=sys.stderr, flush=True)

    def update_resources(self, rank: int, resources: dict[str, Any]) -> None:
        """Take in a change of a rank's resources, at the next turn; from any thread of rank 0."""
        self._updates.append((rank, resources))

    def _keep_values(self, entries: Sequence[Any]) -> list[Any]:
        """Store what rode home, before anything acts on it; return the entries that still count."""
        scheduler, home, run = self.scheduler, self._home, self.settings.run
        state, attempts = scheduler.state, scheduler.attempts
        current = []
        for entry in entries:
            task = entry[0]
            if state[task] == State.DISPATCHED and attempts[task] == entry[1]:
                current.append(entry)
                if entry[2] == OK:
                    self._forget_old_file(task)
                    if entry[3] is not None:
                        home.put((run, task), entry[3])
        return current

    def _forget_old_file(self, task: int) -> None:
        """A value that an earlier launch had written was made again: should it be written, this run's key is its."""
        if self.file_keys and self.file_keys.pop(task, None) is not None:
            files = [(task, self._file_key(task))]
            for rank in [rank for rank, known in self._files_at.items() if task in known]:
                self._send(rank, (FILES, self.settings.number, files))

    # -- what is sent -----------------------------------------------------------------------------------

    def _everyone(self) -> list[int]:
        return [*self.settings.workers, *([0] if self._shell is not None else [])]

    def _send(self, rank: int, message: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
        if rank not in self.gone:
            self.transport.send(rank, message, buffers)

    def _pack(self, command: Dispatch) -> None:
        assignments = [self._assignment(command.rank, task, attempt) for task, attempt in command.tasks]
        claim = None
        if command.claim is not None:
            cores = command.claim.cost.cost.get("cpu", 0) / UNIT
            claim = (cores, self.scheduler.ledger.device_indices(command.claim))
        self._outbox.setdefault(command.rank, []).append((command.slot, claim, assignments))

    def _assignment(self, rank: int, task: int, attempt: int) -> Any:
        plan, scheduler = self._plan, self.scheduler
        spec = scheduler.specs[task]
        flags = (KEEP if spec.keep else 0) | (STAYS if spec.stays else 0)
        if scheduler.is_isolated(task):
            flags |= ISOLATE
        sources = plan.sources[task]
        if sources:
            sources = tuple([self._source(rank, number, codec) for number, codec in sources])
        return (task, attempt, plan.ids[task], plan.recipes[task], sources, spec.timeout_s, flags)

    def _source(self, rank: int, number: int, codec: Any) -> Any:
        scheduler = self.scheduler
        if scheduler.tasks.at_home[number]:
            payload: Payload = self._home.get((self.settings.run, number))
            return (number, codec, payload, ())
        holders = tuple(scheduler.tasks.holders.get(number, ()))
        if not holders and number in self.file_keys:
            self._tell_file(rank, number)
        return (number, codec, None, holders)

    def _tell_file(self, rank: int, task: int) -> None:
        known = self._files_at.setdefault(rank, set())
        if task not in known:
            known.add(task)
            self._send(rank, (FILES, self.settings.number, [(task, self.file_keys[task])]))

    def _flush_to(self, rank: int) -> None:
        groups = self._outbox.pop(rank, None)
        if groups is None:
            return
        codes_at = self._codes_at.setdefault(rank, set())
        codes, constants = [], []
        for _, _, assignments in groups:
            for assignment in assignments:
                recipe = assignment[3]
                for number in recipe[0]:
                    if number not in codes_at:
                        codes_at.add(number)
                        codes.append((number, self._plan.codes[number]))
                constants += recipe[3]
        for number in constants:
            self._send_constant(rank, number)
        self._send(rank, (DISPATCH, self.settings.number, codes, groups))

    def _send_constant(self, rank: int, number: int) -> None:
        """Large constants go to a rank once, and beside the dispatch that first needs them."""
        known = self._constants_at.setdefault(rank, set())
        if number not in known:
            known.add(number)
            head, buffers = head_of(self._plan.constants[number])
            self._send(rank, (CONSTANT, self.settings.number, number, head), buffers)

    def close(self) -> None:
        """End rank 0's own child processes."""
        if self.settings.guard is not None:
            self.settings.guard.close()
        if self._shell is not None:
            self._shell.close()

    # -- the end ------------------------------------------------------------------------------------------

    def say_goodbye(self, shared: Payload | None, wait_s: float = GOODBYE_S) -> list[int]:
        """Tell all ranks that the run is over and wait, within bounds; return who did not answer."""
        for rank in self._everyone():
            self._send(rank, (STOP, self.settings.number, shared))
        self.gone |= self.scheduler.silent  # whoever was cut off is told, but not waited for
        waiting = {rank for rank in self._everyone() if rank not in self.gone}
        pace = Pace()
        end = clock() + wait_s
        while waiting - self._said_goodbye - self.gone and clock() < end:
            arrived = self.transport.poll()
            mine = self._absorb(arrived, [])
            if self._shell is not None:
                self._shell.turn(mine)
            pace.wait(bool(arrived), self.transport.is_transferring, end)
        return sorted(waiting - self._said_goodbye - self.gone)
