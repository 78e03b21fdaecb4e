"""One run of a DAG on the ranks of a job: prepared, carried out, told about."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from handoff_mpi import messages, telemetry
from handoff_mpi.callbacks import CallbackFailed, call, shown
from handoff_mpi.carried_modules import sources_here
from handoff_mpi.console import print_message, print_message_once
from handoff_mpi.coroutines import running_loop_hidden
from handoff_mpi.dag import DAG, Plan
from handoff_mpi.dag.fingerprint import Fingerprints, fingerprints
from handoff_mpi.dag.retry_on import names_of
from handoff_mpi.errors import (
    EXIT_STOPPED,
    HandoffError,
    JournalError,
    LauncherLost,
    Superseded,
    TransportError,
    UsageError,
    ValueUnavailable,
)
from handoff_mpi.formatting import show, type_name
from handoff_mpi.launch.admission import check_feasible, encode_factory, find_strategy, is_builtin
from handoff_mpi.launch.changes import Acceptance, explain_changes, find_reasons
from handoff_mpi.launch.deadline import resolve_deadline
from handoff_mpi.launch.dry_run import check_for_run
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.live_answers import answer
from handoff_mpi.launch.notices import notices
from handoff_mpi.launch.output_mode import output_setup
from handoff_mpi.launch.progress_mode import shown_by_run, terminal_of_stderr
from handoff_mpi.launch.questions import find_questions
from handoff_mpi.launch.resume import Resumed, ValueFiles, resume
from handoff_mpi.launch.run_files import open_files
from handoff_mpi.launch.start_line import resume_text, shown_path, start_lines
from handoff_mpi.python_path import shared_path
from handoff_mpi.resources import Capability, parse_nbytes
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.results import Results
from handoff_mpi.results.fallback_store import FallbackStore
from handoff_mpi.results.history import History
from handoff_mpi.results.origins import Origins, origins_here
from handoff_mpi.results.results import FunctionError, PreparedResults
from handoff_mpi.results.store import DirectoryStore, Key, MemoryStore, ResultStore
from handoff_mpi.results.summary import summarize
from handoff_mpi.results.supervision import has_supervisor
from handoff_mpi.runtime import gc_control, host_probe, worker_loop
from handoff_mpi.runtime.announcements import FailurePrinter
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.callback_watch import watched
from handoff_mpi.runtime.choices import CALLS, NONE
from handoff_mpi.runtime.host_monitor import HostGuard
from handoff_mpi.runtime.host_usage import HostUsage, interval_s
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.progress import MAX_HOSTS, Progress
from handoff_mpi.runtime.progress_lines import ProgressLines, ProgressThread, report_safely
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.scheduler_loop import LoopSettings, SchedulerLoop
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.scheduler import Closed, HostFailureDetector, Policy, Scheduler, State, Submitted
from handoff_mpi.serialization import encode_in_band
from handoff_mpi.telemetry import events

if TYPE_CHECKING:
    from handoff_mpi.launch.metrics_file import MetricsFile

#: Values that no call on a rank needs are dropped once its store takes this share of its part of the host.
_STORE_SHARE = 0.5
#: A host is asked after so many heartbeats that none of its ranks sent.
_SILENT_BEATS = 3
#: Ranks of a launch that was superseded get this long to say goodbye.
_SHORT_GOODBYE_S = 2.0
#: Rank 0 may write to a slow file system, or be busy with a turn, for at least this long.
_MIN_SILENCE_S = 20.0


#: A shorter run reports no progress.
_MIN_REPORTED_RUN_S = 0.5
#: The use of cores is measured over some time, and shown soon.
_FIRST_SAMPLE_S = 1.0
#: So many codes are known to have been decoded in a job, about.
_MAX_KNOWN_CODES = 10_000
#: Of the functions that ran when a run was stopped, so many are named.
_MAX_NAMED = 5
#: Lost ranks of this many earlier launches are reported, the newest ones.
_MAX_LAUNCHES_TOLD = 5


class Run:
    """One run, on rank 0.

    Args:
        job: whose ranks it uses.
        dag: what it runs.
        options: how.

    Attributes:
        summary: what ``summary.json`` holds; None before the end of the run, and where none is recorded.

    Raises:
        DAGError, UsageError, Unsatisfiable: it cannot be run; nothing has started.
    """

    def __init__(self, job: Job, dag: DAG, options: RunOptions) -> None:
        self.summary: dict[str, Any] | None = None
        self._started = clock()
        self._usage: HostUsage | None = None
        self._next_sample = self._started + _FIRST_SAMPLE_S
        if not isinstance(dag, DAG):
            raise UsageError(f"what is executed must be a DAG, not {show(dag)}")
        options.validate()
        self._kinds = dag.find_kinds()
        self._job = job
        self._dag = dag
        self._options = options
        self._plan = Plan(options.keep, job.directory)
        self._specs = self._plan.add(dag, self._kinds)
        self._refuse_what_cannot_be_sent()
        self._ledger = job.ledger(options)
        self._strategy = find_strategy(options.allocation_strategy, options.prices)
        self._deadline = resolve_deadline(options.deadline, self._started)
        self._scheduler = Scheduler(self._ledger, self._strategy, self._policy(), dict(options.prices or {}))
        waiting = check_feasible(self._plan, self._ledger)
        for line in [*waiting, *find_questions(dag, self._plan, self._ledger, options)]:
            print_message_once(line)
        self._shown = shown_by_run(options, job.is_local, has_supervisor())
        self._lines: ProgressLines | None = None
        self._thread: ProgressThread | None = None
        self._metrics = _metrics_file(options.metrics_file)
        self._store_factory = encode_factory(options.result_store)
        self._own_store = None if options.result_store is None else FallbackStore(options.result_store, 0)
        self._store: ResultStore = self._own_store or MemoryStore()

    def _refuse_what_cannot_be_sent(self) -> None:
        """Have a rank decode it, where some code is new to the job."""
        job, plan = self._job, self._plan
        new = {hash(blob) for blob in plan.codes} - job.known_codes
        if not new:
            return
        slots = job.slots(self._options)
        ranks = {job.capabilities[rank].host: rank for rank in reversed(slots) if rank and rank not in job.unanswered}
        ranks = ranks if job.is_mpi and ranks else {"": 0}
        places = [(rank, self._isolation(rank, slots.get(rank, 1)) == "process") for rank in sorted(ranks.values())]
        check_for_run(job, self._dag, plan, places)
        job.known_codes = new | (job.known_codes if len(job.known_codes) < _MAX_KNOWN_CODES else set())

    def _policy(self) -> Policy:
        options = self._options
        policy = Policy(
            options.max_retries,
            options.crash_limit,
            options.on_failure == "stop",
            options.max_concurrency,
            options.heartbeat_timeout,
        )
        policy.tracker_timeout_s = options.tracker_timeout
        policy.retry_on, policy.retry_delay_s = names_of(options.retry_on), options.retry_delay
        policy.seed = int.from_bytes(os.urandom(8), "big")
        policy.adds_slots = not self._job.is_local and options.slots is None
        if self._deadline is not None:
            policy.stop_at = self._deadline - options.grace_period
        if options.resource_tracker is not None:
            policy.window = 1  # the tracker counts calls one by one
            _register_with_tracker(options.resource_tracker, self._job.capabilities)
        return policy

    def execute(self) -> Results:
        """Carry it out.

        Raises:
            UsageError, JournalError: the run-dir cannot be used; nothing has started.
        """
        try:
            with running_loop_hidden():
                return self._execute_on_files()
        finally:
            if self._own_store is not None:
                self._own_store.close()

    def _execute_on_files(self) -> Results:
        with open_files(self._options) as self._files:
            history = self._files.read_history()
            for note in (self._files.note, *history.notes):
                _note(note)
            return self._execute(history)

    def _tell_notices(self) -> None:
        job, options = self._job, self._options
        has_children = self._isolation(0, 1) == "process" or any(each.timeout is not None for each in self._kinds.first)
        where = "rank" if job.size > 1 else "child process" if has_children else ""
        has_setup = job.setup is not None
        for line in notices(self._kinds.codes, self._plan.codes, job.top_level, where, options.seed, has_setup):
            if line not in job.has_said:
                job.has_said.add(line)
                print_message(line)

    def _execute(self, history: History) -> Results:
        self._tell_notices()
        with gc_control.paused():
            resumed = self._prepare(history)
        return self._carry_out(self._make_loop(), resumed)

    def _prepare(self, history: History) -> Resumed:
        """Make all that the run needs, and begin its journal."""
        plan, files = self._plan, self._files
        files.prepare()
        self._number = self._job.next_run()
        acceptance = Acceptance(history, plan, self._options.accept_changes)
        marks = Fingerprints({}, {}, 0)
        if files.path is not None:
            settle = acceptance.settle if acceptance.is_about_any else None
            marks = fingerprints(self._dag, settle, self._kinds)
        resumed = self._resume(history, marks)
        journal = files.begin()
        self._lost_ranks_before = history.lost_ranks_before(journal.epoch)
        # A launch's number comes again, in another directory of the same path; a random one does not.
        name = "run" if files.path is None else files.path.name
        self._run = f"{name}-{journal.epoch}-{os.urandom(8).hex()}"
        self._about: dict[str, Any] = {
            "dag_id": self._dag.id,
            "run": self._run,
            "launch": journal.epoch,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "functions": len(plan),
            "ranks": self._job.size,
            "started_s": self._started,
            "output": "off" if self._options.output == "auto" else self._options.output,
            "directory": self._job.directory,
        }
        self._about["lost_ranks_before"] = _newest(self._lost_ranks_before)
        if self._job.top_level is not None:
            self._about["file"] = str(self._job.top_level.path)
        if files.path is not None:
            shown = shown_path(files.path, self._job.directory)
            self._about["resume"] = resume_text(shown, self._job.resumed_by)
        if resumed.rest:
            _note(f"launch {journal.epoch} of {files.path}: {len(resumed.rest)} of {len(plan)} functions are done")
            if marks.notes:
                _note(_unknown(marks.notes))
        if history.done:
            again = [task for task in range(len(plan)) if task not in resumed.rest]
            for line in explain_changes(history, plan, marks, again):
                _note(line)
        files.write_running(self._about)
        if self._metrics is not None:
            self._metrics.run = self._run if files.path is None else str(files.path)
        hosts = {each.rank: each.host for each in self._job.capabilities}
        slots = {rank: rank_state.slots for rank, rank_state in self._ledger.rank_states.items()}
        origins = self._origins = Origins() if files.path is None else origins_here(self._about["host"])
        self._recorder = self._make_recorder(hosts, resumed)
        if self._options.record != NONE:
            self._recorder.events = files.begin_events(journal.epoch, self._options.record == CALLS)
        self._keys = resumed.keys
        self._journal_writer = JournalWriter(journal, plan, partial(_key, resumed.keys, self._run))
        imports = origins.directories, origins.modules
        self._capacity = self._ledger.capacity()
        about = {**self._about, "hosts": hosts, "slots": slots, "capacity": self._capacity, "imports": imports}
        about |= {"strategy": type_name(self._strategy), "offers": _offers(self._job.capabilities, slots)}
        why = find_reasons(history, plan, marks, resumed, self._options.rerun) if history.done else {}
        self._journal_writer.begin(about, marks.of, resumed.rest, marks.codes, acceptance.new, why)
        self._home = self._make_home(resumed)
        return resumed

    def _resume(self, history: History, marks: Fingerprints) -> Resumed:
        kept = self._files.kept
        if not isinstance(kept, DirectoryStore):
            return Resumed()
        values = ValueFiles(kept)
        resumed = resume(history, self._plan, marks.of, values.is_intact, self._options.rerun)
        _note(values.note)
        return resumed

    def _carry_out(self, loop: SchedulerLoop, resumed: Resumed) -> Results:
        results: Results | None = None
        code, status, is_lost, is_superseded, why = 1, "broken", False, False, ""
        try:
            self._tell_start(len(resumed.rest))
            worker_loop.set_active(loop)
            with self._telling():
                with gc_control.frozen(len(self._plan)):
                    loop.run([Submitted(self._specs, resumed.rest, resumed.suspects, resumed.deaths), Closed()])
                loop.confirm()
                if self._recorder.announcer is not None:
                    self._recorder.announcer.close()
                results = self._results(loop.coordinator.trouble, self._why_stopped(loop))
                return self._close(loop, results)
        except HandoffError as error:
            code = error.exit_code
            is_lost = isinstance(error, (LauncherLost, TransportError))
            is_superseded = isinstance(error, Superseded)
            why = str(error)
            raise
        except KeyboardInterrupt:
            code, status = EXIT_STOPPED, "stopped"
            self._end_journal_writer(status, code)  # what was running is under no suspicion
            raise
        finally:
            worker_loop.set_active(None)
            if results is None and not is_superseded:
                self._recorder.events.add("run.stop", clock(), status=status, exit_code=code, reason=why)
                self._recorder.events.close(clock())
            if results is None and not is_lost:  # a lost run has no verdict yet: it is launched again
                silent = loop.shut_down_workers(None, *([_SHORT_GOODBYE_S] if is_superseded else []))
                if is_superseded:
                    for rank in silent:
                        loop.membership.lose(rank, "it has not answered")  # its process may have ended long ago
                else:
                    self._files.write_verdict(status=status, exit_code=code, **self._about)
                    self._finish_metrics(status)
            loop.close()
            self._files.close()
            self._scheduler.close()

    # -- what a run needs -----------------------------------------------------------------------------

    def _key(self, task: int) -> Key:
        return _key(self._keys, self._run, task)

    def _make_recorder(self, hosts: dict[int, str], resumed: Resumed) -> Recorder:
        recorder = Recorder(self._plan, self._dag.id, hosts)
        recorder.grow()
        recorder.announcer = printer = FailurePrinter(self._plan, hosts, print_message)
        recorder.launch = self._about["launch"]
        for task, done in resumed.done.items():
            recorder.restored(task, done)
        for task, incidents in resumed.incidents.items():
            recorder.note_earlier_incidents(task, incidents)
        capabilities = self._job.capabilities
        self._progress = Progress(self._plan, self._scheduler, recorder, capabilities, printer.groups, resumed.rest)
        return recorder

    def _make_home(self, resumed: Resumed) -> ResultStore:
        home = self._store
        for task, payload in resumed.payloads.items():
            home.put((self._run, task), payload)
        return home

    def _make_loop(self) -> SchedulerLoop:
        job, options = self._job, self._options
        shell = None
        workers = []
        for rank, setup in self._setups().items():
            if rank == 0:
                shell = WorkerDriver(job.transport, setup, store=self._own_store)
                has_own_handler = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
                shell.caller.lets_interrupt = not (job.is_mpi or has_own_handler)
                self._progress.own_calls = shell.own_calls
            else:
                workers.append(rank)
                job.transport.send(rank, messages.start(setup))
        grace_period_s = options.grace_period if job.grace_period_s is None else job.grace_period_s
        settings = LoopSettings(
            self._run,
            self._number,
            workers,
            grace_period_s,
            options.resource_tracker,
            self._pids(),
            self._heartbeat_s(),
            self._guard(),
            self._files.confirm,
            not is_builtin(self._strategy),
            has_launcher=job.is_mpi,
            report=self._report_from_loop,
        )
        loop = SchedulerLoop(
            job.transport,
            self._scheduler,
            self._plan,
            self._recorder,
            self._home,
            self._files.kept,
            self._journal_writer,
            settings,
            shell,
            job.membership,
        )
        loop.coordinator.dispatcher.file_keys = self._keys
        loop.stop_reason = self._make_stop_reason(settings)
        return loop

    def _setups(self) -> dict[int, RunSetup]:
        """Return the setup that each computing rank receives."""
        job, options = self._job, self._options
        pids = self._pids()
        tells_transfers = telemetry.has_handlers(events.TRANSFER_STOP)
        setups = {}
        sources, here = sources_here(), job.capabilities[0].host
        processes = sum(max(1, rank_state.slots) for rank_state in self._ledger.rank_states.values())
        samplers = {
            rank_state.host: rank
            for rank, rank_state in reversed(self._ledger.rank_states.items())
            if rank_state.host != here
        }
        usage_s = 0.0 if options.record == NONE else interval_s(len(pids))
        output = output_setup(options.output, self._about["launch"], processes, job.is_local)
        for rank, rank_state in self._ledger.rank_states.items():
            setups[rank] = RunSetup(
                run=self._run,
                number=self._number,
                slots=rank_state.slots,
                isolation=self._isolation(rank, rank_state.slots),
                heartbeat_s=self._heartbeat_s(),
                silence_timeout_s=0.0 if 0 in pids[rank_state.host] else max(_MIN_SILENCE_S, options.heartbeat_timeout),
                rank0=(job.capabilities[0].host, os.getpid()),
                store_nbytes=self._store_nbytes(job.capabilities[rank], pids),
                cache_nbytes=parse_nbytes(options.cache_size),
                run_dir=None if self._files.path is None else str(self._files.path),
                store_factory=self._store_factory,
                paths=shared_path(),
                setup=job.setup,
                tells_transfers=tells_transfers,
                pids=pids[rank_state.host] if rank else {},  # rank 0's loop does that itself
                checkpoint=options.checkpoint,
                seeds=options.seed,
                memory_nbytes=_memory_nbytes(job.capabilities[rank]),
                ranks_here=len(pids[rank_state.host]),
                sources=sources if rank_state.host != here else {},
                output=output,
                usage_s=usage_s if rank == samplers.get(rank_state.host) else 0.0,
            )
        return setups

    def _heartbeat_s(self) -> float:
        usual = max(0.5, min(15.0, self._options.heartbeat_timeout / 20))
        if len(self._pids()) == 1:
            return usual
        # A host that was cut off is to be noticed soon; of very many ranks, rank 0 hears a thousand a second.
        return min(usual, max(1.0, self._job.size / 1000))

    def _guard(self) -> HostGuard | None:
        asks, hosts = host_probe.from_environment(), self._pids()
        if asks is None or len(hosts) == 1:
            return None
        return HostGuard(HostFailureDetector(hosts, _SILENT_BEATS * self._heartbeat_s()), asks)

    def _store_nbytes(self, capability: Capability, pids: dict[str, dict[int, int]]) -> int:
        return int(_STORE_SHARE * _memory_nbytes(capability) / len(pids[capability.host])) or 1 << 40

    def _isolation(self, rank: int, slots: int) -> str:
        if self._job.is_mpi and rank == 0:
            return "process"  # scheduling never waits for a call
        if not (self._job.is_mpi or self._job.is_local):  # fake ranks
            return "process" if self._options.isolation == "process" else "inline"
        if self._options.isolation != "auto":
            return self._options.isolation
        safe = self._job.has_fault_tolerance or not self._job.is_mpi
        return "rank" if safe and slots == 1 else "process"

    def _pids(self) -> dict[str, dict[int, int]]:
        """Return host to the process ids of its living ranks, by rank."""
        pids: dict[str, dict[int, int]] = {}
        for each in self._job.living():
            pids.setdefault(each.host, {})[each.rank] = each.pid
        return pids

    def _make_stop_reason(self, settings: LoopSettings) -> Callable[[], str]:
        job, stop_at = self._job, self._scheduler.policy.stop_at

        def reason() -> str:
            if job.grace_period_s is not None:
                settings.grace_period_s = job.grace_period_s
            if not job.stop_reason and clock() >= stop_at:
                return f"its time is nearly up: what runs has {settings.grace_period_s:g} s to end in"
            return job.stop_reason

        return reason

    def _tell_start(self, restored: int) -> None:
        for line in self._start_lines() if self._shown.has_start_line else ():
            print_message(line)
        measurements = {"system_time": self._started}
        telemetry.execute(events.DAG_START, measurements, {"dag_id": self._dag.id, "functions": len(self._plan)})
        for each in self._job.capabilities:
            about = {"node": each.rank, "host": each.host, "capabilities": each.offered()}
            telemetry.execute(events.RANK_JOINED, {"system_time": clock()}, about)
        self._note_start(restored)

    def _note_start(self, restored: int) -> None:
        log, capabilities = self._recorder.events, self._job.capabilities
        names = ("run", "dag_id", "functions", "ranks", "host", "pid", "resume")
        about = {name: self._about[name] for name in names if name in self._about}
        hosts = len({each.host for each in capabilities})
        log.add("run.start", self._started, restored=restored, hosts=hosts, **about)
        for each in capabilities:
            offered = each.offered()
            log.add("rank.joined", clock(), repr(offered), rank=each.rank, host=each.host, capabilities=offered)

    def _sample_usage(self, now: float) -> None:
        """Note how much of this host is in use, if that is due; other hosts send their samples."""
        if now < self._next_sample or self._options.record == NONE:
            return
        capabilities = self._job.capabilities
        if self._usage is None:
            self._usage = HostUsage(has_gpus=bool(capabilities[0].offered().get("gpu")))
            self._next_sample = now + _FIRST_SAMPLE_S
            return
        self._next_sample = now + interval_s(len({each.host for each in capabilities}), now - self._started)
        self._recorder.used(0, self._usage.sample(), now)

    def _report(self, now: float) -> None:
        """Renew ``status.json``, and print a line if one is due; worth a call a second."""
        if now < self._started + _MIN_REPORTED_RUN_S:
            return  # a loop of small runs would write a file more for each
        self._sample_usage(now)
        status = {**self._about, **self._progress.fields(now)}
        self._files.renew_running(status)
        self._files.answer(self._explain, now)
        if self._metrics is not None:
            self._metrics.renew({**status, "lost_ranks": self._recorder.lost}, now)
        if self._lines is not None:
            self._lines.look(status, now)

    def _explain(self, question: dict[str, Any]) -> dict[str, Any]:
        return answer(question, self._about["launch"], self._plan, self._scheduler, clock())

    def _final_fields(self, duration_s: float) -> dict[str, Any]:
        return {} if duration_s < _MIN_REPORTED_RUN_S else self._progress.final_fields(clock())

    def _finish_metrics(self, status: str) -> None:
        def finish(now: float) -> None:
            if self._metrics is not None:
                fields = {**self._progress.final_fields(now), "lost_ranks": self._recorder.lost}
                self._metrics.finish({**self._about, **fields, "status": status})

        report_safely(finish, clock())

    def _report_from_loop(self, now: float) -> None:
        if self._thread is None:
            report_safely(self._report, now)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Show progress within ``with``."""
        if self._shown.prints_lines:
            self._lines = ProgressLines(print_message, self._started)
        is_recorded = self._files.path is not None and self._options.record != NONE
        tells = self._shown.prints_lines or self._shown.draws or self._metrics is not None or is_recorded
        if self._job.is_local and tells:
            self._thread = ProgressThread(self._report)
            self._thread.start()
        try:
            with self._live_view(), watched(self._has_callbacks(), "rank 0", "no function is dispatched meanwhile"):
                yield
        finally:
            if self._thread is not None:
                self._thread.close()
                self._thread = None  # it refers to this run, which nothing else should keep

    def _has_callbacks(self) -> bool:
        """Whether rank 0 calls code of the user's between functions."""
        options = self._options
        plugs = (options.resource_tracker, options.result_store)
        return (
            not is_builtin(self._strategy) or any(each is not None for each in plugs) or bool(telemetry.list_handlers())
        )

    def _live_view(self) -> AbstractContextManager[None]:
        path, terminal = self._files.path, terminal_of_stderr()
        if path is None or not self._shown.draws:
            return nullcontext()
        if terminal is None:
            from handoff_mpi.launch.notebook_view import drawn_in_notebook

            return drawn_in_notebook(path)
        from handoff_mpi.launch.viewer_process import drawn  # ranks do without what draws

        return drawn(path, terminal)

    def _start_lines(self) -> list[str]:
        job, path = self._job, self._files.path
        where = None if path is None else shown_path(path, job.directory)
        hosts = [each.host for each in job.capabilities]
        return start_lines(len(self._plan), hosts, job.size, self._capacity, self._started, where, job.resumed_by)

    # -- what it gives back ---------------------------------------------------------------------------

    def _results(self, trouble: str, why_stopped: str) -> Results:
        """Return the results of the run, which is not done where ``trouble`` kept its journal from being written."""
        scheduler = self._scheduler
        status = "stopped" if trouble and scheduler.status == "done" else scheduler.status
        prepared = PreparedResults(
            dag_id=self._dag.id,
            run=self._run,
            status="stopped" if status == "running" else status,
            errors=self._errors(),
            run_dir=self._files.path,
            duration_s=clock() - self._started,
            stopped_because=why_stopped or trouble,
            hosts={each.rank: each.host for each in self._job.capabilities},
            slots={rank: len(slots) for rank, slots in scheduler.slots.of_rank.items()},
            lost_ranks=dict(self._recorder.lost),
            lost_ranks_before=self._lost_ranks_before,
            stopped_on_failure=scheduler.stopped_on_failure,
            probation=dict(self._recorder.probation),
            capacity=self._capacity,
            records=self._recorder.table(scheduler),
            origins=self._origins,
            output_mode=self._about["output"],
        )
        self._take_payloads(prepared)
        self._take_kept(prepared)
        return Results(prepared)

    def _why_stopped(self, loop: SchedulerLoop) -> str:
        scheduler, running = self._scheduler, loop.coordinator.running_at_stop
        if scheduler.stopped_on_failure and scheduler.tasks.failures:
            return f"function {show(self._plan.ids[next(iter(scheduler.tasks.failures))])} failed"
        if not (scheduler.stopping and running):
            return scheduler.stopping
        cut_off = [task for task in running if not State(scheduler.tasks.state[task]).is_final]
        left = f" ({self._named(cut_off)} did not end{self._encodings(loop, cut_off)})" if cut_off else ""
        return f"{scheduler.stopping} while {self._named(running)} ran{left}"

    def _encodings(self, loop: SchedulerLoop, tasks: list[int]) -> str:
        """Return in words which ranks encode inputs of ``tasks``, which takes long."""
        ids, told = self._plan.ids, ""
        for task in [task for task in tasks[:_MAX_NAMED] if task in loop.coordinator.encodings]:
            attempt, value, rank, since = loop.coordinator.encodings[task]
            if self._scheduler.tasks.attempts[task] == attempt:
                told += f"; rank {rank} has been encoding {shown(ids[value])} for {shown(ids[task])}"
                told += f" for {clock() - since:.0f} s"
        return told

    def _named(self, tasks: list[int]) -> str:
        ids = [shown(self._plan.ids[task]) for task in tasks[:_MAX_NAMED]]
        more = f" and {len(tasks) - len(ids)} more" if len(tasks) > len(ids) else ""
        return ", ".join(ids) + more

    def _errors(self) -> dict[Hashable, FunctionError]:
        ids = self._plan.ids
        return {
            ids[task]: FunctionError(
                f"{show(ids[task])}: {failure.kind}: {failure.message}",
                failure.kind,
                failure.traceback,
                failure.attempts,
                failure.ranks,
                failure.place,
                failure.output,
            )
            for task, failure in sorted(self._scheduler.tasks.failures.items())
        }

    def _take_payloads(self, prepared: PreparedResults) -> None:
        at_rank0, ids = self._scheduler.tasks.at_rank0, self._plan.ids
        lost = []
        for task in range(len(ids)):
            if at_rank0[task]:
                try:
                    prepared.payloads[ids[task]] = self._home.get((self._run, task))
                except (KeyError, ValueUnavailable) as error:
                    prepared.lost[ids[task]] = str(error)
                    lost.append(task)
        if lost:
            what = f"result_store has lost the values of {self._named(lost)} at the end of the run"
            _note(f"{what}; all others are there")

    def _take_kept(self, prepared: PreparedResults) -> None:
        for task in sorted(self._scheduler.tasks.persisted):
            id, key = self._plan.ids[task], self._key(task)
            if prepared.run_dir is None:
                prepared.payloads[id] = self._files.kept.get(key)
            else:
                prepared.persisted[id] = key

    def _end_journal_writer(self, status: str, code: int, is_cut_short: bool = False) -> None:
        try:
            self._journal_writer.end(status, code, is_cut_short)
        except JournalError as error:
            _note(str(error))

    def _is_cut_short(self) -> bool:
        """Whether calls were left running without time to end, as when an MPI ends all ranks because one died."""
        return bool(self._scheduler.slots.in_flight) and self._job.grace_period_s == 0.0

    def _close(self, loop: SchedulerLoop, results: Results) -> Results:
        options = self._options
        shared = encode_in_band(results) if options.results_on == "all" else None
        self._end_journal_writer(results.status, results.exit_code, self._is_cut_short())
        figures: dict[str, Any] = {"duration_s": results.duration_s, "lost_ranks": results.lost_ranks}
        figures["incidents"] = results.incidents()
        if results.probation:
            figures["probation"] = results.probation
        if results.stopped_because:
            figures["stopped_because"] = results.stopped_because
        fields = {**self._about, **self._final_fields(results.duration_s), **results.counts(), **figures}
        self._files.write_verdict(status=results.status, exit_code=results.exit_code, **fields)
        self._finish_metrics(results.status)
        self._note_end(results)
        silent = loop.shut_down_workers(shared)
        self._files.remove_empty_output()
        self._files.clear_spilled()
        self._job.unanswered.update(silent)
        if silent:
            _note(f"ranks {silent} have not answered at the end of the run")
        about = {"dag_id": results.dag_id, "functions": len(self._plan), "status": results.status}
        telemetry.execute(events.DAG_STOP, {"duration": results.duration_s}, about)
        return results

    def _note_end(self, results: Results) -> None:
        if self._options.record == NONE:
            return
        counts, retries = results.counts(), self._recorder.retries
        about = {"status": results.status, "exit_code": results.exit_code, "duration_s": round(results.duration_s, 3)}
        why = {"reason": results.stopped_because} if results.stopped_because else {}
        self._recorder.events.add("run.stop", clock(), **about, **counts, retries=retries, **why)
        self._recorder.events.close(clock())
        self.summary = summarize(results, {**self._about, **self._progress.final_fields(clock())})
        self._files.write_summary(self.summary)


def _newest(lost: Mapping[int, Mapping[int, str]]) -> dict[int, dict[int, str]]:
    """Return the ranks that the newest of earlier launches lost, a bounded number of each."""
    return {launch: dict(islice(lost[launch].items(), MAX_HOSTS)) for launch in sorted(lost)[-_MAX_LAUNCHES_TOLD:]}


def _offers(capabilities: list[Capability], slots: Mapping[int, int]) -> list[tuple[dict[str, float], list[int]]]:
    """Return what ranks that compute offer, and which of them offer the same."""
    found: dict[str, tuple[dict[str, float], list[int]]] = {}
    for each in capabilities:
        if slots.get(each.rank):
            offered = each.offered()
            found.setdefault(repr(offered), (dict(offered), []))[1].append(each.rank)
    return list(found.values())


def _key(keys: Mapping[int, Key], run: str, task: int) -> Key:
    """Return the key of a task's value: that of the launch that wrote it, or this run's."""
    return keys.get(task, (run, task))


def _memory_nbytes(capability: Capability) -> int:
    """Return the memory of a rank's host as it is offered, 0 if that is not known."""
    amount = capability.host_registered.get("memory", capability.host_amounts.get("memory", 0))
    return amount * 10**6 // UNIT


def _metrics_file(path: Any) -> MetricsFile | None:
    if path is None:
        return None
    from handoff_mpi.launch.metrics_file import MetricsFile  # most runs do without

    return MetricsFile(path, print_message)


def _note(text: str) -> None:
    if text:
        print_message(text)


def _unknown(notes: dict[Hashable, str]) -> str:
    id, why = next(iter(notes.items()))
    more = f" and {len(notes) - 1} more" if len(notes) > 1 else ""
    return f"the results of earlier launches are unusable for function {show(id)}{more} ({why}), so they run again"


def _register_with_tracker(tracker: Any, capabilities: list[Capability]) -> None:
    for each in capabilities:
        try:
            call(tracker.register, each.rank, each.offered())
        except CallbackFailed as error:
            raise UsageError(f"resource_tracker.register failed: {error}") from error
