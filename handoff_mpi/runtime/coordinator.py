"""The coordinator of rank 0: it stores values, lets the machine decide, writes the journal, and then acts.

As in etcd's raft, a turn has two halves: :meth:`Coordinator.step` takes in events, and :meth:`Coordinator.ready` lets
the machine decide and carries out its commands. The order of effects is part of the design:

1. The coordinator stores values that arrived inline. Ranks that know an old file of such a value hear before that the
   file counts no more.
2. The machine handles the events. The last messages of a rank come before its loss.
3. The coordinator writes the record of the turn into the journal.
4. The tracker, the recorder and the ranks get the commands. Dispatches to a rank are batched into one message, and that
   message is sent before the rank is asked to return a task of it.

A process that dies between two of these steps has written nothing untrue, and has done nothing that the next launch
does not know of. The coordinator reads no clock and looks at no process or socket. Two callers do that for it: the loop
in :mod:`handoff_mpi.runtime.scheduler_loop`, and the simulated cluster in :mod:`handoff_mpi.simulation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.errors import DAGError, JournalError
from handoff_mpi.formatting import show
from handoff_mpi.membership import Membership
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
from handoff_mpi.results.store import Key, ResultStore
from handoff_mpi.runtime.announcements import input_in_words
from handoff_mpi.runtime.coordinator_ports import (
    CoordinatorSettings,
    Decide,
    Facts,
    Loss,
    RecorderPort,
    SenderPort,
    Taken,
)
from handoff_mpi.runtime.dispatcher import Dispatcher
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.kept_values import KeptValues
from handoff_mpi.runtime.tracker_adapter import TrackerAdapter
from handoff_mpi.scheduler import (
    BroadcastLoss,
    Command,
    Dispatch,
    Event,
    Finished,
    Forget,
    MemoryTold,
    ResourcesUpdated,
    Retract,
    Retracted,
    Scheduler,
    State,
    StopRequested,
    Unfetched,
)
from handoff_mpi.serialization import NOTHING, Payload

#: Kinds of messages that are for the worker of rank 0, if it has one.
_FOR_WORKERS = frozenset(
    {DISPATCH, CONSTANT, FILES, RETRACT, FREE_VALUES, LOST, CHECK_PROCESS, STOP, FETCH, VALUE, NOT_FOUND, REDIRECT}
)
#: How many ranks of a host are asked to look at a silent one: some may not receive messages either.
_MAX_ASKED_RANKS = 4
_NEVER = float("inf")


class Coordinator:
    """Carries events into the scheduler, and its commands out through ports.

    Args:
        transport: sends messages, and drops what is under way to a rank that is lost.
        scheduler: the machine.
        decide: hands events to the machine: :meth:`Scheduler.handle`, or a function that guards it.
        plan: the run's tables.
        recorder: keeps records.
        home: the store of values that arrived inline.
        kept: the store of values that must outlast the run.
        journal_writer: writes the journal; None if there is none.
        tracker_adapter: asks the user's resource tracker; None if there is none.
        membership: the table of ranks, which the coordinator alone changes during the run; the run has begun there.
        settings: see there.

    Attributes:
        updates: (rank, its resources from now on, as the user gave them); any thread may append one. A step takes them
            in after its messages, so that an update by a telemetry handler comes before the tasks that wait for it.
        trouble: why the journal is not written any further; empty if it is.
        stopped_at: when the run was asked to stop; None if it was not.
        running_at_stop: the tasks that ran then.
        encodings: task to (attempt, input, rank, since) of the last input that took that rank long to encode.
    """

    def __init__(
        self,
        transport: SenderPort,
        scheduler: Scheduler,
        decide: Decide,
        plan: Plan,
        recorder: RecorderPort,
        home: ResultStore,
        kept: ResultStore,
        journal_writer: JournalWriter | None,
        tracker_adapter: TrackerAdapter | None,
        membership: Membership,
        settings: CoordinatorSettings,
    ) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.membership = membership
        lost = membership.lost
        self.dispatcher = Dispatcher(transport, scheduler, plan, home, settings.run, settings.number, lost)
        self.updates: list[tuple[int, dict[str, Any]]] = []
        self.trouble = ""
        self.stopped_at: float | None = None
        self.running_at_stop: list[int] = []
        self.encodings: dict[int, tuple[int, int, int, float]] = {}
        self._transport = transport
        self._decide = decide
        self._plan = plan
        self._recorder = recorder
        self._home = home
        self._kept_values = KeptValues(self.dispatcher, scheduler, plan, kept, settings.run, settings.number)
        self._journal_writer = journal_writer
        self._tracker_adapter = tracker_adapter
        here = next(iter(settings.hosts.values()), ())
        self._far = [rank for rank in settings.workers if rank not in here]
        self._next_greeting = 0.0 if settings.heartbeat_s else _NEVER
        self._events: list[Event] = []
        self._lost: list[int] = []
        self._now = 0.0

    @property
    def is_over(self) -> bool:
        """Whether all tasks have ended, and what must outlast the run is written."""
        return self.scheduler.is_over and not self._kept_values.is_going_on

    @property
    def has_more(self) -> bool:
        """Whether the last turn has left events that the machine must handle at once."""
        return bool(self._events)

    @property
    def has_lost_all(self) -> bool:
        """Whether none of the other ranks is left."""
        return self.membership.lost.issuperset(self.settings.workers)

    def next_wakeup(self) -> float:
        """Return the time at which the next turn is due even if nothing happens."""
        return min(self.scheduler.next_wakeup(), self.membership.next_check, self._next_greeting)

    # -- the first half of a turn: events -------------------------------------------------------------

    def step(self, arrived: Sequence[Envelope | RankFailed], facts: Facts, now: float) -> Taken:
        """Take in messages and facts at the time ``now``, and store values that arrived inline.

        Messages come before losses: what a rank has reported before it died counts.
        """
        self._now = now
        events, mine, self._lost = self._events, [], []
        events += facts.events
        if arrived:
            mine = self._absorb(arrived, events)
        for _ in range(len(self.updates)):  # more may come meanwhile, without end
            self._absorb_update(*self.updates.pop(0), events)
        if self.settings.has_own_worker:
            events += self.membership.hear((0,), now)
        if facts.stop_reason and self.stopped_at is None:
            self._stop(facts.stop_reason)
        for loss in facts.lost:
            self._lose(loss, events)
        for rank in facts.alive:
            self.membership.find_alive(rank, now)
        for rank in facts.unseen:
            self._ask_about(rank)
        return Taken(mine, self._lost)

    def _absorb(self, arrived: Sequence[Envelope | RankFailed], events: list[Event]) -> list[Envelope]:
        """Turn what arrived into the machine's events; return what is for rank 0's own worker."""
        mine: list[Envelope] = []
        lost: list[Event] = []  # comes last: what a rank said before it died counts
        number, gone = self.settings.number, self.membership.lost
        # A message of a lost rank may come late: its host was cut off, say, and is back.
        arrived = [
            each
            for each in arrived
            if isinstance(each, RankFailed) or (each.message[1] == number and each.source not in gone)
        ]
        heard = {each.source for each in arrived if isinstance(each, Envelope)}
        returned = self.membership.hear(heard, self._now)  # before losses that arrived with these messages
        for each in arrived:
            if isinstance(each, RankFailed):
                self._lose(Loss(each.rank, each.reason), lost)
                continue
            message = each.message
            if self._kept_values.awaits(message):
                self._absorb_kept(each, events)
            elif message[0] == FETCH and self._is_for_a_file(message):
                self._kept_values.serve_file(each)
            elif message[0] in _FOR_WORKERS:
                mine.append(each)
            elif message[0] == PROCESS_STATUS and message[3]:
                self._lose(Loss(message[2], message[4]), lost)
            else:
                self._absorb_one(each.source, message, events)
        events += returned
        events += lost
        return mine

    def _is_for_a_file(self, message: tuple[Any, ...]) -> bool:
        """Whether a value is asked for as it lies in a file; with a codec it is for rank 0's worker, to encode it."""
        _, _, _, task, codec, *_ = message
        return not self.settings.has_own_worker or (codec is None and task in self.scheduler.tasks.persisted)

    def _absorb_one(self, source: int, message: tuple[Any, ...], events: list[Event]) -> None:
        kind = message[0]
        if kind == FINISHED:
            self._absorb_finished(source, message[2], events)
        elif kind == HEARTBEAT:
            for task, attempt, started in message[2]:
                if self.scheduler.tasks.is_current(task, attempt):
                    self._recorder.started(source, task, attempt, started)
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
            self._recorder.transferred(source, message[2])
        elif kind == USAGE:
            self._recorder.used(source, message[2], self._now)
        elif kind == PROCESS_STATUS:
            self.membership.find_alive(message[2], self._now)
        elif kind == ENCODING:
            self._note_encodings(message[2])
        elif kind == BYE:
            self.membership.leave(source)

    def _absorb_finished(self, source: int, reported: list[Entry], events: list[Event]) -> None:
        entries = self._keep_values(reported)
        self._recorder.finished(source, entries)
        if self._journal_writer is not None:
            self._journal_writer.finished(source, entries)
        events.append(Finished(source, reported))
        self._kept_values.finished(source, entries)

    def _keep_values(self, entries: list[Entry]) -> list[Entry]:
        """Store what arrived inline, before anything acts on it; return the entries that still count."""
        scheduler, home, run = self.scheduler, self._home, self.settings.run
        state, attempts = scheduler.tasks.state, scheduler.tasks.attempts
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

    def _absorb_kept(self, each: Envelope, events: list[Event]) -> None:
        task = self._kept_values.absorb(each, events)
        if task is not None and self._journal_writer is not None:
            self._journal_writer.persisted(task)

    def _absorb_update(self, rank: int, resources: dict[str, Any], events: list[Event]) -> None:
        try:
            events.append(ResourcesUpdated(rank, parse_resources(resources)))
        except DAGError as error:
            print_message(f"update_node_resources({rank}, {show(resources)}): {error}")

    def _note_encodings(self, reports: Sequence[tuple[int, int, int, int, float]]) -> None:
        for task, attempt, value, rank, since in reports:
            if self.scheduler.tasks.is_current(task, attempt):
                self.encodings[task] = (attempt, value, rank, since)

    def _stop(self, reason: str) -> None:
        self.stopped_at = self._now
        self.running_at_stop = [] if self.trouble else self.scheduler.slots.running()
        self._events.append(StopRequested(reason))
        self._recorder.events.add("run.stopping", self._now, reason=reason)

    def _lose(self, loss: Loss, events: list[Event]) -> None:
        news = self.membership.lose(*loss)
        if news:
            self._lost.append(loss.rank)
            self._transport.drop(loss.rank)
            events += news

    def _ask_about(self, rank: int) -> None:
        """Have ranks of its host look at the process of a silent rank."""
        here = next((ranks for ranks in self.settings.hosts.values() if rank in ranks), ())
        others = [other for other in here if other not in (0, rank) and other not in self.membership.lost]
        for other in others[:_MAX_ASKED_RANKS]:
            self.dispatcher.send(other, (CHECK_PROCESS, self.settings.number, rank))

    def _greet(self) -> None:
        """Show ranks of other hosts that rank 0 lives; those of this host can look at its process."""
        self._next_greeting = self._now + self.settings.heartbeat_s
        for rank in self._far:
            self.dispatcher.send(rank, (HEARTBEAT, self.settings.number))

    # -- the second half of a turn: effects ------------------------------------------------------------

    def ready(self, now: float) -> list[int]:
        """Let the machine decide at the time ``now``, write its decisions into the journal, and carry them out.

        Returns:
            Silent ranks whose processes the caller must look at.

        Raises:
            AllocationError: the strategy failed.
        """
        self._now = now
        scheduler = self.scheduler
        scheduler.dispatches.logs_claims = self._recorder.wants_claims()
        events, self._events = self._events, []
        unclear: list[int] = []
        if now >= self.membership.next_check:
            silent, unclear = self.membership.look(now)
            events += silent
        commands = self._decide(events, now)
        self._write_down()
        if self._tracker_adapter is not None:
            self._tracker_adapter.settle(scheduler.tasks.log)
        self._recorder.transitions(scheduler)
        for command in commands:
            self._obey(command)
        self.dispatcher.flush()
        self._kept_values.go_on()
        if now >= self._next_greeting:
            self._greet()
        return unclear

    def _obey(self, command: Command) -> None:
        if isinstance(command, Dispatch):
            self._dispatch(command)
        elif isinstance(command, Retract):
            self.dispatcher.flush_to(command.rank)
            self.dispatcher.send(command.rank, (RETRACT, self.settings.number, command.tasks))
        elif isinstance(command, Forget):
            self.dispatcher.send(command.rank, (FREE_VALUES, self.settings.number, command.tasks))
        elif isinstance(command, BroadcastLoss):
            self._announce(command.rank)

    def _dispatch(self, command: Dispatch) -> None:
        if self._tracker_adapter is not None:
            self._events += self._tracker_adapter.request(command, self.scheduler.specs)
        # Even if all of it was refused: what was sent ahead behind it runs under its claim.
        if command.tasks or command.claim is not None:
            self._events += self.dispatcher.pack(command)

    def _announce(self, lost: int) -> None:
        self._kept_values.lose(lost)
        for rank in self._everyone():
            if rank != lost:
                self.dispatcher.send(rank, (LOST, self.settings.number, lost))

    def _everyone(self) -> list[int]:
        return [*self.settings.workers, *([0] if self.settings.has_own_worker else [])]

    def _write_down(self) -> None:
        """Write this turn into the journal, before anything acts on it."""
        if self._journal_writer is None:
            return
        try:
            self._journal_writer.turn(self.scheduler.tasks.log, self.scheduler.now)
        except JournalError as error:
            self.stop_writing(error, self._now)

    def stop_writing(self, error: JournalError, now: float) -> None:
        """Write no more into the journal; what is done from now on is not lost, but runs again in a resumed run."""
        self._journal_writer = None
        if not self.trouble:
            self.trouble = str(error)
            print_message(self.trouble)
            self._recorder.events.add("run.not_written", now, reason=self.trouble)

    # -- the end ---------------------------------------------------------------------------------------

    def stop_workers(self, shared: Payload | None) -> set[int]:
        """Tell all ranks that the run is over; return those that will say goodbye, as far as is known.

        Args:
            shared: the encoded results, if every rank gets them.
        """
        for rank in self._everyone():
            self.dispatcher.send(rank, (STOP, self.settings.number, shared))
        self.membership.end_run()  # a rank that was cut off gets the message, but nobody waits for its answer
        return self.membership.awaited(self._everyone())

    def close(self) -> None:
        """Give back what the user's tracker has granted."""
        if self._tracker_adapter is not None:
            self._tracker_adapter.close()

    def file_key(self, task: int) -> Key:
        """Return the key under which the value of ``task`` is written, or was."""
        return self.dispatcher.file_key(task)
