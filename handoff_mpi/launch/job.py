"""A job: the ranks that work together, and the runs they do one after the other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from handoff_mpi import messages
from handoff_mpi.comm import MemoryNetwork, RankFailed
from handoff_mpi.console import print_message
from handoff_mpi.errors import RankLostInSetup, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.launch.calling_thread import CallingThread
from handoff_mpi.launch.last_watch import LastWatch
from handoff_mpi.launch.registrations import set_up
from handoff_mpi.membership import Membership
from handoff_mpi.messages import BYE, DECODED, ENDS, NO_RUN, REGISTERED
from handoff_mpi.process_context import this_process
from handoff_mpi.python_path import shared_path
from handoff_mpi.resources import Capability, parse_resources
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.capability import MAX_SLOTS
from handoff_mpi.results.supervision import has_supervisor
from handoff_mpi.runtime.backoff import Backoff, clock
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.process_monitor import GONE, PROCESS_CHECK_INTERVAL_S, STOPPED, ProcessMonitor
from handoff_mpi.runtime.rank0_monitor import IDLE_TIMEOUT_S
from handoff_mpi.serialization import encode_code
from handoff_mpi.worker.process_state import directory_between_calls

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
#: Ranks that have not answered to the end of the job after this long are left behind, or ended.
DISMISS_S = 5.0


class StaysOpen(Protocol):
    """A run whose ranks stay in it between two maps; see :mod:`handoff_mpi.launch.open_run`."""

    def close(self) -> None:
        """Have its ranks leave it."""
        ...


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
        is_beside_another: whether another thread of this process calls functions: so its directory is theirs meanwhile.
        open_run: the run that computes the maps of pools; None where no map has begun one.
        is_over: whether rank 0 has ended the job.
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
        self._stop_reason = ""
        self._outer: Job | None = None  # whose run another one is within, or beside
        self.grace_period_s: float | None = None
        self.is_loading = False
        self._runs = 0
        self._is_running = False
        self._local_turn = threading.Lock()  # of the run, or map, that uses the transport of one process
        self.is_beside_another = False
        self._maps = 0
        self._lock = threading.RLock()  # maps of several threads wait for one another
        self.open_run: StaysOpen | None = None
        self._for_maps: Job | None = None  # beside a run of this one
        self.is_over = False
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
        self.leave_open_run()
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

    @property
    def stop_reason(self) -> str:
        """Why runs of this job are to stop; empty if they are not."""
        return self._stop_reason or ("" if self._outer is None else self._outer.stop_reason)

    @stop_reason.setter
    def stop_reason(self, reason: str) -> None:
        self._stop_reason = reason

    @contextmanager
    def running(self) -> Iterator[Job]:
        """Execute a run within ``with``, on rank 0, by the job that this returns.

        That is this one, but for a run in one process that executes another, in a thread or in a function of that: its
        loop would take the messages of the other.

        Raises:
            UsageError: the ranks execute another run.
        """
        if not self.is_local:
            if self._is_running:
                raise UsageError("this job executes a run; start another one once it has ended")
        elif not self._local_turn.acquire(blocking=False):
            with self._beside().running() as other:
                yield other
            return
        try:
            self.leave_open_run()
            with self._calling() as self.is_beside_another:
                self._is_running = True
                yield self
        finally:
            self._is_running = self.is_beside_another = False
            if self.is_local:
                self._local_turn.release()

    def _calling(self) -> AbstractContextManager[bool]:
        """Call functions of a run within ``with``; give whether another thread of this process calls functions here."""
        return this_process.of(CallingThread).running() if self.is_local else nullcontext(False)

    def for_another_run(self) -> Job:
        """Return the job for a run in this process: this one, or one beside it while it executes a run."""
        return self._beside() if self._local_turn.locked() else self

    def _beside(self) -> Job:
        """Return a job of this process alone for a run that begins before the one of this job has ended."""
        other = copy.copy(self)
        other.transport, other.membership = MemoryNetwork(1).transport(0), Membership()
        other._outer, other._stop_reason = self, ""
        other._local_turn, other._lock, other._is_running = threading.Lock(), threading.RLock(), False
        other.open_run = other._for_maps = None
        return other

    @contextmanager
    def mapping(self) -> Iterator[Job]:
        """Compute a map within ``with``, on rank 0, by the job that this returns; maps of other threads end first.

        That is this one, or in one process, while it executes a run, one beside it, which stays.

        Raises:
            UsageError: the ranks execute a run.
        """
        with self._lock:
            if self._is_running and not self.is_local:
                raise UsageError("this job executes a run, or a map; call map once it has ended")
            if self._local_turn.acquire(blocking=False):
                try:
                    with self._calling() as self.is_beside_another:
                        self._is_running = True
                        yield self
                finally:
                    self._is_running = self.is_beside_another = False
                    self._local_turn.release()
                return
            beside = self._for_maps = self._for_maps or self._beside()
        with beside.mapping() as job:  # without the lock: the next run of this job need not wait
            yield job

    def next_map(self) -> int:
        """Return the number of a map that begins."""
        self._maps += 1
        return self._maps

    def leave_open_run(self) -> None:
        """Let the ranks leave the run of the maps, if they are in one."""
        with self._lock:
            found, self.open_run = self.open_run, None
            if found is not None:
                found.close()

    def end_maps(self) -> None:
        """Let the ranks leave the runs of the maps, of the job beside this one too; within a map nothing happens."""
        with self._lock:
            if not self._is_running:
                self.leave_open_run()
        if self._for_maps is not None:
            self._for_maps.end_maps()

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
            this_process.of(LastWatch).look_now(self.pids_beside())

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
        self.is_over = True
        self.end_maps()
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
        self.take_down_doorbell()

    def take_down_doorbell(self) -> None:
        """Close the doorbell: nobody sends here any more, and a script may have many jobs, one after the other."""
        doorbell, self.transport.doorbell = self.transport.doorbell, None
        if doorbell is not None:
            doorbell.close()
