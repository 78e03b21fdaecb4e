"""Makes the setup of a run that each computing rank receives."""

from __future__ import annotations

import os

from handoff_mpi import telemetry
from handoff_mpi.carried_modules import sources_here
from handoff_mpi.launch.begun_run import BegunRun
from handoff_mpi.launch.isolation import isolation_of
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.output_mode import output_setup
from handoff_mpi.python_path import shared_path
from handoff_mpi.resources import parse_nbytes
from handoff_mpi.runtime import host_probe
from handoff_mpi.runtime.choices import NONE
from handoff_mpi.runtime.host_monitor import HostGuard
from handoff_mpi.runtime.host_usage import interval_s
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.scheduler import HostFailureDetector
from handoff_mpi.telemetry import events

#: Values that no call on a rank needs are dropped once its store takes this share of its part of the host.
_STORE_SHARE = 0.5
#: A host is asked after so many heartbeats that none of its ranks sent.
_SILENT_BEATS = 3
#: Rank 0 may write to a slow file system, or be busy with a turn, for at least this long.
_MIN_SILENCE_S = 20.0


class RankSetups:
    """Makes the setups of a run.

    Args:
        run: the run.
        stays_open: see :class:`~handoff_mpi.runtime.run_setup.RunSetup`.

    Attributes:
        pids: host to the process ids of its living ranks, by rank.
        heartbeat_s: seconds between two signs of life.
    """

    def __init__(self, run: BegunRun, stays_open: bool = False) -> None:
        checked = run.checked
        self._run = run
        self._stays_open = stays_open
        self._rank_states = checked.ledger.rank_states
        self.pids = _pids_by_host(checked.job)
        self.heartbeat_s = _heartbeat_s(checked.options.heartbeat_timeout, len(self.pids), checked.job.size)
        here = checked.job.capabilities[0].host
        self._rank0 = here, os.getpid()
        self._sources = sources_here()
        self._tells_transfers = telemetry.has_handlers(events.TRANSFER_STOP)
        self._usage_s = 0.0 if checked.options.record == NONE else interval_s(len(self.pids))
        self._samplers = {each.host: rank for rank, each in reversed(self._rank_states.items()) if each.host != here}
        processes = sum(max(1, each.slots) for each in self._rank_states.values())
        self._output = output_setup(checked.options.output, run.about["launch"], processes, checked.job.is_local)

    def all(self) -> dict[int, RunSetup]:
        """Return rank to its setup, for the ranks that compute."""
        return {rank: self._setup(rank) for rank in self._rank_states}

    def _setup(self, rank: int) -> RunSetup:
        run, checked, state = self._run, self._run.checked, self._rank_states[rank]
        options, is_beside_rank0 = checked.options, 0 in self.pids[state.host]
        memory_nbytes, ranks_here = checked.job.capabilities[rank].offered_memory_nbytes, len(self.pids[state.host])
        return RunSetup(
            run=run.name,
            number=run.number,
            slots=state.slots,
            isolation=isolation_of(checked.job, options, rank, state.slots),
            heartbeat_s=self.heartbeat_s,
            silence_timeout_s=0.0
            if is_beside_rank0 or self._stays_open
            else max(_MIN_SILENCE_S, options.heartbeat_timeout),
            stays_open=self._stays_open,
            rank0=self._rank0,
            store_nbytes=int(_STORE_SHARE * memory_nbytes / ranks_here) or 1 << 40,
            cache_nbytes=parse_nbytes(options.cache_size),
            run_dir=None if run.files.path is None else str(run.files.path),
            store_factory=checked.store_factory,
            paths=shared_path(),
            setup=checked.job.setup,
            tells_transfers=self._tells_transfers,
            pids=self.pids[state.host] if rank else {},  # rank 0's loop does that itself
            checkpoint=options.checkpoint,
            seeds=options.seed,
            memory_nbytes=memory_nbytes,
            ranks_here=ranks_here,
            sources=self._sources if state.host != self._rank0[0] else {},
            output=self._output,
            usage_s=self._usage_s if rank == self._samplers.get(state.host) else 0.0,
        )

    def host_guard(self) -> HostGuard | None:
        """Return what looks after other hosts; None where nobody can be asked."""
        asks = host_probe.from_environment()
        if asks is None or len(self.pids) == 1:
            return None
        return HostGuard(HostFailureDetector(self.pids, _SILENT_BEATS * self.heartbeat_s), asks)


def _pids_by_host(job: Job) -> dict[str, dict[int, int]]:
    pids: dict[str, dict[int, int]] = {}
    for each in job.living():
        pids.setdefault(each.host, {})[each.rank] = each.pid
    return pids


def _heartbeat_s(timeout_s: float, hosts: int, ranks: int) -> float:
    usual = max(0.5, min(15.0, timeout_s / 20))
    if hosts == 1:
        return usual
    # A host that was cut off is to be noticed soon; of very many ranks, rank 0 hears a thousand a second.
    return min(usual, max(1.0, ranks / 1000))
