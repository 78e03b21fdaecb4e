"""A job: the ranks that work together, and the runs they do one after the other."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from handoff_mpi import messages
from handoff_mpi.call_modules import copies_entered
from handoff_mpi.callbacks import call_here
from handoff_mpi.comm import Envelope, MemoryNetwork, RankFailed
from handoff_mpi.console import print_message
from handoff_mpi.descendants import end_descendants, mark_descendants
from handoff_mpi.errors import EXIT_STOPPED, RankLostInSetup, StartupError, TransportError, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.launch import call_site, last_watch, script_end
from handoff_mpi.launch.call_site import CallSite
from handoff_mpi.launch.environment import size_by_launcher
from handoff_mpi.launch.local_ranks import kill_stopped_ranks
from handoff_mpi.launch.mpi_start import bounded_start, join_timeout_s
from handoff_mpi.linux import sharpen_timers
from handoff_mpi.membership import Membership
from handoff_mpi.messages import ASKED, BYE, DECODE, DECODED, ENDS, NO_RUN, REGISTERED, SETUP, SHUTDOWN, START
from handoff_mpi.module_files import take_sources
from handoff_mpi.python_path import add_directories, shared_path
from handoff_mpi.resources import Amounts, Capability, parse_resources
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.capability import MAX_SLOTS
from handoff_mpi.resources.detection import detect
from handoff_mpi.results.supervision import has_supervisor
from handoff_mpi.runtime import presence
from handoff_mpi.runtime.backoff import Backoff, clock
from handoff_mpi.runtime.host_probe import from_environment
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.process_monitor import GONE, PROCESS_CHECK_INTERVAL_S, STOPPED, ProcessMonitor
from handoff_mpi.runtime.rank0_monitor import IDLE_TIMEOUT_S, Rank0Monitor
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.worker_loop import serve_run, shut_down_workers
from handoff_mpi.serialization import decode_code, encode_code
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.child_process import no_launcher_in_environment
from handoff_mpi.worker.error_report import describe
from handoff_mpi.worker.output import restore_output
from handoff_mpi.worker.process_state import directory_between_calls
from handoff_mpi.worker.randomness import noting_seeds

if TYPE_CHECKING:  # of rank 0 alone
    from handoff_mpi.allocation import Ledger
    from handoff_mpi.dag.dry_run import Piece
    from handoff_mpi.launch.start_line import ResumeCommand
    from handoff_mpi.launch.top_level import TopLevel
    from handoff_mpi.worker.dry_run import Decoded

#: ``setup(rank)`` of dag.py must return within this long.
SETUP_S = 60.0
#: A rank must have decoded what functions will be sent within this long, or the run begins without that.
DECODE_S = 45.0
#: Ranks that have all come get this much longer to exchange what they offer.
JOINED_S = 10.0
#: Ranks that have not answered to the end of the job after this long are left behind, or ended.
DISMISS_S = 5.0
#: A rank that cannot continue has ended after this long, also where its MPI hangs.
JOB_END_TIMEOUT_S = 10

registered: Amounts = {}
host_registered: Amounts = {}
current: Job | None = None
#: What the ranks of the world offered in their last job, or in the present one.
latest: list[Capability] = []


class Job:
    """The ranks of one job as one of them sees it.

    Args:
        transport: this rank's end.
        capabilities: what every rank offers.
        is_mpi: whether MPI carries the messages.
        has_fault_tolerance: whether the MPI reports a rank's death and continues.
        is_threaded: whether a second thread may use the communicator.

    Attributes:
        is_loading: whether rank 0 runs code of dag.py to make the DAG, which a signal may break off.
        membership: the table of ranks.
        unanswered: the ranks that have not answered in time: to the end of a run, or what :meth:`decode_on` has asked.
        known_codes: hashes of the encoded functions that a rank could decode.
        at_end: the ranks whose scripts have come to their end, and with which status.
        directory: where the job was started.
        top_level: what loading dag.py has changed in this process; None if it was not loaded.
        has_said: notices of this job, which are not repeated for each run.
        resumed_by: makes the command that resumes a run of this job, from its run-dir; None in a script.
        summary: of the run of a command line, as ``summary.json`` has it; None before its end.
        latest_summary: of the run that ended last; ``dag.py`` may have made some while it was loaded.
        leave: ends this process at once; None where that is not for this package to do (a user's script).
        idle_limit_s: how long a worker waits for a run while rank 0 cannot be found alive; see
            :mod:`handoff_mpi.runtime.rank0_monitor`.
    """

    def __init__(
        self,
        transport: Any,
        capabilities: list[Capability],
        is_mpi: bool,
        has_fault_tolerance: bool = False,
        is_threaded: bool = False,
    ) -> None:
        self.transport = transport
        self.capabilities = capabilities
        self.is_mpi = is_mpi
        self.has_fault_tolerance = has_fault_tolerance
        self.is_threaded = is_threaded
        self.stop_reason = ""
        self.grace_period_s: float | None = None
        self.is_loading = False
        self._runs = 0
        self._is_running = False
        self._asked = 0
        self.unanswered: set[int] = set()
        self.known_codes: set[int] = set()
        self.membership = Membership()
        self.at_end: dict[int, int] = {}
        self.setup: bytes | None = None
        self.top_level: TopLevel | None = None
        self.has_said: set[str] = set()
        self.resumed_by: ResumeCommand | None = None
        self.summary: dict[str, Any] | None = None
        self.latest_summary: dict[str, Any] | None = None
        self.directory = directory_between_calls() or "."
        self.leave: Callable[[], object] | None = None
        self.idle_limit_s = IDLE_TIMEOUT_S
        # Looked at now: by the end of the job a process number may be another's.
        self._process_monitor = ProcessMonitor(self.rank, {} if self.rank else self.pids_of_host())

    @property
    def rank(self) -> int:
        return int(self.transport.rank)

    @property
    def size(self) -> int:
        return int(self.transport.size)

    @property
    def is_local(self) -> bool:
        """Whether this process is all there is: no MPI, and no fake ranks."""
        return self.size == 1 and not self.is_mpi

    # -- rank 0 ---------------------------------------------------------------------------------------

    def run_setup(self, setup: Callable[[int], Any]) -> None:
        """Call dag.py's ``setup(rank)`` on every rank, and take in what it registers.

        Raises:
            UsageError: it cannot be called, failed on a rank, left its process, or returned what cannot be registered.
            RankLostInSetup: a rank was killed meanwhile.
        """
        if not callable(setup):
            raise UsageError(f"setup must be a function of the rank, not {show(setup)}")
        blob = self.setup = encode_code(setup)
        others = [rank for rank in range(1, self.size) if rank not in self.membership.lost]
        for rank in others:
            self.transport.send(rank, messages.setup(blob, shared_path()))
        answers = {0: set_up(blob, self.capabilities[0])}
        end, next_look = clock() + SETUP_S, clock() + PROCESS_CHECK_INTERVAL_S
        missed: set[int] = set()
        backoff = Backoff(self.transport.doorbell)
        while len(answers) <= len(others) and clock() < end:
            arrived = self.transport.poll()
            for each in arrived:
                if isinstance(each, RankFailed):
                    self._leave_without(each.rank, each.reason)
                elif each.kind == REGISTERED:
                    answers[each.source] = each.fields
            if clock() >= next_look:
                next_look = clock() + PROCESS_CHECK_INTERVAL_S
                missed = self._look_at_those_in_setup(set(others) - set(answers), missed)
            backoff.wait(bool(arrived), False, min(end, next_look))
        silent = sorted(set(others) - set(answers))
        if silent:
            raise UsageError(f"setup(rank) has not returned on ranks {silent} within {SETUP_S:.0f} s")
        for rank, (capability, error) in sorted(answers.items()):
            if error is not None:
                raise UsageError(f"setup({rank}) failed: {error}")
            self.capabilities[rank] = capability

    def decode_on(self, rank: int, pieces: Sequence[Piece], in_child: bool) -> Decoded:
        """Have ``rank`` decode what functions will be sent, or a child process of it; return what came of it."""
        from handoff_mpi.worker.dry_run import Decoded, in_one_piece

        self._asked += 1
        self.transport.send(
            rank, messages.decode(self._asked, in_one_piece(pieces), in_child, self.setup, shared_path())
        )
        answer = self._await_decoded(rank, self._asked, clock() + DECODE_S)
        if answer is not None:
            return answer
        self.unanswered.add(rank)
        why = "it has ended" if rank in self.membership.lost else f"it has not answered within {DECODE_S:g} s"
        return Decoded(trouble=self.stop_reason or why)

    def _await_decoded(self, rank: int, number: int, end: float) -> Decoded | None:
        next_look, is_missed = clock() + PROCESS_CHECK_INTERVAL_S, False
        backoff = Backoff(self.transport.doorbell)
        while clock() < end and rank not in self.membership.lost and not self.stop_reason:
            arrived = self.transport.poll()
            for each in arrived:
                if isinstance(each, RankFailed):
                    self.membership.lose(each.rank, each.reason)
                elif each.kind == DECODED:
                    answered, outcome = each.fields
                    if answered == number:
                        return outcome  # type: ignore[no-any-return]
            if clock() >= next_look:
                next_look = clock() + PROCESS_CHECK_INTERVAL_S
                state, reason = self._process_monitor.examine(rank, clock())
                if state == STOPPED or (state == GONE and is_missed):
                    self.membership.lose(rank, reason)
                is_missed = state == GONE  # MPI reports most ends before the next look
            backoff.wait(bool(arrived), False, min(end, next_look))
        return None

    def _look_at_those_in_setup(self, ranks: Iterable[int], missed: set[int]) -> set[int]:
        """Return the ranks whose processes no longer exist, of which ``missed`` were at the look before.

        MPI reports a process that was killed, mostly before the next look, and is silent about one that has ended by
        itself.
        """
        gone = set()
        for rank in sorted(ranks):
            state, reason = self._process_monitor.examine(rank, clock())
            if state == STOPPED:
                self._leave_without(rank, reason)
            if state == GONE and rank in missed:
                self.membership.lose(rank, reason)
                raise UsageError(f"rank {rank} ended before setup({rank}) had returned: {reason}")
            if state == GONE:
                gone.add(rank)
        return gone

    def _leave_without(self, rank: int, reason: str) -> NoReturn:
        self.membership.lose(rank, reason)
        raise RankLostInSetup(f"rank {rank} was lost before setup({rank}) had returned: {reason}")

    def slots(self, options: RunOptions) -> dict[int, int]:
        """Return rank to slots, for the ranks that compute: a host's cores divided among its ranks."""
        by_host: dict[str, list[Capability]] = {}
        for capability in self.capabilities:
            by_host.setdefault(capability.host, []).append(capability)
        slots: dict[int, int] = {}
        for capabilities in by_host.values():
            computing = [each for each in capabilities if each.rank not in self.membership.lost]
            if not (self.size == 1 or options.rank0_computes or len(computing) == 1):
                computing = [each for each in computing if each.rank != 0]
            cores = max(each.host_registered.get("cpu", each.host_amounts.get("cpu", UNIT)) for each in capabilities)
            share, rest = divmod(cores // UNIT, max(1, len(computing)))
            for position, each in enumerate(computing):
                own = each.registered.get("cpu")
                wanted = share + (position < rest) if own is None else own // UNIT
                slots[each.rank] = min(max(1, wanted), MAX_SLOTS)
                if options.slots is not None:
                    slots[each.rank] = options.slots
        if self.is_local and options.slots is None:
            return {0: 1}  # in one process, where a debugger works
        return slots

    def ledger(self, options: RunOptions) -> Ledger:
        """Return an empty ledger of this job's capability."""
        from handoff_mpi.allocation import Ledger

        slots = self.slots(options)
        taking_part = [each for each in self.capabilities if each.rank in slots]
        return Ledger(taking_part, slots, parse_resources(options.resources or {}))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Execute a run within ``with``; on rank 0.

        Raises:
            UsageError: the ranks execute another one.
        """
        if not self.is_local and self._is_running:
            raise UsageError("this job executes a run; start another one once it has ended")
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    def next_run(self) -> int:
        """Return the number of a run that begins; messages carry it."""
        self._runs += 1
        return self._runs

    def living(self) -> list[Capability]:
        """Return the capabilities of the ranks that are not known to be lost."""
        return [each for each in self.capabilities if each.rank not in self.membership.lost]

    def pids_of_host(self) -> dict[int, int]:
        """Return rank to process id, of the ranks of this rank's host."""
        here = self.capabilities[self.rank].host
        return {each.rank: each.pid for each in self.capabilities if each.host == here}

    def pids_beside(self) -> list[int]:
        """Return the process ids of the other ranks of this rank's host."""
        return [pid for rank, pid in self.pids_of_host().items() if rank != self.rank]

    def see_off(self) -> None:
        """This rank is about to leave: ranks of its host that are stopped on their way out are ended, by the first."""
        if self.is_mpi and not has_supervisor() and self.rank == min(self.pids_of_host()):
            last_watch.look_now(self.pids_beside())

    def ended_here(self) -> set[int]:
        """Return the ranks of rank 0's host whose processes have ended; on rank 0."""
        return {rank for rank in self.pids_of_host() if self._process_monitor.lives(rank) is False}

    def lives_here(self) -> bool:
        """Whether a process of another rank of rank 0's host lives; on rank 0."""
        return any(self._process_monitor.lives(rank) for rank in self.pids_of_host())

    def dismiss(self) -> None:
        """Tell the other ranks that the job is over, and wait, within bounds, until they have answered.

        A rank of this host that does not answer, busy with a call whose outcome nobody wants any longer, is ended: the
        launcher would wait for it.
        """
        waiting = {rank for rank in range(1, self.size) if rank not in self.membership.lost}
        for rank in waiting:
            self.transport.send(rank, messages.shutdown())
        end = clock() + DISMISS_S
        backoff = Backoff(self.transport.doorbell)
        while waiting and clock() < end:
            arrived = self.transport.poll()
            for each in arrived:
                if isinstance(each, RankFailed):
                    waiting.discard(each.rank)
                elif each.kind == BYE and each.number == NO_RUN:
                    waiting.discard(each.source)
                elif each.kind == ENDS:
                    (self.at_end[each.source],) = each.fields
            backoff.wait(bool(arrived), False, end)
        ended = [rank for rank in sorted(waiting) if self._process_monitor.fence(rank)]
        if ended:
            print_message(f"ranks {ended} did not answer at the end of the job, and were ended")
        self.transport.flush(5.0)
        self._take_down_doorbell()

    def _take_down_doorbell(self) -> None:
        """Nobody sends anything here any more; a script may have many jobs, one after the other."""
        doorbell, self.transport.doorbell = self.transport.doorbell, None
        if doorbell is not None:
            doorbell.close()

    # -- the other ranks ------------------------------------------------------------------------------

    def serve(self) -> Any:
        """Serve runs until rank 0 ends the job; return what the last run shared with all ranks.

        Raises:
            ConnectionError: rank 0, or the launcher, was lost, or this rank's host was cut off.
        """
        child_pool = ChildPool()
        rank0_monitor = Rank0Monitor(self.transport, self.capabilities, from_environment(), self.idle_limit_s, clock())
        try:
            return self._serve(child_pool, rank0_monitor)
        finally:
            rank0_monitor.end()
            child_pool.close()
            self._take_down_doorbell()

    def _serve(self, child_pool: ChildPool, rank0_monitor: Rank0Monitor) -> Any:
        backoff = Backoff(self.transport.doorbell)
        parent = os.getppid()
        shared = None
        pending: list[Envelope] = []
        while True:
            arrived = [*pending, *self.transport.poll()]
            pending = []
            has_heard = False
            for position, each in enumerate(arrived):
                if isinstance(each, RankFailed):
                    if each.rank == 0:
                        raise ConnectionError(f"rank 0 was lost: {each.reason}")
                    continue
                has_heard |= each.source == 0
                kind = each.kind
                if kind == START:
                    (setup,) = each.fields
                    rest = [after for after in arrived[position + 1 :] if isinstance(after, Envelope)]
                    rank0_monitor.end()
                    shared, pending = self._serve_run(setup, rest, child_pool)
                    rank0_monitor.begin(clock())
                    break
                if kind == SETUP:
                    function, paths = each.fields
                    add_directories(paths)
                    self.transport.send(0, messages.registered(*set_up(function, self.capabilities[self.rank])))
                elif kind == DECODE:
                    self._decode(child_pool, *each.fields)
                elif kind == ASKED:
                    (answer,) = each.fields
                    rank0_monitor.take(answer, clock())
                elif kind == SHUTDOWN:
                    shut_down_workers(self.transport)
                    return shared
            if os.getppid() != parent:
                raise ConnectionError("the launcher has ended")
            rank0_monitor.look(has_heard, clock())
            backoff.wait(bool(arrived), self.transport.is_transferring, clock() + 1.0)

    def _decode(
        self,
        child_pool: ChildPool,
        number: int,
        pieces: Sequence[Piece],
        in_child: bool,
        function: bytes | None,
        paths: Sequence[str],
    ) -> None:
        from handoff_mpi.worker.dry_run import decode_here, decode_in_spare

        add_directories(paths)
        with no_launcher_in_environment():
            decoded = decode_in_spare(child_pool, self.rank, function, pieces) if in_child else decode_here(pieces)
        self.transport.send(0, messages.decoded(number, decoded))

    def _serve_run(self, setup: RunSetup, pending: list[Envelope], child_pool: ChildPool) -> tuple[Any, list[Envelope]]:
        add_directories(setup.paths)
        take_sources(setup.sources)
        if not self.is_mpi:
            return serve_run(self.transport, setup, pending, self.is_threaded, self.leave, None, child_pool)
        from handoff_mpi.comm import mpi

        with mpi.all_ranks_refused():
            return serve_run(self.transport, setup, pending, self.is_threaded, self.leave, end_rank, child_pool)


def local_job() -> Job:
    """Return a job of one rank without MPI."""
    return Job(MemoryNetwork(1).transport(0), [my_capability(0)], is_mpi=False)


def leads_ranks() -> bool:
    """Whether this process is rank 0 of a job whose other ranks serve already: in dag.py, or within a Cluster."""
    return current is not None and not current.is_local and current.rank == 0


def mpi_job(comm: Any = None, join_limit: float | None = None, site: CallSite | None = None) -> Job:
    """Join the job of ``comm`` (the world by default); a collective call.

    Args:
        join_limit: see :class:`handoff_mpi.RunOptions`, which has the default.
        site: where the script has called what all ranks call together; by default where it has called this.

    Raises:
        UsageError: this rank serves in a job of the world already, or leads it: the other ranks would not come.
        StartupError: ranks are missing after ``join_limit``, run another version, or are at another call.
    """
    if comm is None and current is not None and current.is_mpi:
        raise UsageError("this process is a rank of a job already; handoff.execute(dag) on its rank 0 uses that")
    site = called_from(comm) if site is None else site
    join_limit = RunOptions().join_limit if join_limit is None else join_limit
    with bounded_start(join_limit):
        from handoff_mpi.comm import mpi
    is_world = comm is None
    if is_world:
        comm = _world(mpi)
    is_together = False
    while not is_together:
        with bounded_start(join_limit + JOINED_S):
            mpi.wait_for_all(comm, join_timeout_s(join_limit))
            is_together = call_site.meet(site, comm.allgather)
    with bounded_start(JOINED_S):
        job = _join(comm)
    if is_world:
        latest[:] = job.capabilities
    return job


def called_from(comm: Any) -> CallSite:
    """Return where the script has called what all ranks of ``comm`` call together."""
    if comm is None:
        return call_site.here()
    from handoff_mpi.comm import mpi

    return call_site.here(mpi.members(comm))


def _world(mpi: Any) -> Any:
    comm = mpi.world()
    _refuse_singletons(comm.Get_size())
    return comm


def _join(comm: Any) -> Job:
    from handoff_mpi.comm import mpi, mpi_transport

    sharpen_timers()
    mark_descendants()
    presence.show()
    transport = mpi_transport.MPITransport(comm)
    capabilities: list[Capability] = transport.allgather(my_capability(transport.rank))
    mine = capabilities[transport.rank].version
    others = {each.rank: each.version for each in capabilities if each.version != mine}
    if others:
        raise StartupError(f"rank {transport.rank} runs handoff_mpi {mine}, but others do not: {others}")
    job = Job(transport, capabilities, True, mpi.has_fault_tolerance(), mpi.is_threaded())
    if job.rank == 0 and job.has_fault_tolerance and not has_supervisor():
        last_watch.start(job.pids_beside())
    return job


def _refuse_singletons(size: int) -> None:
    """Ranks whose MPI does not understand their launcher are worlds of one each, and would all run everything.

    Raises:
        StartupError: so it is.
    """
    expected = size_by_launcher()
    if size < expected:
        raise StartupError(
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


@contextmanager
def registrations_restored() -> Iterator[None]:
    """Restore at the end of ``with`` what this process had registered before it."""
    tables = (registered, host_registered)
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, amounts in zip(tables, before, strict=True):
            table.clear()
            table.update(amounts)


def set_up(blob: bytes, capability: Capability) -> tuple[Capability, str | None]:
    """Call ``setup(rank)``; return what the rank offers then, and what went wrong."""
    try:
        with copies_entered():
            setup = decode_code(blob)
            with noting_seeds(setup):
                offered = call_here(setup, (capability.rank,), {})
        if offered is not None:
            capability.registered.update(parse_resources(offered))
        capability.registered.update(registered)
        capability.host_registered.update(host_registered)
    except BaseException as error:
        return capability, f"{type(error).__name__}: {describe(error)[1]}"
    return capability, None


def end_rank(error: BaseException) -> NoReturn:
    """End a rank that cannot continue, so that the others notice, also where its functions have broken Python."""
    try:
        _end_within(JOB_END_TIMEOUT_S)
        restore_output()
        _explain(error)
        end_descendants()  # they would keep the pipes of this rank open, for which the launcher waits
        _leave_job(error)
    except BaseException:
        pass  # a function has replaced what this needs, ``len`` perhaps
    while True:
        os.kill(os.getpid(), signal.SIGKILL)  # MPI reports this at once, also inside a call


def _explain(error: BaseException) -> None:
    try:
        if isinstance(error, (ConnectionError, TransportError, UsageError)):
            who = f"process {os.getpid()} on {socket.gethostname()}"
            print_message(f"a rank ({who}) ends: {error}")
        else:
            traceback.print_exception(error)
            sys.stderr.flush()
    except Exception:
        pass  # its reader has ended with the launcher, or a function has put something else there


def _leave_job(error: BaseException) -> None:
    """End this process where another way than SIGKILL tells the launcher more; else return."""
    from handoff_mpi.comm import mpi

    is_fault_tolerant = mpi.has_fault_tolerance()
    if isinstance(error, ConnectionError):
        kill_stopped_ranks()  # nobody else would: the launcher waits for them
        if is_fault_tolerant:
            script_end.leave_after_rank_0()
            os._exit(EXIT_STOPPED)  # if SIGKILL ends all ranks, mpirun ends with status 0
    elif not is_fault_tolerant:
        mpi.abort(70)
        time.sleep(5)
        os._exit(70)


def _end_within(seconds: int) -> None:
    """Have the kernel end this process: MPI may hang, and so may the reader of stderr."""
    with suppress(ValueError):  # not in the main thread; few programs have a handler of their own
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
