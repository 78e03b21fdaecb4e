"""The options of a run: one place for their names, defaults, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from handoff_mpi.callbacks import CallbackFailed, call
from handoff_mpi.dag.function import RetryOn
from handoff_mpi.dag.retry_on import MAX_RETRY_DELAY_S
from handoff_mpi.errors import HandoffError, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.numerals import plain
from handoff_mpi.process_context import Settings, this_process
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
from handoff_mpi.runtime.option_fields import option, options_by_name
from handoff_mpi.runtime.option_kinds import (
    Amounts,
    Exceptions,
    FunctionIds,
    Memory,
    OneOf,
    PathName,
    Plug,
    Seconds,
    Whole,
    Word,
    WrongValue,
    YesNo,
)
from handoff_mpi.runtime.option_text import lists_options
from handoff_mpi.runtime.plugs import problem_of_store, problem_of_strategy, problem_of_tracker
from handoff_mpi.suggestions import KnownNames

if TYPE_CHECKING:
    from handoff_mpi.resources.tracker import ResourceTracker
    from handoff_mpi.results.store import StoreFactory
    from handoff_mpi.runtime.option_types import FilePath, Ids, Strategy

_RUN_DIR = PathName("the path of a directory", "DIR", ", which would be the current directory", takes_false=True)


@dataclass(slots=True)
class RunOptions:
    """How a DAG is run: the options of :func:`~handoff_mpi.execute`.

    Raises:
        UsageError: from :meth:`validate`, which names each option that is wrong.
    """

    allocation_strategy: Strategy = option(
        "first_available",
        Plug(problem_of_strategy, "NAME"),
        "first_available, load_balanced, cost_optimized, ...",
        'a name ("first_available", "load_balanced", "cost_optimized", an entry point of '
        '``handoff_mpi.strategies``, or "module:name") or an object with ``allocate(ready, view)``.',
        "strategy scheduler policy allocation",
    )
    max_retries: int = option(
        3,
        Whole(0),
        "further tries after an exception or a time-out",
        "further tries after an exception or a time-out, of functions that set none.",
        "max_retry retries retry tries attempts max_attempts reschedule",
    )
    retry_on: RetryOn = option(
        None,
        Exceptions(),
        "try again only after this exception",
        "the exception class, or a tuple of classes, after which functions that do not say are tried again; by "
        "default, all but those that another call would raise again. See ``manual/fault-tolerance.md``.",
        "retry_exceptions retry_if exceptions",
    )
    retry_delay: float = option(
        0.0,
        Seconds(is_positive=False, most=MAX_RETRY_DELAY_S),
        "seconds before the first retry; later ones wait longer",
        "seconds before the first retry of functions that set none; later retries wait longer.",
        "delay backoff retry_after retry_wait",
    )
    on_failure: OnFailure = option(
        "continue",
        OneOf(ON_FAILURE),
        "what to do once a function failed",
        '"continue" runs what does not depend on the failed function, "stop" dispatches nothing more.',
        "on_error fail_fast",
    )
    max_concurrency: int | None = option(
        None,
        Whole(1, is_optional=True),
        "most calls at once",
        "most calls at once; None sets no limit.",
        "max_workers workers parallel parallelism jobs concurrency max_parallel",
    )
    isolation: Isolation = option(
        "auto",
        OneOf(ISOLATIONS),
        "calls in the ranks or in child processes",
        '"rank" (calls in the rank itself) or "process" (in child processes); "auto" lets the run choose.',
        "isolate",
    )
    slots: int | None = option(
        None,
        Whole(1, MAX_SLOTS, is_optional=True),
        "calls at once on each rank",
        "calls at once on each rank; by default the host's cores divided among its ranks.",
        "threads tasks_per_rank",
    )
    rank0_computes: bool = option(
        False, YesNo(), "rank 0 runs functions too", "whether rank 0 has slots too, in child processes."
    )
    resources: Mapping[str, Any] | None = option(
        None,
        Amounts("NAME=AMOUNT"),
        "a resource that the whole job shares",
        'resources that the whole job shares, such as {"license": 5}.',
        "pools",
    )
    prices: Mapping[str, float] | None = option(
        None,
        Amounts("NAME=PRICE"),
        "price of a unit for a second, for the strategy cost_optimized",
        "resource to price of a unit for a second, for cost_optimized.",
    )
    keep: Literal["all"] | Ids = option(
        (),
        FunctionIds(takes_all=True),
        "keep this function's value, or 'all'",
        '"all", or ids of functions whose values outlast the run besides those of the sinks.',
        "outputs targets",
    )
    results_on: ResultsOn = option(
        "root", OneOf(RESULTS_ON), "which ranks get the results", '"root" gives rank 0 the results, "all" every rank.'
    )
    crash_limit: int = option(
        3,
        Whole(1),
        "deaths of its process after which a function is failed",
        "deaths of its process after which a function is failed.",
    )
    heartbeat_timeout: float = option(
        300.0,
        Seconds(),
        "seconds of silence after which a rank's work moves",
        "seconds without a sign of life after which a rank's work is reassigned.",
        "heartbeat silence",
        old_name="silence_limit",
    )
    join_limit: float = option(
        30.0,
        Seconds(),
        "seconds for all ranks to join, after the last that arrived",
        "seconds within which all ranks must have joined, after the last one that arrived; where nobody knows when "
        "that was, without ``run -n``, twice as long. Raise it where imports are slow.",
        is_read_early=True,
    )
    grace_period: float = option(
        10.0,
        Seconds(is_positive=False),
        "seconds running calls get once the run is stopped",
        "seconds that running calls are given to end once the run is stopped; at most a quarter of the time that the "
        "run has until its deadline.",
        "grace drain",
        is_read_early=True,
        old_name="drain",
    )
    deadline: float | str | None = option(
        None,
        Word("S|TIME"),
        "when the run must have ended: seconds from its start, or an ISO time",
        "when the run must have ended, in seconds from its start or as an ISO time; see ``grace_period``.",
        "walltime time_limit timeout time",
    )
    run_dir: FilePath | Literal[False] | None = option(
        None,
        _RUN_DIR,
        "where the run's files go (default: a new one under handoff-runs/)",
        "where the run's files go, a new one under handoff-runs/ by default; one that is named again resumes. "
        "False for none: nothing is written, all values stay in memory, and the run cannot be resumed.",
        "directory outdir output_dir workdir rundir dir",
        is_read_early=True,
    )
    checkpoint: Checkpoint = option(
        "auto",
        OneOf(CHECKPOINTS),
        "which large values are written down for a run that resumes",
        'which large values are written to files for a run that resumes: "all", "none", or "auto", those that took '
        "longer to compute than to write. Small ones always are.",
    )
    fresh: bool = option(
        False,
        YesNo(),
        "start over, and ignore what the run-dir holds",
        "start over, and ignore what earlier launches left in the run-dir.",
        "restart clean force",
        is_read_early=True,
    )
    rerun: Ids = option(
        (),
        FunctionIds(),
        "run this function again, and all that depend on it",
        "ids of functions that run again when a run is resumed, with all that depend on them.",
        "again",
        is_read_early=True,
    )
    accept_changes: Ids = option(
        (),
        FunctionIds(metavar="NAME"),
        "keep the values that this function or code gave before it changed",
        "ids of functions, or names of their codes, that keep the values of earlier launches though they have changed "
        "since, as when code was only tidied up; the functions that depend on them keep theirs too.",
    )
    seed: bool = option(
        True,
        YesNo(),
        "seed no global random generators for calls",
        "whether calls that draw from the global generators of ``random`` or numpy are seeded, each from its id, "
        "so that they draw the same numbers in each run, on any rank.",
    )
    check: bool = option(True, YesNo(), "", "raise DAGFailed if functions failed.")
    result_store: StoreFactory | None = option(
        None,
        Plug(problem_of_store),
        "",
        "makes the store of a rank, called with the rank: :class:`handoff_mpi.ResultStore` or "
        ":class:`handoff_mpi.PickleStore`.",
        "store",
    )
    resource_tracker: ResourceTracker | None = option(
        None,
        Plug(problem_of_tracker),
        "",
        "a :class:`handoff_mpi.ResourceTracker`, an object with register, request and release.",
        "tracker",
    )
    tracker_timeout: float | None = option(
        None,
        Seconds(is_optional=True),
        "seconds a function waits at most for the resource tracker",
        "seconds that a function waits at most for the resource tracker; None sets no limit.",
    )
    cache_size: float | str = option(
        "256MB",
        Memory(),
        "memory on each rank for values that no function needs any more",
        "memory on each rank for values that no function needs any more, in MB or with a unit.",
        "cache",
    )
    output: OutputMode = option(
        "auto",
        OneOf(OUTPUTS),
        "what becomes of what functions print",
        'what becomes of what functions print. "capture" keeps it in the run-dir, "forward" prints it as well, '
        'each line with the function\'s id, "plain" prints it as well, as it is, "off" leaves it alone. "auto" '
        'means, on the command line, "forward" at a terminal, "capture" in a batch job or under a bare mpirun, and '
        '"plain" elsewhere; in :func:`execute`, "off". See ``manual/watching.md``.',
        "stdout log_output logs print",
        is_read_early=True,
    )
    progress: ProgressMode = option(
        "auto",
        OneOf(PROGRESS),
        "draw progress on the terminal, or print lines",
        '"live" draws the progress of the run at the bottom of the terminal of stderr, "lines" prints lines at '
        'growing intervals, "none" prints neither that nor start lines. "auto" means, on the command line, "live" '
        'at a terminal and "lines" elsewhere; in :func:`execute`, "live" without start lines in one process at a '
        'terminal, and "none" elsewhere. "live" means "lines" where there is no terminal. See '
        "``manual/watching.md``.",
        "progress_bar show_progress verbose",
        is_read_early=True,
    )
    record: Record = option(
        CALLS,
        OneOf(RECORDS),
        "what the run records of itself: events, and use of hosts",
        'what the run records of itself besides its journal: "calls" writes ``events.jsonl`` and ``summary.json`` '
        'and samples the use of hosts, "summary" leaves lines about single functions out of ``events.jsonl``, '
        '"none" writes and samples nothing. See ``manual/telemetry.md``.',
        "events event_log trace history",
    )
    quiet: bool = option(
        False,
        YesNo(),
        "print failures alone: no start line, progress or summary",
        "print no start lines, no progress and, on the command line, no summary; failures are printed still.",
        "silent",
        is_read_early=True,
    )
    report: ReportMode = option(
        "auto",
        OneOf(REPORTS),
        "make report.html at the end; auto: where that takes little time",
        '"always" makes ``report.html`` in the run-dir at the end of a run, "none" does not. "auto" makes it for a '
        "run of the command line that took at least twenty times as long as that will take, which is 20 s or more, "
        "where plotly and jinja2 are installed (``pip install 'handoff_mpi[report]'``). See "
        "``manual/watching.md``.",
        "html with_report",
        is_read_early=True,
    )
    metrics_file: FilePath | None = option(
        None,
        PathName("the path of a file"),
        "renew this file every 15 s with Prometheus metrics, for node_exporter's textfile collector",
        "a file that rank 0 renews every 15 s and at the end with Prometheus metrics of the run, as "
        "node_exporter's textfile collector reads them. It takes ``pip install 'handoff_mpi[metrics]'``.",
        "metrics prometheus prometheus_file textfile",
    )

    def validate(self) -> RunOptions:
        """Return these options if they make sense; handles are replaced by their ids, numbers of numpy by plain ones.

        Raises:
            UsageError: naming each that does not.
        """
        for name in OPTIONS:  # before any is looked at: some are refused because of others
            setattr(self, name, plain(getattr(self, name)))
        problems: list[str] = []
        for name, each in OPTIONS.items():
            try:
                setattr(self, name, each.kind.checked(name, getattr(self, name)))
            except WrongValue as wrong:
                problems += wrong.problems
        problems += self._conflicts()
        if problems:
            raise UsageError("; ".join(problems))
        return self

    def _conflicts(self) -> Iterator[str]:
        """Yield which options are refused because of others."""
        if self.run_dir is not False:
            return
        if isinstance(self.output, str) and self.output == CAPTURE:
            yield "output='capture' keeps files, and run_dir=False keeps none; use output='forward' or 'off'"
        if self.report == ALWAYS:
            yield "report='always' makes a file in the run-dir, and run_dir=False is a run without one"
        elif self.rerun:
            yield "rerun is for a run that is resumed, and run_dir=False keeps nothing"


OPTIONS = options_by_name(fields(RunOptions))
lists_options(OPTIONS.values())(RunOptions)
#: Options that dag.py cannot set: the supervisor, or another launch of the same run, goes by them before it is loaded.
READ_EARLY = tuple(name for name, each in OPTIONS.items() if each.is_read_early)
#: What other tools call an option, and its name.
SYNONYMS = {word: each.name for each in OPTIONS.values() for word in each.other_words}
_NEW_NAMES = {each.old_name: each.name for each in OPTIONS.values() if each.old_name}


class OptionDefaults(Settings):
    """The part of the process context that ``handoff.start`` sets.

    Attributes:
        values: option to value.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def restorer(self) -> Callable[[], object]:
        before = dict(self.values)

        def restore() -> None:
            self.values = before

        return restore


_defaults = this_process.of(OptionDefaults)


def set_defaults(given: Mapping[str, Any]) -> None:
    """Make :func:`options_of` use ``given`` where its caller gives no value.

    Raises:
        UsageError: an option is unknown or its value wrong.
    """
    options_of(given)
    _defaults.values.update(_with_new_names(given))


def options_of(given: Mapping[str, Any]) -> RunOptions:
    """Return ``given``, completed by the defaults.

    Raises:
        UsageError: an option is unknown or its value wrong.
    """
    given = _with_new_names(given)
    known = KnownNames([*OPTIONS, "setup", "comm"], SYNONYMS, str)
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise UsageError(f"there is no option {known.listed(unknown)}; all: {', '.join(OPTIONS)}")
    chosen = {name: plain(value) for name, value in {**_defaults.values, **given}.items()}
    try:
        return call(RunOptions(**chosen).validate)
    except CallbackFailed as failed:
        if isinstance(failed.__cause__, HandoffError):
            raise failed.__cause__ from None
        raise UsageError("; ".join(_unusable(chosen)) or f"the options are unusable: {failed}") from failed


def _with_new_names(given: Mapping[str, Any]) -> dict[str, Any]:
    return {_NEW_NAMES.get(name, name): value for name, value in given.items()}


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
    return [name for name in names if name in _defaults.values]
