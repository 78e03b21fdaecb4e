"""The third stage of a run: its ranks have its start, and the loop of rank 0 carries it out to its end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from handoff_mpi import messages, telemetry
from handoff_mpi.console import print_message
from handoff_mpi.errors import (
    EXIT_STOPPED,
    HandoffError,
    JournalError,
    LauncherLost,
    Superseded,
    TransportError,
    ValueDamaged,
)
from handoff_mpi.launch.admission import is_builtin
from handoff_mpi.launch.begun_run import BegunRun
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.late_values import undecided_arrays
from handoff_mpi.launch.rank_setups import RankSetups
from handoff_mpi.launch.run_reporter import RunReporter
from handoff_mpi.launch.run_results import make_results
from handoff_mpi.process_context import this_process
from handoff_mpi.results import Results
from handoff_mpi.runtime import gc_control
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.resource_updates import UpdateTarget
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.scheduler_loop import SHUTDOWN_TIMEOUT_S, LoopSettings, SchedulerLoop
from handoff_mpi.runtime.windowed_arrays import windowed_arrays
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.scheduler import Closed, Submitted
from handoff_mpi.serialization import encode_in_band
from handoff_mpi.telemetry import events

#: Ranks of a launch that was superseded get this long to say goodbye.
_SHORT_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a run ends that has no results.

    Attributes:
        is_lost: whether the job is lost: the run has no verdict yet, as it is launched again.
        is_superseded: whether a newer launch has taken over.
    """

    status: str = "broken"
    exit_code: int = 1
    reason: str = ""
    is_lost: bool = False
    is_superseded: bool = False


class RunInProgress:
    """A run that the ranks carry out; on rank 0.

    Args:
        run: the stage before.
        stays_open: see :class:`~handoff_mpi.runtime.run_setup.RunSetup`.

    Attributes:
        loop: of rank 0.
        summary: what ``summary.json`` holds; None before the end of the run, and where none is recorded.
    """

    def __init__(self, run: BegunRun, stays_open: bool = False) -> None:
        self.summary: dict[str, Any] | None = None
        self._run = run
        self._checked = run.checked
        self._scheduler = run.checked.scheduler
        self._files = run.files
        self._reporter = RunReporter(run)
        self._results: Results | None = None
        setups = RankSetups(run, stays_open)
        rank0s = None
        workers = []
        for rank, setup in setups.all().items():
            if rank == 0:
                rank0s = self._make_driver(setup)
            else:
                workers.append(rank)
                run.checked.job.transport.send(rank, messages.start(setup))
        settings = self._make_settings(setups, workers)
        self.loop = self._make_loop(settings, rank0s)

    # -- what it needs --------------------------------------------------------------------------------

    def _make_driver(self, setup: RunSetup) -> WorkerDriver:
        """Make rank 0's own worker."""
        job = self._checked.job
        driver = WorkerDriver(job.transport, setup, store=self._checked.own_store)
        has_own_handler = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        driver.caller.lets_interrupt = not (job.is_mpi or has_own_handler)
        self._run.progress.own_calls = driver.own_calls.running
        return driver

    def _make_settings(self, setups: RankSetups, workers: list[int]) -> LoopSettings:
        job, options = self._checked.job, self._checked.options
        return LoopSettings(
            self._run.name,
            self._run.number,
            workers,
            self._checked.grace_period_s if job.grace_period_s is None else job.grace_period_s,
            options.resource_tracker,
            setups.pids,
            setups.heartbeat_s,
            setups.host_guard(),
            self._files.confirm,
            not is_builtin(self._checked.strategy),
            has_launcher=job.is_mpi,
            report=self._reporter.report_from_loop,
        )

    def _make_loop(self, settings: LoopSettings, rank0s: WorkerDriver | None) -> SchedulerLoop:
        run, job = self._run, self._checked.job
        loop = SchedulerLoop(
            job.transport,
            self._scheduler,
            self._checked.plan,
            run.recorder,
            run.home,
            self._files.kept,
            run.journal_writer,
            settings,
            rank0s,
            job.membership,
        )
        loop.coordinator.dispatcher.file_keys = run.resumed.keys
        loop.coordinator.dispatcher.array_values = run.resumed.array_values
        loop.stop_reason = _stop_reason(job, settings, self._scheduler.policy.stop_at)
        return loop

    # -- what it does ---------------------------------------------------------------------------------

    def carry_out(self) -> Results:
        """Carry the run out; return its results.

        Raises:
            HandoffError: it has no results, because the launcher, MPI or the run-dir is lost, say.
            KeyboardInterrupt: the user has interrupted it, in one process.
        """
        failure = _Failure()
        try:
            self._reporter.tell_start()
            with this_process.of(UpdateTarget).taking(self.loop), self._reporter.reporting():
                self._run_loop()
                self._results = make_results(self._run, self.loop.coordinator)
                return self._close(self._results)
        except HandoffError as error:
            is_lost = isinstance(error, (LauncherLost, TransportError))
            failure = _Failure("broken", error.exit_code, str(error), is_lost, isinstance(error, Superseded))
            raise
        except KeyboardInterrupt:
            failure = _Failure("stopped", EXIT_STOPPED)
            self._end_journal_writer(failure.status, failure.exit_code)  # what was running is under no suspicion
            raise
        finally:
            if self._results is None:
                self._end_without_results(failure)
            self._close_tables()

    def end(self, limit_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """End a run whose results nobody wants: the ranks leave it, within ``limit_s``."""
        try:
            silent = self.loop.shut_down_workers(None, limit_s)
            self._checked.job.unanswered.update(silent)
            if silent:
                print_message(f"ranks {silent} have not answered at the end of a map")
        finally:
            self._close_tables()

    def _close_tables(self) -> None:
        self.loop.close()
        self._files.close()
        self._scheduler.close()

    def _run_loop(self) -> None:
        resumed, announcer = self._run.resumed, self._run.recorder.announcer
        elements = {number: values.have for number, values in resumed.array_values.items()}
        earlier = resumed.rest, resumed.suspects, resumed.deaths, elements
        selections = self._checked.plan.selections.all
        submitted = Submitted(self._checked.specs, *earlier, selections, resumed.suspect_elements)
        windowed = self.loop.windowed = windowed_arrays(
            self._checked.plan,
            self._scheduler.arrays.of,
            resumed.array_values,
            resumed.earlier_elements,
            self._run.journal_writer,
            partial(self._run.take_over_later, self._scheduler.arrays),
            undecided_arrays(self._checked.plan, resumed),
        )
        column_keeper = self._run.make_column_keeper()
        self.loop.coordinator.dispatcher.keep_column = column_keeper.keep
        try:
            if windowed is not None:
                windowed.start()
            with gc_control.frozen(len(self._checked.plan)):
                self.loop.run([submitted, Closed()])
        except ValueDamaged as error:
            what = "cannot read values of elements that others take"
            raise JournalError(f"{what}: {error}; the same command computes them again", EXIT_STOPPED) from error
        finally:
            if windowed is not None:
                with suppress(HandoffError):  # the end of the journal says so
                    windowed.finish()
            column_keeper.close()
        self.loop.confirm()
        if announcer is not None:
            announcer.close()

    def _close(self, results: Results) -> Results:
        """Write the verdict before the ranks receive the end of the run."""
        shared = encode_in_band(results) if self._checked.options.results_on == "all" else None
        self._end_journal_writer(results.status, results.exit_code, self._is_cut_short())
        self._write_verdict(results)
        self._reporter.finish_metrics(results.status, results.counts())
        self.summary = self._reporter.note_end(results)
        silent = self.loop.shut_down_workers(shared)
        self._files.remove_empty_output()
        self._files.clear_spilled()
        self._checked.job.unanswered.update(silent)
        if silent:
            print_message(f"ranks {silent} have not answered at the end of the run")
        about = {"dag_id": results.dag_id, "functions": len(self._checked.plan), "status": results.status}
        telemetry.execute(events.DAG_STOP, {"duration": results.duration_s}, about)
        return results

    def _write_verdict(self, results: Results) -> None:
        figures: dict[str, Any] = {"duration_s": results.duration_s, "lost_ranks": results.lost_ranks}
        figures["incidents"], _ = results._incidents_of_launches()
        if results.probation:
            figures["probation"] = results.probation
        if results.stopped_because:
            figures["stopped_because"] = results.stopped_because
        counts = results.counts()
        fields = {**self._run.about, **self._reporter.final_fields(counts), **counts, **figures}
        self._files.write_verdict(status=results.status, exit_code=results.exit_code, **fields)

    def _end_without_results(self, failure: _Failure) -> None:
        if not failure.is_superseded:
            self._reporter.note_broken(failure.status, failure.exit_code, failure.reason)
        if failure.is_lost:
            return
        silent = self.loop.shut_down_workers(None, *([_SHORT_GOODBYE_S] if failure.is_superseded else []))
        if failure.is_superseded:
            for rank in silent:
                self.loop.membership.lose(rank, "it has not answered")  # its process may have ended long ago
        else:
            self._files.write_verdict(status=failure.status, exit_code=failure.exit_code, **self._run.about)
            self._reporter.finish_metrics(failure.status)

    def _end_journal_writer(self, status: str, code: int, is_cut_short: bool = False) -> None:
        try:
            self._run.journal_writer.end(status, code, is_cut_short)
        except JournalError as error:
            print_message(str(error))

    def _is_cut_short(self) -> bool:
        """Whether calls were left running without time to end, as when an MPI ends all ranks because one died."""
        return bool(self._scheduler.slots.in_flight) and self._checked.job.grace_period_s == 0.0


def _stop_reason(job: Job, settings: LoopSettings, stop_at: float) -> Callable[[], str]:
    """Return the function that says why the run must stop; it keeps the grace period of the job in ``settings``."""

    def reason() -> str:
        if job.grace_period_s is not None:
            settings.grace_period_s = job.grace_period_s
        if not job.stop_reason and clock() >= stop_at:
            return f"its time is nearly up: what runs has {settings.grace_period_s:g} s to end in"
        return job.stop_reason

    return reason
