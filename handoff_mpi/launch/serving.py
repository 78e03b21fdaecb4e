"""Serves a job as a rank other than 0: takes part in one run after the other, until rank 0 ends the job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from handoff_mpi import messages
from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.launch.exit_in_call import exits_by_signal
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.rank_end import end_rank
from handoff_mpi.launch.registrations import set_up
from handoff_mpi.messages import ASKED, DECODE, SETUP, SHUTDOWN, START
from handoff_mpi.module_files import take_sources
from handoff_mpi.python_path import add_directories
from handoff_mpi.runtime.backoff import Backoff, clock
from handoff_mpi.runtime.host_probe import from_environment
from handoff_mpi.runtime.rank0_monitor import Rank0Monitor
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.worker_loop import serve_run, shut_down_workers
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.child_process import no_launcher_in_environment

if TYPE_CHECKING:  # of rank 0 alone
    from handoff_mpi.dag.dry_run import Piece


def serve(job: Job) -> object:
    """Serve runs until rank 0 ends the job; return what the last run shared with all ranks.

    Raises:
        ConnectionError: rank 0, or the launcher, was lost, or this rank's host was cut off.
    """
    child_pool = ChildPool()
    rank0_monitor = Rank0Monitor(job.transport, job.capabilities, from_environment(), job.idle_limit_s, clock())
    try:
        server = _Server(job, child_pool, rank0_monitor)
        server.serve()
        return server.shared
    finally:
        rank0_monitor.end()
        child_pool.close()
        job.take_down_doorbell()


class _Server:
    """Handles the messages that rank 0 sends between runs.

    Attributes:
        shared: what the last run shared with all ranks; None before.
    """

    def __init__(self, job: Job, child_pool: ChildPool, rank0_monitor: Rank0Monitor) -> None:
        self.shared: object = None
        self._job = job
        self._child_pool = child_pool
        self._rank0_monitor = rank0_monitor
        self._pending: list[Envelope] = []
        self._is_over = False

    def serve(self) -> None:
        """Serve until the job is over."""
        transport, parent = self._job.transport, os.getppid()
        backoff = Backoff(transport.doorbell)
        while True:
            arrived = [*self._pending, *transport.poll()]
            self._pending = []
            has_heard = self._take(arrived)
            if self._is_over:
                return
            if os.getppid() != parent:
                raise ConnectionError("the launcher has ended")
            self._rank0_monitor.look(has_heard, clock())
            backoff.wait(bool(arrived), transport.is_transferring, clock() + 1.0)

    def _take(self, arrived: Sequence[Envelope | RankFailed]) -> bool:
        """Handle messages; return whether rank 0 has sent any. A run takes in those behind its start."""
        has_heard = False
        for position, each in enumerate(arrived):
            if isinstance(each, RankFailed):
                if each.rank == 0:
                    raise ConnectionError(f"rank 0 was lost: {each.reason}")
                continue
            has_heard |= each.source == 0
            if each.kind == START:
                self._run(each, [after for after in arrived[position + 1 :] if isinstance(after, Envelope)])
                break
            self._handle(each)
            if self._is_over:
                break
        return has_heard

    def _handle(self, envelope: Envelope) -> None:
        job = self._job
        if envelope.kind == SETUP:
            function, paths = envelope.fields
            add_directories(paths)
            job.transport.send(0, messages.registered(*set_up(function, job.capabilities[job.rank])))
        elif envelope.kind == DECODE:
            self._decode(*envelope.fields)
        elif envelope.kind == ASKED:
            (answer,) = envelope.fields
            self._rank0_monitor.take(answer, clock())
        elif envelope.kind == SHUTDOWN:
            shut_down_workers(job.transport)
            self._is_over = True

    def _decode(
        self, number: int, pieces: Sequence[Piece], in_child: bool, function: bytes | None, paths: Sequence[str]
    ) -> None:
        from handoff_mpi.worker.dry_run import decode_here, decode_in_spare

        add_directories(paths)
        rank, child_pool = self._job.rank, self._child_pool
        with no_launcher_in_environment():
            decoded = decode_in_spare(child_pool, rank, function, pieces) if in_child else decode_here(pieces)
        self._job.transport.send(0, messages.decoded(number, decoded))

    def _run(self, start: Envelope, rest: list[Envelope]) -> None:
        (setup,) = start.fields
        if not setup.stays_open:
            self._rank0_monitor.end()
        self.shared, self._pending = self._serve_run(setup, rest)
        self._rank0_monitor.begin(clock())

    def _serve_run(self, setup: RunSetup, pending: list[Envelope]) -> tuple[object, list[Envelope]]:
        add_directories(setup.paths)
        take_sources(setup.sources)
        job, end = self._job, end_rank if self._job.is_mpi else None
        monitor = self._rank0_monitor if setup.stays_open else None
        exits = exits_by_signal(job.rank) if job.has_fault_tolerance else nullcontext()
        with _all_ranks_refused(job), exits:
            parts = setup, pending, job.is_threaded, job.leave, end, self._child_pool, monitor
            return serve_run(job.transport, *parts)


def _all_ranks_refused(job: Job) -> AbstractContextManager[None]:
    if not job.is_mpi:
        return nullcontext()
    from handoff_mpi.comm import mpi

    return mpi.all_ranks_refused()
