"""Starts and ends MPI, and speaks to all ranks at once where no collective operation can.

Any module that imports ``mpi4py.MPI`` imports this one first: it sets the thread level that MPI starts with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import mpi4py

from handoff_mpi.comm.collectives import COLLECTIVES, WHY_IN_VAIN
from handoff_mpi.console import print_message
from handoff_mpi.errors import RanksMissing
from handoff_mpi.process_exit import exit_process, exit_python

if not os.environ.get("MPI4PY_RC_THREAD_LEVEL"):
    # MULTIPLE doubles the round-trip time, and only one thread at a time uses MPI here.
    mpi4py.rc.thread_level = "serialized"

from mpi4py import MPI

_JOIN_TAG = 3  # tag: a rank joins
#: Seconds between two looks of a rank that waits until others have joined, or until its messages have left.
FLUSH_TURN_S = 0.0005
#: Rank 0 reports a longer wait for ranks to join, and names the first missing ranks.
MIN_REPORTED_WAIT_S = 10.0
MAX_NAMED_RANKS = 20
_FT_VARIABLE = "OMPI_MCA_mpi_ft_enable"  # mpirun --with-ft ulfm sets it in every rank


def world() -> Any:
    """Return MPI's world communicator, initialising MPI."""
    return MPI.COMM_WORLD


def members(comm: Any) -> tuple[int, ...]:
    """Return the ranks in the world of the members of ``comm``, in its order."""
    group, everyone = comm.Get_group(), MPI.COMM_WORLD.Get_group()
    try:
        return tuple(group.Translate_ranks(None, everyone))
    finally:
        group.Free()
        everyone.Free()


def is_threaded() -> bool:
    """Whether MPI lets a second thread take over the communicator."""
    return bool(MPI.Query_thread() >= MPI.THREAD_SERIALIZED)


def has_fault_tolerance() -> bool:
    """Whether this MPI reports a rank's death and lets the other ranks continue (ULFM, switched on at launch)."""
    return os.environ.get(_FT_VARIABLE) in ("1", "true") and hasattr(MPI.Comm, "Get_failed")


def library() -> str:
    """Return the name and version of the MPI library, on one line."""
    return MPI.Get_library_version().split("\n")[0].split("\0")[0].split(",")[0].strip()


def leave(code: int) -> NoReturn:
    """Run the exit handlers, end the processes that this rank has started, and end the rank without a hang.

    With fault tolerance on, MPI_Finalize may wait for dead ranks, so the process ends without it. Without fault
    tolerance mpi4py must finalise MPI: MPICH's launcher takes a rank that ends before that for a crash.
    """
    if has_fault_tolerance():
        exit_process(code)
    exit_python(code, finalise)


def finalise() -> None:
    """Finalise MPI as mpi4py does at the end of Python, in a process that ends before it gets there."""
    if not MPI.Is_finalized():
        MPI.Finalize()


@contextmanager
def all_ranks_refused() -> Iterator[None]:
    """Make operations that need all ranks raise: a function that calls one would block its rank for ever.

    These are ``MPI.Finalize`` and the collective operations of ``MPI.COMM_WORLD``.
    """
    usual, world = MPI.Finalize, MPI.COMM_WORLD
    vars(MPI).update(Finalize=_refuse_to_finalise, COMM_WORLD=_WorldOfFunctions(world))
    try:
        yield
    finally:
        vars(MPI).update(Finalize=usual, COMM_WORLD=world)


class _WorldOfFunctions(MPI.Intracomm):
    """The world communicator as functions see it: rank 0 schedules and never joins a collective operation."""


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"MPI.COMM_WORLD.{name} would wait for ever: {WHY_IN_VAIN}")

    return refuse


for _name in COLLECTIVES:
    if hasattr(MPI.Intracomm, _name):
        setattr(_WorldOfFunctions, _name, _refused(_name))


def _refuse_to_finalise() -> NoReturn:
    raise RuntimeError("MPI_Finalize is refused: this rank needs MPI for its messages; remove the call")


def is_active() -> bool:
    """Whether MPI has been initialised, and not finalised."""
    return bool(MPI.Is_initialized() and not MPI.Is_finalized())


def revoke() -> None:
    """Make all present and later operations in the world communicator fail, on every rank (ULFM)."""
    MPI.COMM_WORLD.Revoke()


def abort(code: int) -> None:
    """End all ranks of the job."""
    MPI.COMM_WORLD.Abort(code)


def wait_for_all(comm: Any, timeout_s: float) -> None:
    """Return once every rank of ``comm`` has called this function; a collective operation could not time out.

    Rank 0 reports a long wait once, because a user may take it for a hang.

    Raises:
        RanksMissing: ranks have not joined in time; on rank 0 the message names them.
    """
    rank, size = comm.Get_rank(), comm.Get_size()
    now = time.monotonic()
    end, report_at = now + timeout_s, now + MIN_REPORTED_WAIT_S
    if rank == 0:
        missing = set(range(1, size))
        while missing:
            status = MPI.Status()
            if comm.Iprobe(MPI.ANY_SOURCE, _JOIN_TAG, status):
                comm.recv(source=status.Get_source(), tag=_JOIN_TAG)
                missing.discard(status.Get_source())
            elif time.monotonic() > end:
                raise RanksMissing(
                    f"{_named(missing, size)} have not joined within {timeout_s:.0f} s: {_listed(missing)}"
                )
            elif time.monotonic() > report_at:
                report_at = float("inf")
                waits = f"rank 0 waits up to {timeout_s:.0f} s for {_named(missing, size)} to join"
                print_message(f"{waits}: {_listed(missing)}; every rank has to make the same call")
            else:
                time.sleep(FLUSH_TURN_S)
        for other in range(1, size):
            comm.send(None, other, _JOIN_TAG)
        return
    request = comm.isend(None, 0, _JOIN_TAG)
    while not comm.Iprobe(0, _JOIN_TAG):
        if time.monotonic() > end + 5:
            raise RanksMissing(f"rank 0 has not joined within {timeout_s:.0f} s")
        time.sleep(FLUSH_TURN_S)
    comm.recv(source=0, tag=_JOIN_TAG)
    request.wait()


def _named(missing: set[int], size: int) -> str:
    return f"{len(missing)} of {size} ranks"


def _listed(ranks: set[int]) -> str:
    names = ", ".join(map(str, sorted(ranks)[:MAX_NAMED_RANKS]))
    return f"{names}, ..." if len(ranks) > MAX_NAMED_RANKS else names
