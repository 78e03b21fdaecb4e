"""Ends a rank that cannot continue, so that the other ranks and the launcher notice."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from typing import NoReturn

from handoff_mpi.console import print_message
from handoff_mpi.descendants import end_descendants
from handoff_mpi.errors import EXIT_STOPPED, TransportError, UsageError
from handoff_mpi.launch.guard import OwnGuard
from handoff_mpi.launch.local_ranks import kill_stopped_ranks
from handoff_mpi.launch.segments import remove_segments
from handoff_mpi.process_context import this_process
from handoff_mpi.worker.output import restore_output

#: A rank that cannot continue has ended after this long, also where its MPI hangs.
JOB_END_TIMEOUT_S = 10


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
        remove_segments()
        if is_fault_tolerant:
            this_process.of(OwnGuard).leave()
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
