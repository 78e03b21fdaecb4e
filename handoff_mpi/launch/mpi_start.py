"""Starts MPI in a rank, within bounds.

With fault tolerance on, a rank that dies leaves the others in MPI_Init for good, holding the interpreter; with any MPI,
a rank that is stopped does. What ends them is a thread of C, faulthandler's, which waits outside the interpreter; a
shell that reads what it writes says why. Where a supervisor watches the launch it does that better, knowing all ranks.
A script that has imported mpi4py.MPI before it calls this package has started MPI by itself, and cannot be guarded.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from handoff_mpi.launch.environment import rank_by_launcher, size_by_launcher
from handoff_mpi.results.supervision import has_supervisor

#: More than twice ``join_limit`` for each rank.
START_RANK_S = 0.02
_SPEAKER = 'read -r line && echo "$0" >&2'


def join_timeout_s(join_limit: float) -> float:
    """Return how long a rank waits for the others: it does not know when the last one arrived, so twice the limit."""
    return 2 * join_limit + START_RANK_S * size_by_launcher()


@contextmanager
def bounded_start(join_limit: float) -> Iterator[None]:
    """End this process if what is done within, the start of MPI, takes too long."""
    if size_by_launcher() == 1 or has_supervisor():
        yield
        return
    timeout_s = join_timeout_s(join_limit)
    why = f"MPI has not started within {timeout_s:g} s: other ranks have died, or not come (--join-limit)"
    text = f"handoff: rank {rank_by_launcher()} (process {os.getpid()} on {socket.gethostname()}) ends: {why}"
    with subprocess.Popen(["/bin/sh", "-c", _SPEAKER, text], stdin=subprocess.PIPE) as speaker:
        assert speaker.stdin is not None
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=speaker.stdin)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
