"""Reports a run while it is in progress: start lines, ``status.json``, progress lines, live view, events, metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from handoff_mpi import telemetry
from handoff_mpi.console import print_message
from handoff_mpi.launch.admission import is_builtin
from handoff_mpi.launch.begun_run import BegunRun
from handoff_mpi.launch.live_answers import answer
from handoff_mpi.launch.progress_mode import terminal_of_stderr
from handoff_mpi.launch.start_line import shown_path, start_lines
from handoff_mpi.results import Results
from handoff_mpi.results.summary import summarize
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.callback_watch import watched
from handoff_mpi.runtime.choices import NONE
from handoff_mpi.runtime.host_usage import HostUsage, interval_s
from handoff_mpi.runtime.progress_lines import ProgressLines, ProgressThread, report_safely
from handoff_mpi.telemetry import events

#: A shorter run reports no progress.
_MIN_REPORTED_RUN_S = 0.5
#: The use of cores is measured over some time, and shown soon.
_FIRST_SAMPLE_S = 1.0
_NO_COUNTS: Mapping[str, int] = {}


class RunReporter:
    """Reports one run; on rank 0.

    Args:
        run: the run.
    """

    def __init__(self, run: BegunRun) -> None:
        self._run = run
        self._checked = run.checked
        self._started_s = run.checked.started_s
        self._capabilities = run.checked.job.capabilities
        self._is_recorded = run.checked.options.record != NONE
        self._usage: HostUsage | None = None
        self._next_sample = self._started_s + _FIRST_SAMPLE_S
        prints_lines = run.checked.shown.prints_lines
        self._lines = ProgressLines(print_message, self._started_s) if prints_lines else None
        self._thread: ProgressThread | None = None

    # -- the start ------------------------------------------------------------------------------------

    def tell_start(self) -> None:
        """Print the start lines, and record that the run starts, and on which ranks."""
        checked = self._checked
        for line in self._start_lines() if checked.shown.has_start_line else ():
            print_message(line)
        measurements = {"system_time": self._started_s}
        telemetry.execute(events.DAG_START, measurements, {"dag_id": checked.dag.id, "functions": len(checked.plan)})
        for each in self._capabilities:
            about = {"node": each.rank, "host": each.host, "capabilities": each.offered()}
            telemetry.execute(events.RANK_JOINED, {"system_time": clock()}, about)
        self._note_start()

    def _start_lines(self) -> list[str]:
        run, job, path = self._run, self._checked.job, self._run.files.path
        where = None if path is None else shown_path(path, job.directory)
        hosts = [each.host for each in self._capabilities]
        functions = len(self._checked.plan)
        return start_lines(functions, hosts, job.size, run.capacity, self._started_s, where, job.resumed_by)

    def _note_start(self) -> None:
        log, run = self._run.recorder.events, self._run
        names = ("run", "dag_id", "functions", "ranks", "host", "pid", "resume")
        about = {name: run.about[name] for name in names if name in run.about}
        hosts = len({each.host for each in self._capabilities})
        log.add("run.start", self._started_s, restored=len(run.resumed.rest), hosts=hosts, **about)
        for each in self._capabilities:
            offered = each.offered()
            log.add("rank.joined", clock(), repr(offered), rank=each.rank, host=each.host, capabilities=offered)

    # -- while it is in progress ----------------------------------------------------------------------

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Show progress within ``with``."""
        shown, is_kept = self._checked.shown, self._run.files.path is not None and self._is_recorded
        reports = shown.prints_lines or shown.draws or self._checked.metrics is not None or is_kept
        if self._checked.job.is_local and reports:
            self._thread = ProgressThread(self._report)
            self._thread.start()
        try:
            with self._live_view(), watched(self._has_callbacks(), "rank 0", "no function is dispatched meanwhile"):
                yield
        finally:
            if self._thread is not None:
                self._thread.close()
                self._thread = None  # it refers to this run, which nothing else should keep

    def report_from_loop(self, now: float) -> None:
        """Report as the loop asks for it, once a second; nothing where a thread does."""
        if self._thread is None:
            report_safely(self._report, now)

    def _report(self, now: float) -> None:
        """Renew ``status.json``, and print a line if one is due; worth a call a second."""
        if now < self._started_s + _MIN_REPORTED_RUN_S:
            return  # a loop of small runs would write a file more for each
        self._sample_usage(now)
        run, metrics = self._run, self._checked.metrics
        status = {**run.about, **run.progress.fields(now)}
        run.files.renew_running(status)
        run.files.answer(self._explain, now)
        if metrics is not None:
            metrics.renew({**status, "lost_ranks": run.recorder.losses.reasons()}, now)
        if self._lines is not None:
            self._lines.look(status, now)

    def _sample_usage(self, now: float) -> None:
        """Note how much of this host is in use, if that is due; other hosts send their samples."""
        if now < self._next_sample or not self._is_recorded:
            return
        if self._usage is None:
            self._usage = HostUsage(has_gpus=bool(self._capabilities[0].offered().get("gpu")))
            self._next_sample = now + _FIRST_SAMPLE_S
            return
        hosts = len({each.host for each in self._capabilities})
        self._next_sample = now + interval_s(hosts, now - self._started_s)
        self._run.recorder.used(0, self._usage.sample(), now)

    def _explain(self, question: dict[str, Any]) -> dict[str, Any]:
        checked = self._checked
        return answer(question, self._run.about["launch"], checked.plan, checked.scheduler, clock())

    def _has_callbacks(self) -> bool:
        """Whether rank 0 calls code of the user's between functions."""
        options = self._checked.options
        plugs = (options.resource_tracker, options.result_store)
        has_plugs = any(each is not None for each in plugs)
        return not is_builtin(self._checked.strategy) or has_plugs or bool(telemetry.list_handlers())

    def _live_view(self) -> AbstractContextManager[None]:
        path, terminal = self._run.files.path, terminal_of_stderr()
        if path is None or not self._checked.shown.draws:
            return nullcontext()
        if terminal is None:
            from handoff_mpi.launch.notebook_view import drawn_in_notebook

            return drawn_in_notebook(path)
        from handoff_mpi.launch.viewer_process import drawn  # ranks do without what draws

        return drawn(path, terminal)

    # -- the end --------------------------------------------------------------------------------------

    def final_fields(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """Return how far the run has come, for its verdict; nothing of a run without files, which has none.

        Args:
            counts: of its results.
        """
        return {} if self._run.files.path is None else self._run.progress.final_fields(clock(), counts)

    def finish_metrics(self, status: str, counts: Mapping[str, int] = _NO_COUNTS) -> None:
        """Write the file of ``--metrics-file`` a last time.

        Args:
            counts: of its results, if it has any.
        """
        run, metrics = self._run, self._checked.metrics

        def finish(now: float) -> None:
            if metrics is not None:
                fields = {**run.progress.final_fields(now, counts), "lost_ranks": run.recorder.losses.reasons()}
                metrics.finish({**run.about, **fields, "status": status})

        report_safely(finish, clock())

    def note_broken(self, status: str, exit_code: int, reason: str) -> None:
        """Record the end of a run that has no results."""
        log = self._run.recorder.events
        log.add("run.stop", clock(), status=status, exit_code=exit_code, reason=reason)
        log.close(clock())

    def note_end(self, results: Results) -> dict[str, Any] | None:
        """Record the end of a run, and write ``summary.json``; return what that holds, None where nothing is."""
        if not self._is_recorded:
            return None
        run, counts, retries = self._run, results.counts(), self._run.recorder.retries
        about = {"status": results.status, "exit_code": results.exit_code, "duration_s": round(results.duration_s, 3)}
        why = {"reason": results.stopped_because} if results.stopped_because else {}
        run.recorder.events.add("run.stop", clock(), **about, **counts, retries=retries, **why)
        run.recorder.events.close(clock())
        summary = summarize(results, {**run.about, **run.progress.final_fields(clock(), counts)})
        run.files.write_summary(summary)
        return summary
