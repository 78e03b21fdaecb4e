"""The loop of rank 0: poll, gather facts, let the coordinator act, wait; turn after turn until the run is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.callbacks import end_if_forked, in_words, is_interrupt
from handoff_mpi.comm import Envelope, RankFailed, Transport
from handoff_mpi.dag import Plan
from handoff_mpi.errors import AllocationError, JournalError, LauncherLost
from handoff_mpi.membership import Membership
from handoff_mpi.results.store import ResultStore
from handoff_mpi.runtime.backoff import Backoff, clock
from handoff_mpi.runtime.coordinator import Coordinator
from handoff_mpi.runtime.coordinator_ports import CoordinatorSettings, Facts, Loss
from handoff_mpi.runtime.host_monitor import HostGuard
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.process_monitor import GONE, LIVES, STOPPED, ProcessMonitor
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.runtime.tracker_adapter import TrackerAdapter
from handoff_mpi.runtime.windowed_arrays import WindowedArrays
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.scheduler import Command, Event, Scheduler
from handoff_mpi.serialization import Payload

#: Workers that have not said goodbye after this long are left behind.
SHUTDOWN_TIMEOUT_S = 10.0
#: Seconds between two looks at the run-dir.
CONFIRM_S = 1.0
#: How long a launcher that dies takes to end.
LAUNCHER_S = 1.0
#: Seconds between two looks at what is not told by messages: the launcher, neighbours, the run-dir, other hosts.
CHECK_INTERVAL_S = 0.02


@dataclass(slots=True)
class LoopSettings:
    """Facts of a run that the loop needs.

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


class GuardedMachine:
    """Hands events to the machine, and guards rank 0 against the user's strategy, which the machine calls.

    Args:
        scheduler: the machine.
        has_own_strategy: whether the user's own code allocates.
    """

    def __init__(self, scheduler: Scheduler, has_own_strategy: bool) -> None:
        self._scheduler = scheduler
        self._has_own_strategy = has_own_strategy
        self._process = os.getpid()

    def decide(self, events: list[Event], now: float) -> list[Command]:
        """Return the machine's commands.

        Raises:
            AllocationError: the strategy failed.
        """
        try:
            commands = self._scheduler.handle(events, now)
        except BaseException as error:
            end_if_forked(self._process, error)
            if isinstance(error, Exception) or is_interrupt(error):
                raise
            raise AllocationError(f"the strategy failed: {in_words(error)}") from error
        if self._has_own_strategy:
            end_if_forked(self._process)
        return commands


class SchedulerLoop:
    """Gathers facts for the coordinator of a run, carries messages to it, and waits while nothing happens.

    Args:
        transport: rank 0's end.
        scheduler: the machine, its tasks submitted or to be submitted by ``run``.
        plan: the run's tables.
        recorder: what ran where and when.
        home: where values rest that came home.
        kept: where values are written that must outlast the run.
        journal_writer: writes the journal.
        settings: see there.
        worker: rank 0's own worker, if it computes.
        membership: the job's table of ranks.

    Attributes:
        coordinator: decides, stores, writes and sends.
        windowed: the arrays whose elements come while the run continues; None if there are none.
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
        worker: WorkerDriver | None,
        membership: Membership,
    ) -> None:
        self.transport = transport
        self.scheduler = scheduler
        self.settings = settings
        self.stop_reason: Callable[[], str] = lambda: ""
        self._process_monitor = ProcessMonitor(0, next(iter(settings.pids.values()), {}))
        self._next_look = 0.0
        self._next_confirm = 0.0
        self._worker = worker
        self._launcher = os.getppid()
        self.windowed: WindowedArrays | None = None
        self.membership = membership
        self._facts = Facts()
        self._facts.events += membership.begin_run(scheduler.ledger.rank_states, scheduler.policy.heartbeat_timeout_s)
        self.coordinator = Coordinator(
            transport,
            scheduler,
            GuardedMachine(scheduler, settings.has_own_strategy).decide,
            plan,
            recorder,
            home,
            kept,
            journal_writer,
            None if settings.tracker is None else TrackerAdapter(settings.tracker, scheduler.ledger.offered_by),
            membership,
            CoordinatorSettings(
                settings.run, settings.number, settings.workers, worker is not None, settings.pids, settings.heartbeat_s
            ),
        )

    # -- the run --------------------------------------------------------------------------------------

    def run(self, first: Iterable[Event]) -> None:
        """Run until the scheduler is done, or was stopped and what ran has ended or used up its grace period.

        Raises:
            LauncherLost: the launcher has ended.
            Superseded: a newer launch has taken over.
        """
        backoff = Backoff(self.transport.doorbell)
        self._facts.events += first
        wakeup = 0.0
        mine: Sequence[Envelope]
        worker = self._worker
        while True:
            # Most looks find nothing, and must cost next to nothing.
            arrived = self.transport.poll()
            now = clock()
            self._gather(now)
            mine = ()
            was_busy = bool(arrived or self._facts or self.coordinator.updates)
            if was_busy or now >= wakeup:
                mine = self._turn(arrived)
                wakeup = self.coordinator.next_wakeup()
            if worker is not None:
                was_busy |= worker.turn(mine)
                was_busy |= worker.run_own_calls()
            if self.coordinator.is_over or self._is_grace_period_over():
                return
            if backoff.spin(was_busy, self.transport.is_transferring or (worker is not None and worker.is_hasty)):
                continue
            wake = [] if self.windowed is None else [self.windowed]
            if worker is None:
                backoff.sleep(wakeup, wake, self.transport.all_rings)
            else:
                until = min(wakeup, worker.machine.next_wakeup())
                backoff.sleep(until, [*worker.sockets(), *wake], self.transport.all_rings)

    def _turn(self, arrived: Sequence[Envelope | RankFailed]) -> list[Envelope]:
        """Let the coordinator act until no event is left; return the messages for rank 0's own worker."""
        mine: list[Envelope] = []
        while True:
            facts = self._facts
            if facts:
                self._facts = Facts()
            mine += self._step(arrived, facts)
            for rank in self.coordinator.ready(clock()):
                self._examine(rank)
            if not (self.coordinator.has_more or self._facts):
                return mine
            arrived = ()

    def _step(self, arrived: Sequence[Envelope | RankFailed], facts: Facts) -> list[Envelope]:
        """Let the coordinator take in messages and facts, and see to the processes of lost ranks before it acts."""
        mine, lost = self.coordinator.step(arrived, facts, clock())
        for rank in lost:
            self._process_monitor.forget(rank)
        if lost and self.coordinator.has_lost_all:
            self._await_end_of_launcher()
        return mine

    def _is_grace_period_over(self) -> bool:
        stopped_at = self.coordinator.stopped_at
        return stopped_at is not None and clock() - stopped_at >= self.settings.grace_period_s

    # -- facts ----------------------------------------------------------------------------------------

    def _gather(self, now: float) -> None:
        """Gather the facts that the coordinator cannot see itself."""
        reason = self.coordinator.trouble or self.stop_reason()
        if reason and self.coordinator.stopped_at is None:
            self._facts.stop_reason = reason
        if self.windowed is not None:
            self._facts.events += self.windowed.events(now)
        if now >= self._next_look:
            self._look_around(now)

    def _look_around(self, now: float) -> None:
        self._next_look = now + CHECK_INTERVAL_S
        if os.getppid() != self._launcher:
            self._leave_lost_job()
        lost = self._process_monitor.look_around(now)
        if lost is not None:
            self._facts.lost.append(Loss(*lost))
        if now >= self._next_confirm:
            self._next_confirm = now + CONFIRM_S
            self.confirm()
            self.settings.report(now)
            self._guard_hosts(now)

    def _guard_hosts(self, now: float) -> None:
        guard, table = self.settings.guard, self.membership
        for rank, reason in () if guard is None else guard.look(table.heard, table.lost, now):
            self._facts.lost.append(Loss(rank, reason, with_its_host=True))

    def _examine(self, rank: int) -> None:
        """Look at a silent rank's process; the coordinator has ranks of its host do it where that is not possible."""
        state, reason = self._process_monitor.examine(rank, clock())
        if state in (GONE, STOPPED):
            self._facts.lost.append(Loss(rank, reason))
        elif state == LIVES:
            self._facts.alive.append(rank)
        else:
            self._facts.unseen.append(rank)

    def confirm(self) -> None:
        """Look whether the run-dir is still this launch's, and still there.

        Raises:
            Superseded: a newer launch has taken over.
        """
        try:
            self.settings.confirm()
        except JournalError as error:
            self.coordinator.stop_writing(error, clock())

    def update_resources(self, rank: int, resources: dict[str, object]) -> None:
        """Take in a change of a rank's resources, at the next turn; from any thread of rank 0."""
        self.coordinator.updates.append((rank, resources))

    def _await_end_of_launcher(self) -> None:
        """The loss of all ranks at once means a launcher that dies: MPI reports it a moment before the kernel does."""
        end = clock() + LAUNCHER_S
        while clock() < end:
            if os.getppid() != self._launcher:
                self._leave_lost_job()
            time.sleep(0.01)

    def _leave_lost_job(self) -> None:
        if self.settings.workers and self.settings.has_launcher:
            raise LauncherLost("the launcher has ended; what was done is in the journal, and the same command resumes")

    # -- the end --------------------------------------------------------------------------------------

    def shut_down_workers(self, shared: Payload | None, wait_s: float = SHUTDOWN_TIMEOUT_S) -> list[int]:
        """Tell all ranks that the run is over and wait, within bounds; return who did not answer."""
        waiting = self.coordinator.stop_workers(shared)
        backoff = Backoff(self.transport.doorbell)
        end = clock() + wait_s
        while self.membership.awaited(waiting) and clock() < end:
            arrived = self.transport.poll()
            mine = self._step(arrived, Facts())
            if self._worker is not None:
                self._worker.turn(mine)
            backoff.wait(bool(arrived), self.transport.is_transferring, end)
        return sorted(self.membership.awaited(waiting))

    def close(self) -> None:
        """End rank 0's own child processes, and release what the tracker has granted."""
        self.coordinator.close()
        if self.windowed is not None:
            self.windowed.close()
        if self.settings.guard is not None:
            self.settings.guard.close()
        if self._worker is not None:
            self._worker.close()
