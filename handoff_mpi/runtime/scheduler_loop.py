"""What rank 0 does: poll, handle, keep, send; one turn after the other until the run is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.callbacks import end_if_forked, in_words, is_interrupt
from handoff_mpi.comm import Envelope, RankFailed, Transport
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.errors import AllocationError, DAGError, JournalError, LauncherLost
from handoff_mpi.formatting import show
from handoff_mpi.messages import (
    BYE,
    CHECK_PROCESS,
    CONSTANT,
    DISPATCH,
    ENCODING,
    FETCH,
    FILES,
    FINISHED,
    FREE_VALUES,
    HEARTBEAT,
    INPUT_UNAVAILABLE,
    LOST,
    MEMORY,
    NOT_FOUND,
    OK,
    PROCESS_STATUS,
    REDIRECT,
    RETRACT,
    RETRACTED,
    STOP,
    TRANSFERRED,
    UPDATE,
    USAGE,
    VALUE,
    Entry,
    ErrorReport,
)
from handoff_mpi.resources import parse_resources
from handoff_mpi.results.store import ResultStore
from handoff_mpi.runtime.announcements import input_in_words
from handoff_mpi.runtime.backoff import Backoff, clock
from handoff_mpi.runtime.dispatcher import Dispatcher
from handoff_mpi.runtime.host_monitor import HostGuard
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.kept_values import KeptValues
from handoff_mpi.runtime.process_monitor import GONE, LIVES, STOPPED, ProcessMonitor
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.runtime.tracker_adapter import TrackerAdapter
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.scheduler import (
    BroadcastLoss,
    CheckProcess,
    Command,
    Dispatch,
    Event,
    Finished,
    Forget,
    HeartbeatReceived,
    MemoryTold,
    ProcessChecked,
    RankLost,
    ResourcesUpdated,
    Retract,
    Retracted,
    Scheduler,
    State,
    StopRequested,
    Unfetched,
)
from handoff_mpi.serialization import NOTHING, Payload

_FOR_WORKERS = frozenset(
    {DISPATCH, CONSTANT, FILES, RETRACT, FREE_VALUES, LOST, CHECK_PROCESS, STOP, FETCH, VALUE, NOT_FOUND, REDIRECT}
)
#: Workers that have not said goodbye after this long are left behind.
SHUTDOWN_TIMEOUT_S = 10.0
#: Seconds between two looks at the run-dir.
CONFIRM_S = 1.0
#: How long a launcher that dies takes to be gone.
LAUNCHER_S = 1.0
#: Seconds between two looks at what is not told by messages: the launcher, neighbours, the run-dir, other hosts.
CHECK_INTERVAL_S = 0.02
#: How many ranks of a host are asked to look at a silent one: they may be deaf themselves.
_MAX_ASKED_RANKS = 4


@dataclass(slots=True)
class LoopSettings:
    """What the loop needs to know of a run.

    Attributes:
        run: the run's name.
        number: the run's number, part of every message.
        workers: the ranks that take part besides rank 0.
        grace_period_s: seconds that running calls are given once the run is stopped.
        tracker: the user's resource tracker, or None.
        pids: host to its ranks' process ids, by rank; rank 0's own host comes first.
        heartbeat_s: ranks of other hosts get a sign of life this often; 0 sends none.
        guard: looks after other hosts; None where nobody could be asked.
        has_own_strategy: whether the user's own code allocates.
        has_launcher: whether the other ranks end with the process that has started this one.
        confirm: called once a second; it raises when the run is no longer this launch's.
        report: called once a second with the time: it tells people how the run goes.
    """

    run: str
    number: int
    workers: Sequence[int]
    grace_period_s: float
    tracker: Any = None
    pids: dict[str, dict[int, int]] = field(default_factory=dict)
    heartbeat_s: float = 0.0
    guard: HostGuard | None = None
    confirm: Callable[[], None] = lambda: None
    has_own_strategy: bool = False
    has_launcher: bool = True
    report: Callable[[float], None] = lambda now: None


class SchedulerLoop:
    """Carries events into the scheduler and its commands out.

    Args:
        transport: rank 0's end.
        scheduler: the machine, its tasks submitted or to be submitted by ``submit``.
        plan: the run's tables.
        recorder: what ran where and when.
        home: where values rest that came home.
        kept: where values are written that must outlast the run.
        journal_writer: writes the journal.
        settings: see there.
        shell: rank 0's own worker, if it computes.

    Attributes:
        trouble: why the journal is not written any further; empty if it is.
        encodings: task to (attempt, input, rank, since) of the last input that took that rank long to encode.
    """

    def __init__(
        self,
        transport: Transport,
        scheduler: Scheduler,
        plan: Plan,
        recorder: Recorder,
        home: ResultStore,
        kept: ResultStore,
        journal_writer: JournalWriter | None,
        settings: LoopSettings,
        shell: WorkerDriver | None,
    ) -> None:
        self.transport = transport
        self.scheduler = scheduler
        self.settings = settings
        self.recorder = recorder
        self.stop_reason: Callable[[], str] = lambda: ""
        here = next(iter(settings.pids.values()), {})
        self._process_monitor = ProcessMonitor(0, here)
        self._far = [rank for rank in settings.workers if rank not in here]
        self._next_look = 0.0
        self._next_confirm = 0.0
        self._next_greeting = 0.0
        self._home = home
        self._plan = plan
        self.dispatcher = Dispatcher(transport, scheduler, plan, home, settings.run, settings.number)
        self._kept_values = KeptValues(self.dispatcher, scheduler, plan, kept, settings.run, settings.number)
        self._kept_values.on_persisted = self._note_persisted
        self._journal_writer = journal_writer
        self.trouble = ""
        self._shell = shell
        self._launcher = os.getppid()
        self._process = os.getpid()
        self._stopped_at: float | None = None
        self.running_at_stop: list[int] = []
        self.encodings: dict[int, tuple[int, int, int, float]] = {}
        self._shut_down: set[int] = set()
        self.gone = self.dispatcher.gone
        self._updates: list[tuple[int, dict[str, Any]]] = []
        self._tracker_adapter = (
            None if settings.tracker is None else TrackerAdapter(settings.tracker, scheduler.ledger.offered_by)
        )

    # -- the run --------------------------------------------------------------------------------------

    def run(self, first: Iterable[Event]) -> None:
        """Run until the scheduler is done, or was stopped and what ran has ended or used up its grace period.

        Raises:
            LauncherLost: the launcher is gone.
            Superseded: a newer launch has taken over.
        """
        backoff = Backoff(self.transport.doorbell)
        events: list[Event] = [*first]
        wakeup = 0.0
        sockets: list[Any]
        while True:
            # Most looks find nothing, and must cost next to nothing.
            arrived = self.transport.poll()
            mine = self._absorb(arrived, events) if arrived or self._updates else []
            self._look_at_stop(events)
            now = clock()
            if now >= self._next_look:
                self._look_around(now, events)
            was_busy = bool(events)
            if was_busy or now >= wakeup:
                if self._shell is not None:
                    events.append(HeartbeatReceived((0,)))
                self._turn(events)
                wakeup = self.scheduler.next_wakeup()
                events = []
            if self._shell is not None:
                was_busy |= self._shell.turn(mine)
                was_busy |= self._shell.run_own_calls()
            if (self.scheduler.is_over and not self._kept_values.is_going_on) or self._is_grace_period_over():
                return
            until, sockets, is_awaiting = wakeup, [], self.transport.is_transferring
            if self._shell is not None:
                is_awaiting |= self._shell.is_hasty
                until = min(until, self._shell.machine.next_wakeup())
                sockets = self._shell.sockets()
            backoff.wait(was_busy, is_awaiting, until, sockets)

    def _leave_lost_job(self) -> None:
        if self.settings.workers and self.settings.has_launcher:
            raise LauncherLost("the launcher is gone; what was done is in the journal, and the same command resumes")

    def _turn(self, events: list[Event]) -> None:
        """Let the machine handle ``events``; a tracker's refusals are events too."""
        self.scheduler.logs_claims = self.recorder.wants_claims()
        while True:
            commands = self._handle(events, clock())
            events = []
            self._write_down()
            if self._tracker_adapter is not None:
                self._tracker_adapter.settle(self.scheduler.log)
            self.recorder.transitions(self.scheduler)
            for command in commands:
                if isinstance(command, Dispatch):
                    if self._tracker_adapter is not None:
                        events += self._tracker_adapter.request(command, self.scheduler.specs)
                    # Even if all of it was refused: what was sent ahead behind it runs under its claim.
                    if command.tasks or command.claim is not None:
                        events += self.dispatcher.pack(command)
                elif isinstance(command, Retract):
                    self.dispatcher.flush_to(command.rank)
                    self.dispatcher.send(command.rank, (RETRACT, self.settings.number, command.tasks))
                elif isinstance(command, Forget):
                    self.dispatcher.send(command.rank, (FREE_VALUES, self.settings.number, command.tasks))
                elif isinstance(command, BroadcastLoss):
                    self._announce(command.rank)
                elif isinstance(command, CheckProcess):
                    self._examine(command.rank, events)
            self.dispatcher.flush()
            self._kept_values.go_on()
            if not events:
                return

    def _handle(self, events: list[Event], now: float) -> list[Command]:
        """Let the machine handle ``events``; the user's strategy is code that it calls.

        Raises:
            AllocationError: the strategy failed.
        """
        try:
            commands = self.scheduler.handle(events, now)
        except BaseException as error:
            end_if_forked(self._process, error)
            if isinstance(error, Exception) or is_interrupt(error):
                raise
            raise AllocationError(f"the strategy failed: {in_words(error)}") from error
        if self.settings.has_own_strategy:
            end_if_forked(self._process)
        return commands

    def _announce(self, lost: int) -> None:
        self._kept_values.lose(lost)
        for rank in self._everyone():
            if rank != lost:
                self.dispatcher.send(rank, (LOST, self.settings.number, lost))

    def _write_down(self) -> None:
        """Write this turn into the journal, before anything acts on it."""
        if self._journal_writer is None:
            return
        try:
            self._journal_writer.turn(self.scheduler.log, self.scheduler.now)
        except JournalError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: JournalError) -> None:
        """What goes on is not lost, only not remembered: it may run again when the run is resumed."""
        self._journal_writer = None
        if not self.trouble:
            self.trouble = str(error)
            print_message(str(error))
            self.recorder.events.add("run.not_written", clock(), reason=self.trouble)

    def confirm(self) -> None:
        """Look whether the run-dir is still this launch's, and still there.

        Raises:
            Superseded: a newer launch has taken over.
        """
        try:
            self.settings.confirm()
        except JournalError as error:
            self._stop_writing(error)

    def _note_persisted(self, task: int) -> None:
        if self._journal_writer is not None:
            self._journal_writer.persisted(task)

    def _look_at_stop(self, events: list[Event]) -> None:
        reason = self.trouble or self.stop_reason()
        if reason and self._stopped_at is None:
            self._stopped_at = clock()
            self.running_at_stop = [] if self.trouble else self.scheduler.slots.running()
            events.append(StopRequested(reason))
            self.recorder.events.add("run.stopping", self._stopped_at, reason=reason)

    def _is_grace_period_over(self) -> bool:
        return self._stopped_at is not None and clock() - self._stopped_at >= self.settings.grace_period_s

    # -- what arrives -----------------------------------------------------------------------------------

    def _absorb(self, arrived: Sequence[Envelope | RankFailed], events: list[Event]) -> list[Envelope]:
        """Turn what arrived into the scheduler's events; return what is for rank 0's own worker."""
        mine: list[Envelope] = []
        lost: list[Event] = []  # comes last: what a rank said before it died counts
        heard: dict[int, None] = {}
        gone = frozenset(self.gone)  # before; whoever is lost by this very mail is listened to
        for each in arrived:
            if isinstance(each, RankFailed):
                self._lose(each.rank, each.reason, lost)
                continue
            message = each.message
            if message[1] != self.settings.number or each.source in gone:
                continue  # what comes late of a lost rank: its host was cut off, say, and is back
            heard[each.source] = None
            if self._kept_values.awaits(message):
                self._kept_values.absorb(each, events)
            elif message[0] == FETCH and self._is_for_a_file(message):
                self._kept_values.serve_file(each)
            elif message[0] in _FOR_WORKERS:
                mine.append(each)
            elif message[0] == PROCESS_STATUS and message[3]:
                self._lose(message[2], message[4], lost)
            else:
                self._absorb_one(each.source, message, events)
        for _ in range(len(self._updates)):  # more may come meanwhile, without end
            self._absorb_update(*self._updates.pop(0), events)
        if heard:
            events.append(HeartbeatReceived(tuple(heard)))
        events += lost
        return mine

    def _is_for_a_file(self, message: tuple[Any, ...]) -> bool:
        """Whether a value is asked for as it lies in a file; with a codec it is for rank 0's worker, to encode it."""
        _, _, _, task, codec, *_ = message
        return self._shell is None or (codec is None and task in self.scheduler.tasks.persisted)

    def _lose(self, rank: int, reason: str, events: list[Event], with_its_host: bool = False) -> None:
        self.gone.add(rank)
        self._process_monitor.forget(rank)
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

    def _look_around(self, now: float, events: list[Event]) -> None:
        self._next_look = now + CHECK_INTERVAL_S
        if os.getppid() != self._launcher:
            self._leave_lost_job()
        lost = self._process_monitor.look_around(now)
        if lost is not None:
            self._lose(*lost, events)
        if now >= self._next_confirm:
            self._next_confirm = now + CONFIRM_S
            self.confirm()
            self.settings.report(now)
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
                self.dispatcher.send(rank, (HEARTBEAT, self.settings.number))

    def _examine(self, rank: int, events: list[Event]) -> None:
        """Look at a silent rank's process, or have ranks of its host do it."""
        state, reason = self._process_monitor.examine(rank, clock())
        if state in (GONE, STOPPED):
            self._lose(rank, reason, events)
        elif state == LIVES:
            events.append(ProcessChecked(rank, False, reason))
        else:
            here = next((ranks for ranks in self.settings.pids.values() if rank in ranks), {})
            for other in [other for other in here if other not in (0, rank) and other not in self.gone][
                :_MAX_ASKED_RANKS
            ]:
                self.dispatcher.send(other, (CHECK_PROCESS, self.settings.number, rank))

    def _absorb_one(self, source: int, message: tuple[Any, ...], events: list[Event]) -> None:
        kind = message[0]
        if kind == FINISHED:
            entries = self._keep_values(message[2])
            self.recorder.finished(source, entries)
            if self._journal_writer is not None:
                self._journal_writer.finished(source, entries)
            events.append(Finished(source, message[2]))
            self._kept_values.finished(source, entries)
        elif kind == HEARTBEAT:
            for task, attempt, started in message[2]:
                if self.scheduler.is_current(task, attempt):
                    self.recorder.started(source, task, attempt, started)
        elif kind == RETRACTED:
            events.append(Retracted(source, message[2]))
        elif kind == INPUT_UNAVAILABLE:
            events.append(Unfetched(source, message[2], message[3], message[4]))
            self._kept_values.rewrite(message[4])
        elif kind == UPDATE:
            self._absorb_update(message[2], message[3], events)
        elif kind == MEMORY:
            events.append(MemoryTold(source, message[2], message[3]))
        elif kind == TRANSFERRED:
            self.recorder.transferred(source, message[2])
        elif kind == USAGE:
            self.recorder.used(source, message[2], clock())
        elif kind == PROCESS_STATUS:
            events.append(ProcessChecked(message[2], False, message[4]))
        elif kind == ENCODING:
            self._note_encodings(message[2])
        elif kind == BYE:
            self._shut_down.add(source)

    def _note_encodings(self, reports: Sequence[tuple[int, int, int, int, float]]) -> None:
        for task, attempt, value, rank, since in reports:
            if self.scheduler.is_current(task, attempt):
                self.encodings[task] = (attempt, value, rank, since)

    def _absorb_update(self, rank: int, resources: dict[str, Any], events: list[Event]) -> None:
        try:
            events.append(ResourcesUpdated(rank, parse_resources(resources)))
        except DAGError as error:
            print_message(f"update_node_resources({rank}, {show(resources)}): {error}")

    def update_resources(self, rank: int, resources: dict[str, Any]) -> None:
        """Take in a change of a rank's resources, at the next turn; from any thread of rank 0."""
        self._updates.append((rank, resources))

    def _keep_values(self, entries: list[Any]) -> list[Any]:
        """Store what rode home, before anything acts on it; return the entries that still count."""
        scheduler, home, run = self.scheduler, self._home, self.settings.run
        state, attempts = scheduler.state, scheduler.attempts
        current = []
        for entry in entries:
            task = entry[0]
            if state[task] == State.DISPATCHED and attempts[task] == entry[1]:
                current.append(entry)
                if entry[2] == OK:
                    self.dispatcher.forget_old_file(task)
                    payload = entry[3]
                    if payload is not None:  # one None is kept for all
                        home.put((run, task), NOTHING if payload == NOTHING else payload)
                elif entry[3].input >= 0:
                    current[-1] = entries[entries.index(entry)] = self._with_input_named(entry)
        return current

    def _with_input_named(self, entry: Entry) -> Entry:
        """Return ``entry``, of a call that did not get one of its inputs, with a message that says which."""
        error: ErrorReport = entry[3]
        return (*entry[:3], error._replace(message=input_in_words(self._plan, entry[0], error), input=-1), *entry[4:])

    # -- what is sent -----------------------------------------------------------------------------------

    def _everyone(self) -> list[int]:
        return [*self.settings.workers, *([0] if self._shell is not None else [])]

    def close(self) -> None:
        """End rank 0's own child processes, and break the reference cycles."""
        self._kept_values.on_persisted = lambda task: None
        if self._tracker_adapter is not None:
            self._tracker_adapter.close()
        if self.settings.guard is not None:
            self.settings.guard.close()
        if self._shell is not None:
            self._shell.close()

    # -- the end ------------------------------------------------------------------------------------------

    def shut_down_workers(self, shared: Payload | None, wait_s: float = SHUTDOWN_TIMEOUT_S) -> list[int]:
        """Tell all ranks that the run is over and wait, within bounds; return who did not answer."""
        for rank in self._everyone():
            self.dispatcher.send(rank, (STOP, self.settings.number, shared))
        self.gone |= self.scheduler.silent  # whoever was cut off is told, but not waited for
        waiting = {rank for rank in self._everyone() if rank not in self.gone}
        backoff = Backoff(self.transport.doorbell)
        end = clock() + wait_s
        while waiting - self._shut_down - self.gone and clock() < end:
            arrived = self.transport.poll()
            mine = self._absorb(arrived, [])
            if self._shell is not None:
                self._shell.turn(mine)
            backoff.wait(bool(arrived), self.transport.is_transferring, end)
        return sorted(waiting - self._shut_down - self.gone)
