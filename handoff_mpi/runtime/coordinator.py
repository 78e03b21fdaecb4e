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

from handoff_mpi import messages
from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.errors import JournalError
from handoff_mpi.membership import Membership
from handoff_mpi.results.store import Key, ResultStore
from handoff_mpi.runtime.coordinator_ports import (
    CoordinatorSettings,
    Decide,
    Facts,
    RecorderPort,
    SenderPort,
    Taken,
)
from handoff_mpi.runtime.dispatcher import Dispatcher
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.kept_values import KeptValues
from handoff_mpi.runtime.tracker_adapter import TrackerAdapter
from handoff_mpi.runtime.worker_reports import WorkerReports
from handoff_mpi.scheduler import (
    BroadcastLoss,
    Command,
    Dispatch,
    Forget,
    Retract,
    Scheduler,
    StopRequested,
)
from handoff_mpi.serialization import Payload

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
        self.updates: list[tuple[int, dict[str, object]]] = []
        self.trouble = ""
        self.stopped_at: float | None = None
        self.running_at_stop: list[int] = []
        self._decide = decide
        self._plan = plan
        self._recorder = recorder
        self._kept_values = KeptValues(self.dispatcher, scheduler, plan, kept, settings.run, settings.number)
        self._journal_writer = journal_writer
        self._tracker_adapter = tracker_adapter
        self._reports = WorkerReports(
            transport,
            scheduler,
            plan,
            recorder,
            home,
            self._kept_values,
            self.dispatcher,
            self.membership,
            journal_writer,
            settings,
        )
        self.encodings = self._reports.encodings
        here = next(iter(settings.hosts.values()), ())
        self._far = [rank for rank in settings.workers if rank not in here]
        self._next_greeting = 0.0 if settings.heartbeat_s else _NEVER
        self._now = 0.0

    @property
    def is_over(self) -> bool:
        """Whether all tasks have ended, and what must outlast the run is written."""
        return self.scheduler.is_over and not self._kept_values.is_going_on

    @property
    def has_more(self) -> bool:
        """Whether the last turn has left events that the machine must handle at once."""
        return bool(self._reports.events)

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
        reports = self._reports
        mine: list[Envelope] = []
        reports.events += facts.events
        if arrived:
            mine = reports.absorb(arrived, now)
        for _ in range(len(self.updates)):  # more may come meanwhile, without end
            reports.on_update(0, *self.updates.pop(0))
        if self.settings.has_own_worker:
            reports.events += self.membership.hear((0,), now)
        if facts.stop_reason and self.stopped_at is None:
            self._stop(facts.stop_reason)
        for loss in facts.lost:
            reports.events += reports.lose(loss)
        for rank in facts.alive:
            self.membership.find_alive(rank, now)
        for rank in facts.unseen:
            self._ask_about(rank)
        return Taken(mine, reports.take_lost())

    def _stop(self, reason: str) -> None:
        self.stopped_at = self._now
        self.running_at_stop = [] if self.trouble else [*dict.fromkeys(self.scheduler.running())]
        self._reports.events.append(StopRequested(reason))
        self._recorder.events.add("run.stopping", self._now, reason=reason)

    def _ask_about(self, rank: int) -> None:
        """Have ranks of its host look at the process of a silent rank."""
        here = next((ranks for ranks in self.settings.hosts.values() if rank in ranks), ())
        others = [other for other in here if other not in (0, rank) and other not in self.membership.lost]
        for other in others[:_MAX_ASKED_RANKS]:
            self.dispatcher.send(other, messages.check_process(self.settings.number, rank))

    def _greet(self) -> None:
        """Show ranks of other hosts that rank 0 lives; those of this host can look at its process."""
        self._next_greeting = self._now + self.settings.heartbeat_s
        for rank in self._far:
            self.dispatcher.send(rank, messages.heartbeat(self.settings.number))

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
        events = self._reports.take_events()
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
            self.dispatcher.send(command.rank, messages.retract(self.settings.number, command.tasks))
        elif isinstance(command, Forget):
            self.dispatcher.send(command.rank, messages.free_values(self.settings.number, command.tasks))
        elif isinstance(command, BroadcastLoss):
            self._announce(command.rank)

    def _dispatch(self, command: Dispatch) -> None:
        if self._tracker_adapter is not None:
            self._reports.events += self._tracker_adapter.request(command, self.scheduler.specs)
        # Even if all of it was refused: what was sent ahead behind it runs under its claim.
        if command.tasks or command.claim is not None:
            self._reports.events += self.dispatcher.pack(command)

    def _announce(self, lost: int) -> None:
        self._kept_values.lose(lost)
        for rank in self._everyone():
            if rank != lost:
                self.dispatcher.send(rank, messages.lost(self.settings.number, lost))

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
        self.write_nothing()
        if not self.trouble:
            self.trouble = str(error)
            print_message(self.trouble)
            self._recorder.events.add("run.not_written", now, reason=self.trouble)

    def write_nothing(self) -> None:
        """Have no journal: nobody resumes this run."""
        self._journal_writer = self._reports.journal_writer = None

    # -- the end ---------------------------------------------------------------------------------------

    def stop_workers(self, shared: Payload | None) -> set[int]:
        """Tell all ranks that the run is over; return those that will say goodbye, as far as is known.

        Args:
            shared: the encoded results, if every rank gets them.
        """
        for rank in self._everyone():
            self.dispatcher.send(rank, messages.stop(self.settings.number, shared))
        self.membership.end_run()  # a rank that was cut off gets the message, but nobody waits for its answer
        return self.membership.awaited(self._everyone())

    def close(self) -> None:
        """Give back what the user's tracker has granted."""
        if self._tracker_adapter is not None:
            self._tracker_adapter.close()

    def file_key(self, task: int) -> Key:
        """Return the key under which the value of ``task`` is written, or was."""
        return self.dispatcher.file_key(task)
