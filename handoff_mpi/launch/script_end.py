"""How a rank of a user's script ends, and its job with it.

Without a run of the command line nobody but Python's own end sees that a script is over. MPI would have all ranks wait
for each other in MPI_Finalize; that hangs with fault tolerance on, once a rank has died or MPI_Abort was called, and it
hangs in any MPI where a rank has failed while others wait for it. Hence, when the script of a rank has come to its end:

- A rank that has ended well waits for rank 0. Rank 0 waits for the others; with fault tolerance not for ever: then
  those that still work are left to their work, and those that wait for rank 0 in MPI get an error.
- Rank 0 of a script that has failed gives the others less time, and ends them: it tells those that have come to their
  end, kills the others of its host, and revokes the communicator of those elsewhere. It leaves last, as the launcher's
  status is that of the rank that fails last. Another rank that has failed gives rank 0 time to end, then does the same.
- With fault tolerance MPI_Finalize is left out. Without it, MPI_Abort ends a job that has failed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from handoff_mpi import messages
from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.console import print_message
from handoff_mpi.exit_status import EXIT_RAISED
from handoff_mpi.launch import call_site
from handoff_mpi.launch.call_site import Calls
from handoff_mpi.launch.environment import has_fault_tolerance
from handoff_mpi.launch.guard import LEAVES, RELEASED, OwnGuard, tell_guards
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.local_ranks import kill_other_ranks, other_ranks
from handoff_mpi.messages import ENDS
from handoff_mpi.process_context import this_process
from handoff_mpi.process_exit import exit_process, flush_output

#: With fault tolerance, a rank 0 that has ended well waits so long for the others before it leaves.
SCRIPT_SILENCE_TIMEOUT_S = 5.0
#: After a failure the others get so long to come to their end, and so long to leave.
FAILED_SCRIPT_TIMEOUT_S = 3.0
SCRIPT_END_TIMEOUT_S = 5.0
#: Where ranks have been at different calls, each waits so long at its end for the others to come to theirs.
MEETING_S = 60.0
_OUTPUT_FLUSH_TIMEOUT_S = 2.0
_MIN_POLL_INTERVAL_S = 0.005
_MAX_POLL_INTERVAL_S = 0.1


class ScriptJobs:
    """The jobs that the script of this process has joined; a part of the process context."""

    def __init__(self) -> None:
        self._latest: dict[tuple[tuple[str, int], ...], Job] = {}  # most scripts have one set of ranks

    def add(self, job: Job) -> None:
        """Add a job, which takes the place of one of the same ranks."""
        members = tuple((each.host, each.pid) for each in job.capabilities)
        self._latest.pop(members, None)
        self._latest[members] = job

    def led(self) -> list[Job]:
        """Return the latest job of each set of ranks whose rank 0 this is."""
        return [job for job in self._latest.values() if job.rank == 0]

    def served(self) -> list[Job]:
        """Return the latest job of each set of ranks in which this is another rank."""
        return [job for job in self._latest.values() if job.rank]


def joined(job: Job) -> None:
    """This rank of a script has joined ``job``: what ends the one ends the other."""
    script_jobs = this_process.of(ScriptJobs)
    is_first = not script_jobs.led()
    script_jobs.add(job)
    if not job.has_fault_tolerance:
        return  # the launcher ends all ranks when one dies
    pid = job.pids_of_host().get(0)
    if not job.rank and is_first:
        _observe_exits()
    elif job.rank and pid is not None:
        this_process.of(OwnGuard).watch(pid)


def _observe_exits() -> None:
    """Have ``os._exit`` of rank 0 end the others too: no handler runs then, and MPI tells them nothing of it."""
    leave, process = os._exit, os.getpid()

    def _exit(status: int) -> None:
        if os.getpid() == process:
            tell_guards(other_ranks(), LEAVES)
        leave(status)

    os._exit = _exit  # type: ignore[assignment]


def finish(status: int, has_raised: bool) -> None:
    """End this rank, whose script has come to its end, together with its job."""
    is_started = "mpi4py.MPI" in sys.modules
    flush_output()
    if this_process.of(Calls).have_differed:
        meet_at_end(FAILED_SCRIPT_TIMEOUT_S + SCRIPT_END_TIMEOUT_S if status else MEETING_S)
    script_jobs = this_process.of(ScriptJobs)
    led, served = script_jobs.led(), script_jobs.served()
    if not led and not served:
        if has_raised:
            end_unjoined(EXIT_RAISED, is_started)
        return
    from handoff_mpi.comm import mpi

    if not mpi.is_active():
        return
    _end_jobs(led, served, status)
    if mpi.has_fault_tolerance():
        exit_process(status)


def meet_at_end(limit_s: float) -> None:
    """Wait, within bounds, until all ranks have come to the end of their scripts.

    One that calls ``execute`` meanwhile, which this rank has left out, gets an error at once.
    """
    from handoff_mpi.comm import mpi

    if not mpi.is_active():
        return
    comm, is_together = mpi.world(), False
    try:
        while not is_together:
            mpi.wait_for_all(comm, limit_s)
            is_together = call_site.meet(call_site.END, comm.allgather)
        this_process.of(Calls).have_differed = False
    except Exception:
        pass  # others have died, or are busy: they are on their own


def _end_jobs(led: list[Job], served: list[Job], status: int) -> None:
    """End the jobs of this rank: as rank 0, if it is that of any."""
    for job in served:
        job.transport.send(0, messages.ends(status))
    for job in led[:-1]:
        _dismiss(job)
    if led:
        _end_rank_0(led[-1], status)
    else:
        _end_other_rank(served[-1], status)


def end_unjoined(status: int, is_started: bool) -> None:
    """End all ranks, as one has failed that has not joined them: they wait for it, perhaps in MPI_Init."""
    if has_fault_tolerance():
        kill_other_ranks()
        exit_process(status)
    if is_started:
        from handoff_mpi.comm import mpi

        mpi.abort(status)


# -- rank 0 -------------------------------------------------------------------------------------------


def _end_rank_0(job: Job, status: int) -> None:
    from handoff_mpi.comm import mpi

    others = _Others(job)
    others.failure = status
    _await(others.are_done, float("inf"))
    if not status and job.has_fault_tolerance:
        tell_guards(other_ranks(), RELEASED)
    if not others.at_work:
        _dismiss(job)
        job.see_off()
    elif not job.has_fault_tolerance:
        mpi.abort(others.failure)
    elif others.failure:
        _end_others(job)
    else:
        print_message(
            f"rank 0 has ended; ranks {sorted(others.at_work)} are still in the script, and continue by themselves"
        )
        _dismiss(job)
        return
    if job.has_fault_tolerance:
        _await(lambda: not job.lives_here(), SCRIPT_END_TIMEOUT_S)


class _Others:
    """The other ranks, which rank 0 waits for at its end.

    Attributes:
        at_work: those that have not come to the end of their script, as far as they live.
        failure: the status of a rank that has failed; 0 while none has.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begun = time.monotonic()
        self.at_work = set(range(1, job.size)) - job.membership.lost - set(job.at_end)
        self.failure = next((status for status in job.at_end.values() if status), 0)

    def are_done(self) -> bool:
        """Look; return whether all have come, or no more time is left to them."""
        for each in self._job.transport.poll():
            if isinstance(each, RankFailed):
                self.at_work.discard(each.rank)
            elif each.kind == ENDS:
                self.at_work.discard(each.source)
                (status,) = each.fields
                if status and not self.failure:
                    self.failure, self._begun = status, time.monotonic()
        self.at_work.difference_update(self._job.ended_here())
        return not self.at_work or time.monotonic() >= self._begun + self._patience_s

    @property
    def _patience_s(self) -> float:
        if self.failure:
            return FAILED_SCRIPT_TIMEOUT_S
        return (
            SCRIPT_SILENCE_TIMEOUT_S if self._job.has_fault_tolerance else float("inf")
        )  # MPI_Finalize would wait for ever, too


def _dismiss(job: Job) -> None:
    """Tell the other ranks that the job has ended."""
    for rank in range(1, job.size):
        if rank not in job.membership.lost:
            job.transport.send(rank, messages.ends(0))
    job.transport.flush(_OUTPUT_FLUSH_TIMEOUT_S)


def _end_others(job: Job) -> None:
    """End the other ranks: those at their end have a moment to do so themselves."""
    from handoff_mpi.comm import mpi

    _dismiss(job)
    _await(lambda: not job.lives_here(), _MAX_POLL_INTERVAL_S)
    if len(job.pids_of_host()) < job.size:
        mpi.revoke()
    kill_other_ranks()


# -- another rank -------------------------------------------------------------------------------------


def _end_other_rank(job: Job, status: int) -> None:
    from handoff_mpi.comm import mpi

    if not job.has_fault_tolerance and not status:
        return  # MPI_Finalize waits for the others
    if _await(lambda: _is_dismissed(job), FAILED_SCRIPT_TIMEOUT_S + SCRIPT_END_TIMEOUT_S if status else float("inf")):
        return
    if not job.has_fault_tolerance:
        mpi.abort(status)
    print_message(f"rank {job.rank} has failed, and rank 0 has not ended: all ranks are ended")
    kill_other_ranks()


def _is_dismissed(job: Job) -> bool:
    """Whether rank 0 has ended the job; where it has died this process ends here."""
    arrived = [
        each for each in job.transport.poll() if (each.rank if isinstance(each, RankFailed) else each.source) == 0
    ]
    if any(isinstance(each, Envelope) and each.kind == ENDS for each in arrived):
        return True
    is_gone = any(isinstance(each, RankFailed) for each in arrived)
    if is_gone:
        this_process.of(OwnGuard).leave()
    return is_gone


def _await(is_over: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is over, or ``seconds`` are; return whether it is."""
    end, pause_s = time.monotonic() + seconds, _MIN_POLL_INTERVAL_S
    while not is_over():
        if time.monotonic() >= end:
            return False
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, _MAX_POLL_INTERVAL_S)
    return True
