"""The functions that users call from their own scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypeVar

from handoff_mpi.dag import DAG
from handoff_mpi.errors import RanksMissing, UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.launch import script_end
from handoff_mpi.launch.call_site import CallSite
from handoff_mpi.launch.environment import size_by_launcher
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.joining import called_from, local_job, mpi_job
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.launch.rank_end import end_rank
from handoff_mpi.launch.registrations import my_capability, registrations
from handoff_mpi.launch.serving import serve
from handoff_mpi.launch.unused_tasks import tell_of_unused_tasks
from handoff_mpi.numerals import plain
from handoff_mpi.process_context import this_process
from handoff_mpi.resources import parse_resources
from handoff_mpi.results import Results
from handoff_mpi.runtime import resource_updates
from handoff_mpi.runtime.option_text import lists_options
from handoff_mpi.runtime.options import OPTIONS, RunOptions, options_of, set_defaults
from handoff_mpi.runtime.rank0_monitor import IDLE_TIMEOUT_S
from handoff_mpi.suggestions import did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Unpack  # which typing has from Python 3.11 on

    from handoff_mpi.dag.task_options import MapOptions
    from handoff_mpi.launch.pool import Pool
    from handoff_mpi.runtime.option_types import ExecuteOptions, FilePath

R = TypeVar("R")
#: ``setup(rank)``, as dag.py may define it.
Setup: TypeAlias = "Callable[[int], Any]"

jobs = this_process.of(OwnJobs)


def start(**defaults: Unpack[ExecuteOptions]) -> None:
    """Set defaults for the options of :func:`execute` in this process, as in the guide.

    In ``dag.py``, those of the command line's run of it: its flags and the environment win, and they alone can set the
    options that the run reads before it loads that file, as ``help(execute)`` says.

    Args:
        defaults: options of :func:`execute`.

    Raises:
        UsageError: an option is unknown or its value wrong.
    """
    set_defaults(defaults)


@lists_options(OPTIONS.values())
def execute(
    dag: DAG, *, comm: Any = None, setup: Setup | None = None, **options: Unpack[ExecuteOptions]
) -> Results | None:
    """Run ``dag`` on the ranks of this MPI job; called on every rank.

    Rank 0 schedules and returns the results; the other ranks serve, and return None once the run is over (or
    the results too, with ``results_on="all"``). With one rank, or without a launcher, it runs in one process; in
    ``dag.py``, and within a :class:`Cluster`, on the ranks of that job, which serve already.

    Args:
        dag: only rank 0's counts.
        comm: the communicator to use; the world by default.
        setup: ``setup(rank)``, called on every rank, rank 0 too, before the run, and in every child process. Only rank
            0's counts. What it returns is registered for that rank.
        options: of the run, listed below.

    Raises:
        DAGError, UsageError, Unsatisfiable: on rank 0; what was asked cannot be run, and nothing has started.
        DAGFailed: on rank 0; functions failed. It carries the results; ``check=False`` returns them instead. What rank
            0 does not catch ends all ranks.
        KeyboardInterrupt: in one process; a call with the same ``run_dir`` resumes.
        StartupError: ranks are missing after a minute, run another version, or are at another call of ``execute``.
    """
    if comm is None and jobs.current is not None and jobs.leads_ranks:
        return _execute_on(jobs.current, dag, options_of(options), setup)
    if comm is None and size_by_launcher() == 1:
        tell_of_unused_tasks("start the script by mpirun -n {}, or give run -n {} a dag.py")
        return execute_local(dag, setup=setup, **options)
    site = called_from(comm)  # counts this call, though its options may be wrong on one rank
    chosen = options_of(options)
    with Cluster(comm, join_limit=chosen.join_limit, _site=site) as cluster:
        if not cluster:
            shared = _serve(cluster.job)
            return shared if isinstance(shared, Results) else None
        return _execute_on(cluster.job, dag, chosen, setup)


execute_distributed = execute


def execute_local(dag: DAG, *, setup: Setup | None = None, **options: Unpack[ExecuteOptions]) -> Results:
    """Run ``dag`` in this process alone, without MPI.

    Args:
        dag: what to run.
        setup: as of :func:`execute`; it is called with rank 0.
        options: as of :func:`execute`.

    Raises:
        As :func:`execute`.
    """
    chosen = options_of(options)
    current = jobs.current
    job = local_job() if current is None or current.is_mpi else current.for_another_run()  # its setup is its own
    return _execute_on(job, dag, chosen, setup)


class Cluster:
    """The ranks of this job, for several runs::

        with handoff.Cluster() as cluster:
            if cluster:                                 # rank 0
                for dag in dags:
                    results = cluster.execute(dag)

    It is true on rank 0. The other ranks serve inside ``with`` until rank 0 leaves it, and then continue. Like them,
    their child processes serve one run after the other; only those that ``setup`` has prepared end with their run.
    With one rank, or without a launcher, it is one process, as with :func:`execute`.

    Args:
        comm: the communicator to use; the world by default.
        idle_limit: how long, in seconds, a rank waits between two runs for a rank 0 of another host that nobody can be
            asked about: see :mod:`handoff_mpi.runtime.rank0_monitor`. A week by default; ``float("inf")`` sets none.
        join_limit: see :class:`handoff_mpi.RunOptions`.
        run_dir: of the runs that name none themselves; False for runs without files, of which a small one takes a
            millisecond or two.

    Raises:
        UsageError: ``idle_limit`` or ``join_limit`` is not a positive number, ``run_dir`` is no path, or an option is
            unknown.
    """

    def __init__(
        self,
        comm: Any = None,
        *,
        idle_limit: float = IDLE_TIMEOUT_S,
        join_limit: float | None = None,
        run_dir: FilePath | Literal[False] | None = None,
        _site: CallSite | None = None,
        **unknown: NoReturn,
    ) -> None:
        _refuse_options(list(unknown))
        idle_limit = plain(idle_limit)
        if not isinstance(idle_limit, (int, float)) or isinstance(idle_limit, bool) or not idle_limit > 0:
            raise UsageError(f"idle_limit must be a positive number of seconds, not {show(idle_limit)}")
        self._defaults = {} if run_dir is None else {"run_dir": run_dir}
        given = {} if join_limit is None else {"join_limit": join_limit}
        limit_s = options_of({**self._defaults, **given}).join_limit
        self.job = _job_for(comm, limit_s, _site)
        self.job.idle_limit_s = float(idle_limit)
        if self.job.is_mpi and self.job.size > 1 and self.job is not jobs.current:
            script_end.joined(self.job)
        self._serve_now = _site is None
        self._before: Job | None = None
        self._pool: Pool | None = None

    def __bool__(self) -> bool:
        return self.job.rank == 0

    def __enter__(self) -> Cluster:
        self._before = jobs.current
        jobs.enter(self.job)  # what is asked in here is asked of this job
        if not self and self._serve_now:
            _serve(self.job)
        return self

    def execute(self, dag: DAG, *, setup: Setup | None = None, **options: Unpack[ExecuteOptions]) -> Results:
        """Run ``dag``; on rank 0. As :func:`execute`."""
        if not self:
            raise UsageError("Cluster.execute is for rank 0: write `if cluster: cluster.execute(dag)`")
        return _execute_on(self.job, dag, options_of({**self._defaults, **options}), setup)

    def map(self, function: Callable[..., R], /, *iterables: Any, chunksize: int | None = None) -> list[R]:
        """Return the values of ``function`` for each element, in their order; on rank 0.

        As the built-in ``map``, and the one of a pool: nothing is written to files, and what the function raises is
        raised here. ``cluster`` itself may be given where a sampler or an optimiser takes a pool. See
        :meth:`handoff_mpi.launch.pool.Pool.map`.
        """
        return self._own_pool().map(function, *iterables, chunksize=chunksize)

    def pool(self, **options: Unpack[MapOptions]) -> Pool:
        """Return a pool of the ranks, for what takes a ``multiprocessing.Pool``; on rank 0.

        Args:
            options: ``cost``, ``timeout``, ``max_retries`` and others of :class:`~handoff_mpi.Function`, for each
                element of each map.

        Raises:
            DAGError: an option is unknown, or its value is wrong.
        """
        from handoff_mpi.launch.pool import Pool  # other ranks do without

        if not self:
            raise UsageError("a pool is for rank 0: write `if cluster: pool = cluster.pool()`")
        return Pool(self.job, options_of(self._defaults), options)

    @property
    def size(self) -> int:
        """How many calls run at once: the size of the pool."""
        return self._own_pool().size

    def _own_pool(self) -> Pool:
        if self._pool is None:
            self._pool = self.pool()
        return self._pool

    def __reduce__(self) -> tuple[Any, ...]:
        from handoff_mpi.launch.pool import Pool

        return Pool, ()  # in an object that a function needs

    def __exit__(self, *exc_info: Any) -> None:
        jobs.leave(self.job)
        if not self:
            return
        if self._before is self.job:
            self.job.end_maps()  # its ranks serve on
        else:
            self.job.dismiss()


def _refuse_options(unknown: list[str]) -> None:
    """Refuse what is no option of a Cluster, though it may be one of its runs."""
    if unknown:
        of_runs = [name for name in OPTIONS if name in unknown]
        hint = did_you_mean(unknown[0], ("comm", "idle_limit", "join_limit", "run_dir"), shown=str)
        remedy = f"; give {', '.join(of_runs)} to its execute" if of_runs else hint
        raise UsageError(f"Cluster has no option {one_line(unknown[0], 80)}{remedy}")


def _serve(job: Job) -> object:
    """Serve; a rank that cannot continue ends as on the command line: an exception would wait in MPI for ever."""
    try:
        return serve(job)
    except Exception as error:
        if not job.is_mpi:
            raise
        end_rank(error)


def _job_for(comm: Any, join_limit: float, site: CallSite | None) -> Job:
    current = jobs.current
    if comm is None and current is not None and jobs.leads_ranks:
        return current  # its ranks serve already
    is_rank = current is not None and current.is_mpi  # then it is refused
    is_alone = comm is None and size_by_launcher() == 1 and not is_rank
    if is_alone:
        return local_job()
    try:
        return mpi_job(comm, join_limit, site)
    except RanksMissing as error:
        raise RanksMissing(f"{error}; call this on every rank of the communicator, not on rank 0 alone") from None


def _execute_on(job: Job, dag: DAG, options: RunOptions, setup: Setup | None) -> Results:
    _refuse_in_import()
    jobs.enter(job)
    try:
        if setup is not None:
            job.run_setup(setup)
        from handoff_mpi.launch.run import execute_on  # other ranks do without

        return execute_on(job, dag, options)
    finally:
        jobs.leave(job)


def _refuse_in_import() -> None:
    """Refuse to run a DAG where a process of a pool executes the file that it needs a function of: so would its pools.

    Raises:
        UsageError: so it is.
    """
    processes = sys.modules.get("multiprocessing.process")
    if processes is None or processes.parent_process() is None:
        return
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            where = f"{frame.f_code.co_filename}, line {frame.f_lineno}"
            remedy = 'call it in build(args), or under `if __name__ == "__main__":`'
            raise UsageError(f"{where}: a process that multiprocessing has started would run the DAG again; {remedy}")
        frame = frame.f_back


def discover_nodes() -> dict[int, dict[str, int | float]]:
    """Return rank to capabilities, as the guide shows: ``{0: {"cpu": 8, "memory": 16000, "gpu": 1}, ...}``.

    In ``dag.py``, within a ``Cluster``, during a run and after one this is the table already gathered; what ranks
    register after a run is seen from the next run on. Before the first run, under a launcher, it is a collective call.
    """
    if jobs.current is not None:
        capabilities = jobs.current.capabilities
    elif jobs.world:
        capabilities = jobs.world
    elif size_by_launcher() > 1:
        capabilities = mpi_job().capabilities
    else:
        capabilities = [my_capability(0)]
    return {each.rank: each.offered() for each in capabilities}


def register_local_node(resources: Mapping[str, Any], scope: str = "rank") -> None:
    """Override or add to what this rank offers, before a run.

    Args:
        resources: name to amount, as in a function's cost.
        scope: "rank": for this rank alone; "host": for its host, shared by all ranks there.

    Raises:
        DAGError: an amount is wrong.
        UsageError: the scope is.
    """
    if scope not in ("rank", "host"):
        raise UsageError(f"scope must be 'rank' or 'host', not {show(scope)}{did_you_mean(scope, ('rank', 'host'))}")
    amounts = parse_resources(resources)
    registrations.add(amounts, of_host=scope == "host")
    if jobs.current is not None:
        mine = jobs.current.capabilities[jobs.current.rank]
        (mine.registered if scope == "rank" else mine.host_registered).update(amounts)


def update_node_resources(rank: int, resources: Mapping[str, Any]) -> None:
    """Change what ``rank`` offers during a run; from any thread, function or handler.

    A rank that is given more cores is given a slot for each, unless the run has a number of slots; one that
    is given fewer finishes what it runs.

    Raises:
        DAGError: an amount is wrong.
        UsageError: there is no such rank in this job. Where that is not known (in a child process), or the rank is lost
            or runs no functions, rank 0 says so in a line instead.
        HandoffError: this process executes no run.
    """
    parse_resources(resources)
    rank = plain(rank)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise UsageError(f"a rank is a whole number from 0, not {show(rank)}")
    if jobs.current is not None and rank >= jobs.current.size:
        last = jobs.current.size - 1
        raise UsageError(f"there is no rank {rank} in this job: name one from 0 to {last}")
    resource_updates.update_resources(rank, {name: plain(amount) for name, amount in resources.items()})
