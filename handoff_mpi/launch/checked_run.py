"""The first stage of a run: its DAG and its options are checked against the job, and nothing has started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from handoff_mpi.callbacks import CallbackFailed, call
from handoff_mpi.console import print_message, print_message_once
from handoff_mpi.dag import DAG, Plan
from handoff_mpi.dag.retry_on import names_of
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.launch.admission import check_feasible, encode_factory, find_strategy
from handoff_mpi.launch.deadline import grace_within, resolve_deadline
from handoff_mpi.launch.dry_run import check_for_run
from handoff_mpi.launch.isolation import isolation_of
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.notices import notices
from handoff_mpi.launch.progress_mode import shown_by_run
from handoff_mpi.launch.questions import find_questions
from handoff_mpi.resources import Capability
from handoff_mpi.resources.slurm_grants import find_mismatches, views_of
from handoff_mpi.results.fallback_store import FallbackStore
from handoff_mpi.results.store import MemoryStore, ResultStore
from handoff_mpi.results.supervision import has_supervisor, lost_hosts
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.scheduler import Policy, Scheduler

if TYPE_CHECKING:
    from handoff_mpi.launch.metrics_file import MetricsFile

#: So many codes are known to have been decoded in a job, about.
_MAX_KNOWN_CODES = 10_000


class CheckedRun:
    """A run that can be carried out, on rank 0.

    Args:
        job: whose ranks it uses.
        dag: what it runs.
        options: how.

    Attributes:
        job, dag, options: as given.
        started_s: when the run began, in seconds since the epoch.
        grace_period_s: how long running calls may continue once the run is stopped.
        kinds: the functions of the DAG, by what they have in common.
        plan: the tables of the DAG.
        specs: of its tasks, for the scheduler.
        ledger: of what the ranks offer.
        strategy: allocates.
        scheduler: the machine.
        shown: the ways in which rank 0 shows the run.
        metrics: the file of ``--metrics-file``, or None.
        store_factory: the user's maker of stores, encoded; or None.
        own_store: the store that this has made for rank 0, or None.
        store: where values rest at rank 0.

    Raises:
        DAGError, UsageError, Unsatisfiable: it cannot be run; nothing has started.
    """

    def __init__(self, job: Job, dag: DAG, options: RunOptions) -> None:
        self.started_s = clock()
        if not isinstance(dag, DAG):
            raise UsageError(f"what is executed must be a DAG, not {show(dag)}")
        options.validate()
        self.job = job
        self.dag = dag
        self.options = options
        self.kinds = dag.find_kinds()
        self.plan = Plan(options.keep, job.directory)
        self.specs = self.plan.add(dag, self.kinds)
        _refuse_what_cannot_be_sent(job, dag, self.plan, options)
        self.ledger = job.ledger(options)
        self.strategy = find_strategy(options.allocation_strategy, options.prices)
        deadline_s = resolve_deadline(options.deadline, self.started_s)
        self.grace_period_s = grace_within(options.grace_period, self.started_s, deadline_s)
        policy = _make_policy(job, options)
        if deadline_s is not None:
            policy.stop_at = deadline_s - self.grace_period_s
            self._tell_of_short_grace_period(deadline_s)
        self.scheduler = Scheduler(self.ledger, self.strategy, policy, dict(options.prices or {}))
        waiting = check_feasible(self.plan, self.ledger)
        for line in [*waiting, *find_questions(dag, self.plan, self.ledger, options)]:
            print_message_once(line)
        self.shown = shown_by_run(options, job.is_local, has_supervisor())
        self.metrics = _metrics_file(options)
        self.store_factory = encode_factory(options.result_store)
        self.own_store = None if options.result_store is None else FallbackStore(options.result_store, 0)
        self.store: ResultStore = self.own_store or MemoryStore()

    def _tell_of_short_grace_period(self, deadline_s: float) -> None:
        if self.grace_period_s < self.options.grace_period:
            asked, left_s = self.options.grace_period, deadline_s - self.started_s
            what = f"calls get {self.grace_period_s:.0f} s to end in once the run is stopped, not {asked:g}"
            print_message_once(f"{what} (--grace-period): a quarter of the {left_s:.0f} s that the run has")

    def tell_notices(self) -> None:
        """Print what holds in one process and not on all ranks, each notice once in a job."""
        job, options = self.job, self.options
        is_isolated = isolation_of(job, options, 0, 1) == "process"
        has_children = is_isolated or any(each.timeout is not None for each in self.kinds.first)
        where = "rank" if job.size > 1 else "child process" if has_children else ""
        has_setup = job.setup is not None
        of_code = notices(self.kinds.codes, self.plan.codes, job.top_level, where, options.seed, has_setup)
        for line in (*of_code, *_of_grants(job)):
            if line not in job.has_said:
                job.has_said.add(line)
                print_message(line)

    def close(self) -> None:
        """Close the store that was made for rank 0."""
        if self.own_store is not None:
            self.own_store.close()


def _of_grants(job: Job) -> list[str]:
    """Return in a line what the ranks use or see otherwise than Slurm granted; hosts that were lost explain it."""
    if lost_hosts():
        return []
    found = [*find_mismatches(os.environ, job.size, views_of(job.capabilities))]
    more = f" (and {len(found) - 1:,} more: `handoff-mpi doctor` lists them)" if len(found) > 1 else ""
    return [f"{each.what}; {each.remedy}{more}" for each in found[:1]]


def _refuse_what_cannot_be_sent(job: Job, dag: DAG, plan: Plan, options: RunOptions) -> None:
    """Have a rank decode what functions will be sent, where some code is new to the job.

    Raises:
        DAGError: it cannot be decoded there.
    """
    new = {hash(blob) for blob in plan.codes} - job.known_codes
    if not new:
        return
    slots = job.slots(options)
    ranks = {job.capabilities[rank].host: rank for rank in reversed(slots) if rank and rank not in job.unanswered}
    ranks = ranks if job.is_mpi and ranks else {"": 0}
    places = [
        (rank, isolation_of(job, options, rank, slots.get(rank, 1)) == "process") for rank in sorted(ranks.values())
    ]
    check_for_run(job, dag, plan, places)
    job.known_codes = new | (job.known_codes if len(job.known_codes) < _MAX_KNOWN_CODES else set())


def _make_policy(job: Job, options: RunOptions) -> Policy:
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
    policy.adds_slots = not job.is_local and options.slots is None
    if options.resource_tracker is not None:
        policy.window = 1  # the tracker counts calls one by one
        _register_with_tracker(options.resource_tracker, job.capabilities)
    return policy


def _register_with_tracker(tracker: Any, capabilities: list[Capability]) -> None:
    for each in capabilities:
        try:
            call(tracker.register, each.rank, each.offered())
        except CallbackFailed as error:
            raise UsageError(f"resource_tracker.register failed: {error}") from error


def _metrics_file(options: RunOptions) -> MetricsFile | None:
    if options.metrics_file is None:
        return None
    from handoff_mpi.launch.metrics_file import MetricsFile  # most runs do without

    return MetricsFile(options.metrics_file, print_message)
