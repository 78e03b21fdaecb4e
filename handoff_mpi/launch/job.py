"""A job: the ranks that work together, and the runs they do one after the other."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from handoff_mpi import telemetry
from handoff_mpi.allocation import Ledger
from handoff_mpi.comm import Envelope, MemoryNetwork, RankGone
from handoff_mpi.dag import DAG, Plan
from handoff_mpi.encoding import PICKLED, decode_code, encode_code
from handoff_mpi.errors import DAGFailed, JoinError, UsageError
from handoff_mpi.launch.admission import find_strategy, refuse_what_fits_nowhere
from handoff_mpi.launch.environment import size_by_launcher
from handoff_mpi.messages import BYE, LEAVE, START
from handoff_mpi.resources import Amounts, Capability, parse_resources
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.detection import detect
from handoff_mpi.results import Results
from handoff_mpi.results.results import FunctionError
from handoff_mpi.results.run_dir import make_run_dir, write_status
from handoff_mpi.results.store import DirectoryStore, MemoryStore, ResultStore
from handoff_mpi.runtime import worker_loop
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.pace import Pace, clock
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.runtime.scheduler_loop import LoopSettings, SchedulerLoop
from handoff_mpi.runtime.worker_loop import serve_run
from handoff_mpi.runtime.worker_shell import RunSetup, WorkerShell
from handoff_mpi.scheduler import Closed, Policy, Scheduler, Submitted
from handoff_mpi.telemetry import handlers as events

JOIN_S = 60.0
SETUP = "setup"  # (SETUP, 0, encoded function)
REGISTERED = "registered"  # (REGISTERED, 0, capability, error or None)

#: Values nobody needs any more are dropped once a rank's store takes this share of its part of the host.
_STORE_SHARE = 0.5

registered: Amounts = {}
host_registered: Amounts = {}
current: Job | None = None


class Job:
    """The ranks of one job as one of them sees it.

    Args:
        transport: this rank's end.
        capabilities: what every rank offers.
        is_mpi: whether MPI carries the messages.
        survives_death: whether the MPI reports a rank's death and goes on.
        is_threaded: whether a second thread may use the communicator.
    """

    def __init__(
        self,
        transport: Any,
        capabilities: list[Capability],
        is_mpi: bool,
        survives_death: bool = False,
        is_threaded: bool = False,
    ) -> None:
        self.transport = transport
        self.capabilities = capabilities
        self.is_mpi = is_mpi
        self.survives_death = survives_death
        self.is_threaded = is_threaded
        self.stop_reason = ""
        self.drain_s: float | None = None
        self._runs = 0
        self._gone: set[int] = set()
        self._setup: bytes | None = None

    @property
    def rank(self) -> int:
        return int(self.transport.rank)

    @property
    def size(self) -> int:
        return int(self.transport.size)

    # -- rank 0 ---------------------------------------------------------------------------------------

    def run_setup(self, setup: Callable[[int], Any]) -> None:
        """Call dag.py's ``setup(rank)`` on every rank, and take in what it registers.

        Raises:
            UsageError: it failed on a rank, or returned what cannot be registered.
        """
        blob = self._setup = encode_code(setup)
        others = [rank for rank in range(1, self.size) if rank not in self._gone]
        for rank in others:
            self.transport.send(rank, (SETUP, 0, blob, sys.path))
        answers = {0: _set_up(blob, self.capabilities[0])}
        end = clock() + JOIN_S
        pace = Pace()
        while len(answers) <= len(others) and clock() < end:
            arrived = self.transport.poll()
            for each in arrived:
                if isinstance(each, Envelope) and each.message[0] == REGISTERED:
                    answers[each.source] = each.message[2:]
            pace.wait(bool(arrived), False, end)
        silent = sorted(set(others) - set(answers))
        if silent:
            raise UsageError(f"setup(rank) has not returned on ranks {silent} within {JOIN_S:.0f} s")
        for rank, (capability, error) in sorted(answers.items()):
            if error is not None:
                raise UsageError(f"setup({rank}) failed: {error}")
            self.capabilities[rank] = capability

    def slots(self, options: RunOptions) -> dict[int, int]:
        """Return rank to slots, for the ranks that compute: a host's cores divided among its ranks."""
        by_host: dict[str, list[Capability]] = {}
        for capability in self.capabilities:
            by_host.setdefault(capability.host, []).append(capability)
        slots: dict[int, int] = {}
        for capabilities in by_host.values():
            computing = [each for each in capabilities if each.rank not in self._gone]
            if not (self.size == 1 or options.rank0_computes or len(computing) == 1):
                computing = [each for each in computing if each.rank != 0]
            cores = max(each.host_registered.get("cpu", each.host_amounts.get("cpu", UNIT)) for each in capabilities)
            share, rest = divmod(cores // UNIT, max(1, len(computing)))
            for position, each in enumerate(computing):
                own = each.registered.get("cpu")
                slots[each.rank] = max(1, share + (position < rest) if own is None else own // UNIT)
                if options.slots is not None:
                    slots[each.rank] = options.slots
        if not self.is_mpi and options.slots is None:
            return {0: 1}  # in one process, where a debugger works
        return slots

    def ledger(self, options: RunOptions) -> Ledger:
        """Return an empty ledger of this job's capability."""
        slots = self.slots(options)
        taking_part = [each for each in self.capabilities if each.rank in slots]
        return Ledger(taking_part, slots, parse_resources(options.resources or {}))

    def execute(self, dag: DAG, options: RunOptions) -> Results:
        """Run ``dag``; on rank 0.

        Raises:
            DAGError, UsageError, FitsNowhere: before anything starts.
            DAGFailed: functions failed, unless ``options.check`` is False.
        """
        started = clock()
        options.validate()
        dag.validate()
        plan = Plan(options.keep)
        specs = plan.add(dag)
        ledger = self.ledger(options)
        strategy = find_strategy(options.allocation_strategy, options.prices)
        policy = Policy(
            options.max_retries,
            options.crash_limit,
            options.on_failure == "stop",
            options.max_concurrency,
            options.silence_limit,
        )
        if options.resource_tracker is not None:
            policy.window = 1  # the tracker counts calls one by one
            _register_with_tracker(options.resource_tracker, self.capabilities)
        scheduler = Scheduler(ledger, strategy, policy, dict(options.prices or {}))
        refuse_what_fits_nowhere(plan, ledger)
        run_dir = make_run_dir(options.run_dir)
        self._runs += 1
        run = f"{run_dir.name}-{os.getpid()}-{self._runs}"
        about = {"dag_id": dag.id, "run": run, "functions": len(plan), "ranks": self.size, "started_s": started}
        write_status(run_dir, status="running", exit_code=None, **about)
        hosts = {each.rank: each.host for each in self.capabilities}
        recorder = Recorder(plan, dag.id, hosts)
        recorder.grow()
        recorder.on_failure = lambda task, failure: _show_failure(plan, hosts, task, failure)
        loop = self._loop(scheduler, plan, recorder, options, run, run_dir)
        telemetry.execute(events.DAG_START, {"system_time": started}, {"dag_id": dag.id, "functions": len(plan)})
        for each in self.capabilities:
            about_rank = {"node": each.rank, "host": each.host, "capabilities": each.offered()}
            telemetry.execute(events.RANK_JOINED, {"system_time": clock()}, about_rank)
        results: Results | None = None
        try:
            worker_loop.set_active(loop)
            loop.run([Submitted(specs), Closed()])
            results = self._results(dag.id, run, run_dir, scheduler, plan, recorder, started)
            return self._close(loop, results, options, about)
        finally:
            worker_loop.set_active(None)
            if results is None:
                loop.say_goodbye(None)
                write_status(run_dir, status="broken", exit_code=1, **about)
            if loop._shell is not None:
                loop._shell.close()
            self._gone |= loop._gone

    def _loop(
        self, scheduler: Scheduler, plan: Plan, recorder: Recorder, options: RunOptions, run: str, run_dir: Path
    ) -> SchedulerLoop:
        factory = options.result_store
        blob = None if factory is None else encode_code(factory)
        shell = None
        workers = []
        ranks_on = {each.host: 0 for each in self.capabilities}
        for each in self.capabilities:
            ranks_on[each.host] += 1
        pids = self._pids()
        for rank, seat in scheduler.ledger.seats.items():
            memory = self.capabilities[rank].host_amounts.get("memory", 0) / UNIT * 1e6
            setup = RunSetup(
                run,
                self._runs,
                seat.slots,
                self._isolation(options, rank, seat.slots),
                max(0.5, min(15.0, options.silence_limit / 20)),
                int(_STORE_SHARE * memory / ranks_on[seat.host]) or 1 << 40,
                str(run_dir),
                blob,
                list(sys.path),
                self._setup,
                telemetry.has_handlers(events.TRANSFER_STOP),
                pids[seat.host] if rank else {},  # rank 0's loop does that itself
            )
            if rank == 0:
                shell = WorkerShell(self.transport, setup)
            else:
                workers.append(rank)
                self.transport.send(rank, (START, 0, setup))
        home: ResultStore = MemoryStore() if factory is None else factory(0)
        drain = options.drain if self.drain_s is None else self.drain_s
        settings = LoopSettings(run, self._runs, workers, drain, options.resource_tracker, pids)
        kept = DirectoryStore(run_dir / "values")
        loop = SchedulerLoop(self.transport, scheduler, plan, recorder, home, kept, settings, shell)
        self._home = home

        def reason() -> str:
            if self.drain_s is not None:
                settings.drain_s = self.drain_s
            return self.stop_reason

        loop.stop_reason = reason
        return loop

    def _pids(self) -> dict[str, dict[int, int]]:
        """Return host to the process ids of its living ranks, by rank."""
        pids: dict[str, dict[int, int]] = {}
        for each in self.capabilities:
            if each.rank not in self._gone:
                pids.setdefault(each.host, {})[each.rank] = each.pid
        return pids

    def _isolation(self, options: RunOptions, rank: int, slots: int) -> str:
        if self.is_mpi and rank == 0:
            return "process"  # scheduling never waits for a call
        if options.isolation != "auto":
            return options.isolation
        safe = self.survives_death or not self.is_mpi
        return "rank" if safe and slots == 1 else "process"

    def _results(
        self,
        dag_id: Hashable,
        run: str,
        run_dir: Path,
        scheduler: Scheduler,
        plan: Plan,
        recorder: Recorder,
        started: float,
    ) -> Results:
        errors = {
            plan.ids[task]: FunctionError(
                f"{plan.ids[task]!r}: {failure.kind}: {failure.message}",
                failure.kind,
                failure.traceback,
                failure.attempts,
                failure.ranks,
            )
            for task, failure in sorted(scheduler.failures.items())
        }
        status = scheduler.status
        results = Results(
            dag_id,
            run,
            "stopped" if status == "running" else status,
            errors,
            run_dir,
            clock() - started,
            scheduler.stopping,
            {each.rank: each.host for each in self.capabilities},
            {rank: len(slots) for rank, slots in scheduler.slots.of_rank.items()},
            dict(recorder.lost),
        )
        results._records = recorder.records(scheduler)
        home = self._home
        results._payloads = {
            plan.ids[task]: home.get((run, task)) for task in range(len(plan)) if scheduler.tasks.at_home[task]
        }
        results._persisted = {plan.ids[task]: task for task in sorted(scheduler.tasks.persisted)}
        return results

    def _close(self, loop: SchedulerLoop, results: Results, options: RunOptions, about: dict[str, Any]) -> Results:
        shared = (PICKLED, pickle.dumps(results, protocol=5)) if options.results_on == "all" else None
        counts = results.counts()
        fields = {**about, **counts, "duration_s": results.duration_s, "lost_ranks": results.lost_ranks}
        assert results.run_dir is not None
        write_status(results.run_dir, status=results.status, exit_code=results.exit_code, **fields)
        silent = loop.say_goodbye(shared)
        if silent:
            print(f"handoff: ranks {silent} have not answered at the end of the run", file=sys.stderr, flush=True)
        telemetry.execute(
            events.DAG_STOP, {"duration": results.duration_s}, {"dag_id": results.dag_id, "status": results.status}
        )
        if options.check and results.errors:
            raise DAGFailed(_first_failures(results), results)
        return results

    def dismiss(self) -> None:
        """Tell the other ranks that the job is over, and wait, within bounds, until they have answered."""
        waiting = {rank for rank in range(1, self.size) if rank not in self._gone}
        for rank in waiting:
            self.transport.send(rank, (LEAVE, 0))
        end = clock() + 10.0
        pace = Pace()
        while waiting and clock() < end:
            arrived = self.transport.poll()
            for each in arrived:
                if isinstance(each, RankGone):
                    waiting.discard(each.rank)
                elif each.message[0] == BYE and each.message[1] == 0:
                    waiting.discard(each.source)
            pace.wait(bool(arrived), False, end)
        self.transport.flush(5.0)

    # -- the other ranks ------------------------------------------------------------------------------

    def serve(self) -> Any:
        """Serve runs until rank 0 ends the job; return what the last run shared with all ranks.

        Raises:
            ConnectionError: rank 0, or the launcher, is gone.
        """
        pace = Pace()
        parent = os.getppid()
        shared = None
        while True:
            arrived = self.transport.poll()
            for position, each in enumerate(arrived):
                if isinstance(each, RankGone):
                    if each.rank == 0:
                        raise ConnectionError(f"rank 0 is gone: {each.reason}")
                    continue
                kind = each.message[0]
                if kind == START:
                    setup: RunSetup = each.message[2]
                    _extend_path(setup.paths)
                    pending = [rest for rest in arrived[position + 1 :] if isinstance(rest, Envelope)]
                    shared = serve_run(self.transport, setup, pending, self.is_threaded)
                    break
                if kind == SETUP:
                    _extend_path(each.message[3])
                    answer = _set_up(each.message[2], self.capabilities[self.rank])
                    self.transport.send(0, (REGISTERED, 0, *answer))
                elif kind == LEAVE:
                    self.transport.send(0, (BYE, 0))
                    self.transport.flush(5.0)
                    return shared
            if os.getppid() != parent:
                raise ConnectionError("the launcher is gone")
            pace.wait(bool(arrived), self.transport.is_transferring, clock() + 1.0)


def local_job() -> Job:
    """Return a job of one rank without MPI."""
    return Job(MemoryNetwork(1).transport(0), [my_capability(0)], is_mpi=False)


def mpi_job(comm: Any = None) -> Job:
    """Join the job of ``comm`` (the world by default); a collective call.

    Raises:
        JoinError: ranks are missing after a minute, or run another version.
    """
    from handoff_mpi.comm import mpi

    if comm is None:
        comm = mpi.world()
        _refuse_singletons(comm.Get_size())
    mpi.wait_for_all(comm, JOIN_S)
    transport = mpi.MPITransport(comm)
    capabilities: list[Capability] = transport.allgather(my_capability(transport.rank))
    mine = capabilities[transport.rank].version
    others = {each.rank: each.version for each in capabilities if each.version != mine}
    if others:
        raise JoinError(f"rank {transport.rank} runs handoff_mpi {mine}, but others do not: {others}")
    return Job(transport, capabilities, True, mpi.survives_death(), mpi.is_threaded())


def _refuse_singletons(size: int) -> None:
    """Ranks whose MPI does not understand their launcher are worlds of one each, and would all run everything.

    Raises:
        JoinError: so it is.
    """
    expected = size_by_launcher()
    if size < expected:
        raise JoinError(
            f"the launcher started {expected} ranks, but this MPI sees {size}: it is not the launcher's own. Use the "
            "mpirun of the MPI that mpi4py was built with (with Slurm: mpirun, or srun --mpi=pmix for Open MPI, "
            "--mpi=pmi2 for MPICH)"
        )


def my_capability(rank: int) -> Capability:
    """Return what this rank offers: detected, and registered."""
    capability = detect(rank)
    capability.registered.update(registered)
    capability.host_registered.update(host_registered)
    return capability


def _set_up(blob: bytes, capability: Capability) -> tuple[Capability, str | None]:
    try:
        offered = decode_code(blob)(capability.rank)
        if offered is not None:
            capability.registered.update(parse_resources(offered))
        capability.registered.update(registered)
        capability.host_registered.update(host_registered)
    except (Exception, SystemExit) as error:
        return capability, f"{type(error).__name__}: {error}"
    return capability, None


def _extend_path(paths: list[str]) -> None:
    sys.path.extend(path for path in paths if path not in sys.path)


def _register_with_tracker(tracker: Any, capabilities: list[Capability]) -> None:
    missing = [name for name in ("register", "available", "request", "release") if not hasattr(tracker, name)]
    if missing:
        raise UsageError(f"resource_tracker={tracker!r} lacks {', '.join(missing)}")
    for each in capabilities:
        tracker.register(each.rank, each.offered())


def _show_failure(plan: Plan, hosts: dict[int, str], task: int, failure: Any) -> None:
    where = f" on rank {failure.ranks[-1]} ({hosts.get(failure.ranks[-1], '?')})" if failure.ranks else ""
    print(
        f"handoff: function {plan.ids[task]!r} failed{where}, attempt {failure.attempts}: "
        f"{failure.kind}: {failure.message}",
        file=sys.stderr,
    )
    if failure.traceback:
        print("    " + failure.traceback.rstrip().replace("\n", "\n    "), file=sys.stderr)
    sys.stderr.flush()


def _first_failures(results: Results) -> str:
    first = [str(error) for error in list(results.errors.values())[:3]]
    more = len(results.errors) - len(first)
    skipped = results.counts()["skipped"]
    return "; ".join(first) + (f"; and {more} more" if more else "") + (f"; {skipped} skipped" if skipped else "")


def end_worker(error: BaseException) -> None:
    """End a worker rank that cannot go on, so that the others notice."""
    from handoff_mpi.comm import mpi

    if isinstance(error, ConnectionError):
        print(f"handoff: a worker (process {os.getpid()}) ends: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
        sys.stderr.flush()
    if mpi.survives_death() or isinstance(error, ConnectionError):
        os.kill(os.getpid(), signal.SIGKILL)  # what MPI reports at once, whatever this process was doing
    mpi.abort(70)
    time.sleep(5)
    os._exit(70)
