"""The options of a run: one place for their names, defaults, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from handoff_mpi.callbacks import CallbackFailed, call
from handoff_mpi.dag.function import RetryOn, input_id
from handoff_mpi.dag.ids import find_id_problem
from handoff_mpi.dag.retry_on import MAX_RETRY_DELAY_S, find_wrong_retry_on
from handoff_mpi.errors import DAGError, HandoffError, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.numerals import plain
from handoff_mpi.resources import parse_nbytes, parse_resources
from handoff_mpi.resources.capability import MAX_SLOTS
from handoff_mpi.runtime.choices import (
    ALWAYS,
    CALLS,
    CAPTURE,
    CHECKPOINTS,
    ISOLATIONS,
    ON_FAILURE,
    OUTPUTS,
    PROGRESS,
    RECORDS,
    REPORTS,
    RESULTS_ON,
    Checkpoint,
    Isolation,
    OnFailure,
    OutputMode,
    ProgressMode,
    Record,
    ReportMode,
    ResultsOn,
)
from handoff_mpi.runtime.plugs import problem_of_store, problem_of_strategy, problem_of_tracker
from handoff_mpi.suggestions import KnownNames, did_you_mean

if TYPE_CHECKING:
    from handoff_mpi.resources.tracker import ResourceTracker
    from handoff_mpi.results.store import StoreFactory
    from handoff_mpi.runtime.option_types import FilePath, Ids, Strategy

#: Of seconds, which clocks and locks can still wait for: 30 years.
MAX_SECONDS = 10**9
#: Of Linux: bytes in a path, and in each name of one.
MAX_PATH, MAX_NAME = 4095, 255
#: Of whole numbers.
MAX_COUNT = 2**63 - 1
#: What other tools call these options.
_OTHER_WORDS = {
    "allocation_strategy": "strategy scheduler policy allocation",
    "retry_on": "retry_exceptions retry_if exceptions",
    "retry_delay": "delay backoff retry_after retry_wait",
    "max_retries": "max_retry retries retry tries attempts max_attempts reschedule",
    "on_failure": "on_error fail_fast",
    "max_concurrency": "max_workers workers parallel parallelism jobs concurrency max_parallel",
    "isolation": "isolate",
    "slots": "threads tasks_per_rank",
    "resources": "pools",
    "deadline": "walltime time_limit timeout time",
    "run_dir": "directory outdir output_dir workdir rundir dir",
    "fresh": "restart clean force",
    "rerun": "again",
    "keep": "outputs targets",
    "result_store": "store",
    "resource_tracker": "tracker",
    "cache_size": "cache",
    "silence_limit": "heartbeat heartbeat_timeout",
    "drain": "grace grace_period",
    "output": "stdout log_output logs print",
    "progress": "progress_bar show_progress verbose",
    "quiet": "silent",
    "record": "events event_log trace history",
    "report": "html with_report",
    "metrics_file": "metrics prometheus prometheus_file textfile",
}
SYNONYMS = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}


@dataclass(slots=True)
class RunOptions:
    """How a DAG is to be run.

    Attributes:
        allocation_strategy: a name ("first_available", "load_balanced", "cost_optimized", an entry point of
            ``handoff_mpi.strategies``, or "module:name") or an object with ``allocate(ready, view)``.
        max_retries: tries after an exception or a time-out, for functions that do not say.
        retry_on: the exception class, or a tuple of classes, after which functions that do not say are tried again; by
            default, all but those that another call would raise again. See ``manual/failures.md``.
        retry_delay: seconds before the first retry of functions that do not say; later ones wait longer.
        on_failure: "continue" runs what does not depend on the failed function, "stop" dispatches nothing more.
        max_concurrency: most calls at once.
        isolation: "auto", "rank" (calls in the rank itself) or "process" (in child processes).
        slots: calls at once on each rank; by default the host's cores divided among its ranks.
        rank0_computes: whether rank 0 has slots too, in child processes.
        resources: pools of the whole job, such as {"license": 5}.
        prices: resource to price of a unit for a second, for cost_optimized.
        keep: "all", or ids whose values should outlast the run besides the sinks'.
        results_on: "root" gives rank 0 the results, "all" every rank.
        crash_limit: deaths of its process after which a function is failed.
        silence_limit: seconds without a sign of life after which a rank's work is reassigned.
        join_limit: seconds within which all ranks must have joined, after the last one that arrived; where nobody knows
            when that was, without ``run -n``, twice as long. Raise it where imports are slow.
        drain: seconds that running calls are given to end once the run is stopped.
        deadline: when the run must have ended, in seconds from its start or as an ISO time; see ``drain``.
        run_dir: where the run's files go, a new one under handoff-runs/ by default; one that is named again resumes.
            False for none: nothing is written, all values stay in memory, and the run cannot be resumed.
        checkpoint: which large values are written to files for a run that resumes: "all", "none", or "auto", those
            that took longer to compute than to write. Small ones always are.
        fresh: start over, whatever earlier launches left in the run-dir.
        rerun: ids of functions that run again when a run is resumed, with all that depend on them.
        accept_changes: ids of functions, or names of their codes, that keep what earlier launches gave though they have
            changed since, as a function that was only tidied up; those behind them keep theirs too.
        seed: whether calls that draw from the global generators of ``random`` or numpy are seeded, each from its id, so
            that they draw the same numbers in each run, on any rank.
        check: raise DAGFailed if functions failed.
        result_store: makes the store of a rank, called with the rank: :class:`handoff_mpi.ResultStore` or
            :class:`handoff_mpi.PickleStore`.
        resource_tracker: a :class:`handoff_mpi.ResourceTracker`, an object with register, request and release.
        tracker_timeout: seconds that a function waits at most for the resource tracker; None sets no limit.
        cache_size: memory on each rank for values that no function needs any more, in MB or with a unit.
        output: what becomes of what functions print. "capture" keeps it in the run-dir, "forward" prints it as well,
            each line with the function's id, "plain" prints it as well, as it is, "off" leaves it alone. "auto" means,
            on the command line, "forward" at a terminal, "capture" in a batch job or under a bare mpirun, and "plain"
            elsewhere; in :func:`execute`, "off". See ``manual/watching.md``.
        progress: "live" draws the progress of the run at the bottom of the terminal of stderr, "lines" prints lines at
            growing intervals, "none" prints neither that nor start lines. "auto" means, on the command line, "live" at
            a terminal and "lines" elsewhere; in :func:`execute`, "live" without start lines in one process at a
            terminal, and "none" elsewhere. "live" means "lines" where there is no terminal. See ``manual/watching.md``.
        record: what the run records of itself besides its journal: "calls" writes ``events.jsonl`` and
            ``summary.json`` and samples the use of hosts, "summary" leaves lines about single functions out of
            ``events.jsonl``, "none" writes and samples nothing. See ``manual/watching.md``.
        quiet: print no start lines, no progress and, on the command line, no summary; failures are printed still.
        report: "always" makes ``report.html`` in the run-dir at the end of a run, "none" does not. "auto" makes it for
            a run of the command line that took at least twenty times as long as that will take, which is 20 s or more,
            where plotly and jinja2 are installed (``pip install 'handoff_mpi[report]'``). See ``manual/watching.md``.
        metrics_file: a file that rank 0 renews every 15 s and at the end with Prometheus metrics of the run, as
            node_exporter's textfile collector reads them. It takes ``pip install 'handoff_mpi[metrics]'``.
    """

    allocation_strategy: Strategy = "first_available"
    max_retries: int = 3
    retry_on: RetryOn = None
    retry_delay: float = 0.0
    on_failure: OnFailure = "continue"
    max_concurrency: int | None = None
    isolation: Isolation = "auto"
    slots: int | None = None
    rank0_computes: bool = False
    resources: Mapping[str, Any] | None = None
    prices: Mapping[str, float] | None = None
    keep: Literal["all"] | Ids = ()
    results_on: ResultsOn = "root"
    crash_limit: int = 3
    silence_limit: float = 300.0
    join_limit: float = 30.0
    drain: float = 10.0
    deadline: float | str | None = None
    run_dir: FilePath | Literal[False] | None = None
    checkpoint: Checkpoint = "auto"
    fresh: bool = False
    rerun: Ids = ()
    accept_changes: Ids = ()
    seed: bool = True
    check: bool = True
    result_store: StoreFactory | None = None
    resource_tracker: ResourceTracker | None = None
    tracker_timeout: float | None = None
    cache_size: float | str = "256MB"
    output: OutputMode = "auto"
    progress: ProgressMode = "auto"
    record: Record = CALLS
    quiet: bool = False
    report: ReportMode = "auto"
    metrics_file: FilePath | None = None

    def validate(self) -> RunOptions:
        """Return these options if they make sense.

        Raises:
            UsageError: naming each that does not.
        """
        for field in fields(self):  # of numpy, say
            setattr(self, field.name, plain(getattr(self, field.name)))
        problems = [*self._wrong_choices(), *self._wrong_numbers(), *self._wrong_mappings(), *self._wrong_sizes()]
        problems += [*self._wrong_ids(), *self._wrong_run_dir(), *self._wrong_metrics_file()]
        wrong_plugs = (
            find_wrong_retry_on(self.retry_on),
            problem_of_strategy(self.allocation_strategy),
            problem_of_tracker(self.resource_tracker),
            problem_of_store(self.result_store),
        )
        problems += filter(None, wrong_plugs)
        if problems:
            raise UsageError("; ".join(problems))
        return self

    def _wrong_ids(self) -> list[str]:
        """Return what is wrong with ids; those of handles are put into their place."""
        problems = []
        for name in ("keep", "rerun", "accept_changes"):
            given = getattr(self, name)
            if name == "keep" and isinstance(given, str) and given == "all":
                continue
            try:
                if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
                    raise TypeError
                ids = [input_id(each) for each in given]
            except Exception:
                what = "'all' or a collection of ids" if name == "keep" else "a collection of ids"
                problems.append(f"{name} is {what}, not {show(given)}")
                continue
            wrong = [f"{name} holds {show(id)}, which {problem}" for id in ids if (problem := find_id_problem(id))]
            problems += wrong
            if not wrong:
                setattr(self, name, tuple(ids))
        return problems

    def _wrong_run_dir(self) -> list[str]:
        if self.run_dir is None:
            return []
        if self.run_dir is False:
            if self.report == ALWAYS:
                return ["report='always' makes a file in the run-dir, and run_dir=False is a run without one"]
            return ["rerun is for a run that is resumed, and run_dir=False keeps nothing"] if self.rerun else []
        return _wrong_path("run_dir", self.run_dir, "the path of a directory", ", which would be the current directory")

    def _wrong_metrics_file(self) -> list[str]:
        return [] if self.metrics_file is None else _wrong_path("metrics_file", self.metrics_file, "the path of a file")

    def _wrong_choices(self) -> list[str]:
        choices = {"isolation": ISOLATIONS, "on_failure": ON_FAILURE, "results_on": RESULTS_ON}
        choices.update(checkpoint=CHECKPOINTS, progress=PROGRESS, output=OUTPUTS, record=RECORDS, report=REPORTS)
        problems = []
        for name, allowed in choices.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                hint = did_you_mean(value, allowed, shown=str)
                problems.append(f"{name} must be one of {', '.join(allowed)}, not {show(value)}{hint}")
        if self.run_dir is False and isinstance(self.output, str) and self.output == CAPTURE:
            problems.append("output='capture' keeps files, and run_dir=False keeps none; use output='forward' or 'off'")
        for name in ("rank0_computes", "fresh", "seed", "check", "quiet"):
            if not isinstance(getattr(self, name), bool):
                problems.append(f"{name} must be True or False, not {show(getattr(self, name))}")
        return problems

    def _wrong_numbers(self) -> list[str]:
        problems = []
        for name, least in (("max_retries", 0), ("max_concurrency", 1), ("slots", 1), ("crash_limit", 1)):
            value = getattr(self, name)
            if value is None and name in ("max_concurrency", "slots"):
                continue
            most = MAX_SLOTS if name == "slots" else MAX_COUNT
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                problems.append(f"{name} must be a whole number from {least}, not {show(value)}")
            elif value > most:
                problems.append(f"{name} must be at most {most}, not {show(value)}")
        positives = ("silence_limit", "join_limit", "tracker_timeout")
        for name, positive in (*((name, True) for name in positives), ("drain", False), ("retry_delay", False)):
            value = getattr(self, name)
            if value is None and name == "tracker_timeout":
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not (value > 0 if positive else value >= 0):
                wanted = f"{'positive ' if positive else ''}number of seconds"
                problems.append(f"{name} must be a {wanted}, not {show(value)}")
            elif value > (limit := MAX_RETRY_DELAY_S if name == "retry_delay" else MAX_SECONDS):
                problems.append(f"{name} must be at most {limit:.0f} seconds, not {show(value)}")
        return problems

    def _wrong_mappings(self) -> list[str]:
        problems = []
        for name in ("resources", "prices"):
            try:
                if getattr(self, name) is not None:
                    parse_resources(getattr(self, name))
            except DAGError as error:
                problems += [f"{name}: {problem}" for problem in error.problems]
        return problems

    def _wrong_sizes(self) -> list[str]:
        try:
            parse_nbytes(self.cache_size)
        except DAGError:
            return [f"cache_size must be an amount of memory, like 256 (in MB) or '1GB', not {show(self.cache_size)}"]
        return []


def _wrong_path(name: str, path: Any, what: str, why_not_empty: str = "") -> list[str]:
    """Return what is wrong with the path that the option ``name`` gives."""
    try:
        text = os.fspath(path)
        if not isinstance(text, str):
            raise TypeError
        os.fsencode(text)
    except Exception:
        return [f"{name} is {what}, not {show(path)}"]
    if not text:
        return [f"{name} is empty{why_not_empty}; name one"]
    if "\0" in text:
        return [f"{name}={show(text)} holds a null character; name another"]
    names = os.fsencode(text).split(b"/")
    is_long = len(os.fsencode(text)) > MAX_PATH or max(map(len, names)) > MAX_NAME
    return [f"{name}={show(text)} is longer than paths and names of files can be; name another"] if is_long else []


#: What ``handoff.start`` has set in this process.
_defaults: dict[str, Any] = {}


def set_defaults(given: Mapping[str, Any]) -> None:
    """Have :func:`options_of` take ``given`` where it is told nothing else.

    Raises:
        UsageError: an option is unknown or its value wrong.
    """
    options_of(given)
    _defaults.update(given)


@contextmanager
def defaults_restored() -> Iterator[None]:
    """Restore at the end of ``with`` the defaults that were set before it."""
    before = dict(_defaults)
    try:
        yield
    finally:
        _defaults.clear()
        _defaults.update(before)


def options_of(given: Mapping[str, Any]) -> RunOptions:
    """Return ``given``, completed by the defaults.

    Raises:
        UsageError: an option is unknown or its value wrong.
    """
    names = [field.name for field in fields(RunOptions)]
    known = KnownNames([*names, "setup", "comm"], SYNONYMS, str)
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UsageError(f"there is no option {known.listed(unknown)}; all: {', '.join(names)}")
    chosen = {name: plain(value) for name, value in {**_defaults, **given}.items()}
    try:
        return call(RunOptions(**chosen).validate)  # type: ignore[no-any-return]
    except CallbackFailed as failed:
        if isinstance(failed.__cause__, HandoffError):
            raise failed.__cause__ from None
        raise UsageError("; ".join(_unusable(chosen)) or f"the options are unusable: {failed}") from failed


def _unusable(chosen: Mapping[str, Any]) -> list[str]:
    """Return which options raise as they are looked at."""
    lines = []
    for name, value in chosen.items():
        try:
            call(RunOptions(**{name: value}).validate)
        except CallbackFailed as failed:
            if not isinstance(failed.__cause__, HandoffError):
                lines.append(f"{name}={show(value)} raised as it was looked at ({failed}); give a plain value")
    return lines


def defaults_set(names: Collection[str]) -> list[str]:
    """Return which of ``names`` have been given a default."""
    return [name for name in names if name in _defaults]
