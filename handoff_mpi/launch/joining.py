"""Joins the ranks of a job: a collective call of all of them."""

from __future__ import annotations

from typing import Any

from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.descendants import mark_descendants
from handoff_mpi.errors import StartupError, UsageError
from handoff_mpi.launch import call_site
from handoff_mpi.launch.call_site import CallSite
from handoff_mpi.launch.environment import size_by_launcher
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.last_watch import LastWatch
from handoff_mpi.launch.mpi_start import bounded_start, join_timeout_s
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.launch.registrations import my_capability
from handoff_mpi.linux import sharpen_timers
from handoff_mpi.process_context import this_process
from handoff_mpi.resources import Capability
from handoff_mpi.results.supervision import has_supervisor
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.presence import Presence

#: Ranks that have all come get this much longer to exchange what they offer.
JOINED_S = 10.0

jobs = this_process.of(OwnJobs)


def local_job() -> Job:
    """Return a job of one rank without MPI."""
    return Job(MemoryNetwork(1).transport(0), [my_capability(0)], is_mpi=False)


def mpi_job(comm: Any = None, join_limit: float | None = None, site: CallSite | None = None) -> Job:
    """Join the job of ``comm`` (the world by default); a collective call.

    Args:
        join_limit: see :class:`handoff_mpi.RunOptions`, which has the default.
        site: where the script has called what all ranks call together; by default where it has called this.

    Raises:
        UsageError: this rank serves in a job of the world already, or leads it: the other ranks would not come.
        StartupError: ranks are missing after ``join_limit``, run another version, or are at another call.
    """
    if comm is None and jobs.current is not None and jobs.current.is_mpi:
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
        jobs.world = list(job.capabilities)
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
    this_process.of(Presence).show()
    transport = mpi_transport.MPITransport(comm)
    capabilities: list[Capability] = transport.allgather(my_capability(transport.rank))
    mine = capabilities[transport.rank].version
    others = {each.rank: each.version for each in capabilities if each.version != mine}
    if others:
        raise StartupError(f"rank {transport.rank} runs handoff_mpi {mine}, but others do not: {others}")
    job = Job(transport, capabilities, True, mpi.has_fault_tolerance(), mpi.is_threaded())
    if job.rank == 0 and job.has_fault_tolerance and not has_supervisor():
        this_process.of(LastWatch).start(job.pids_beside())
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
