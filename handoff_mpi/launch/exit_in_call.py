"""Ends a rank whose function calls ``os._exit`` so that the job survives it.

Open MPI 5 with fault tolerance counts a rank that exits with another status than 0 twice. When its count reaches the
number of ranks, mpirun takes the job for ended: it leaves without a word, and rank 0 ends with it. MPI does not report
such an exit to the other ranks either. A rank that SIGKILL ends is counted once, and reported at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from handoff_mpi.console import print_message
from handoff_mpi.worker.output import restore_output


@contextmanager
def exits_by_signal(rank: int) -> Iterator[None]:
    """Have SIGKILL end this process where code of the user calls ``os._exit`` within ``with``; not in its forks."""
    leave, process = os._exit, os.getpid()

    def _exit(status: int) -> None:
        # A thread of this package may end the rank during a call, with a status that tells the launcher why.
        is_own = sys._getframe(1).f_globals.get("__name__", "").startswith("handoff_mpi.")
        if not is_own and os.getpid() == process:
            restore_output()
            print_message(f"rank {rank} ends: a function that it ran has called os._exit({status})")
            os.kill(process, signal.SIGKILL)
        leave(status)

    os._exit = _exit  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave
