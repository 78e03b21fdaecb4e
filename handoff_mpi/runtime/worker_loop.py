"""What a computing rank does: poll, let its machine handle what came, run a call; until the run is over.

The thread that polls runs the short calls itself. While one lasts, a second thread (the attendant) takes over
the communicator after some milliseconds, so that a long call does not make its rank deaf.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from handoff_mpi.comm import Envelope, RankGone, Transport
from handoff_mpi.encoding import decode
from handoff_mpi.errors import HandoffError
from handoff_mpi.runtime.attendant import Attendant
from handoff_mpi.runtime.pace import Pace
from handoff_mpi.runtime.worker_shell import RunSetup, WorkerShell
from handoff_mpi.worker import child as child_process


def serve_run(transport: Transport, setup: RunSetup, pending: Sequence[Envelope], is_threaded: bool) -> Any:
    """Take part in one run as a worker until rank 0 ends it; return what rank 0 shares with all ranks.

    Raises:
        ConnectionError: rank 0 is gone.
    """
    shell = WorkerShell(transport, setup)
    set_active(shell)
    parent = os.getppid()
    pace = Pace()

    def poll(first: Sequence[Envelope] = ()) -> bool:
        arrived = [*first, *transport.poll()]
        for each in arrived:
            if isinstance(each, RankGone) and each.rank == 0:
                raise ConnectionError(f"rank 0 is gone: {each.reason}")
        return shell.turn(arrived)

    attendant = Attendant(shell, poll) if is_threaded else None
    shell.attendant = attendant
    if attendant is not None:
        attendant.start()
    try:
        with shell.lock:
            poll(pending)
        while not shell.has_left:
            with shell.lock:
                was_busy = poll()
            if attendant is not None and attendant.error is not None:
                raise attendant.error
            if shell.has_own_call:
                shell.run_own_call()
                continue
            if os.getppid() != parent:
                raise ConnectionError("the launcher is gone")
            pace.wait(was_busy, transport.is_transferring, shell.machine.next_wakeup(), shell.sockets())
    finally:
        set_active(None)
        if attendant is not None:
            attendant.close()
        shell.close()
    return None if shell.results is None else decode(shell.results)


_active: Any = None


def set_active(target: Any) -> None:
    """Say who takes resource updates from user code in this process."""
    global _active
    _active = target


def update_resources(rank: int, amounts: dict[str, Any]) -> None:
    """Carry ``update_node_resources`` from any thread, function or handler to rank 0.

    Raises:
        HandoffError: no run is going on here.
    """
    if _active is not None:
        _active.update_resources(rank, amounts)
    elif not child_process.tell_rank(("update", rank, amounts)):
        raise HandoffError("update_node_resources acts on a run, and none is going on in this process")
