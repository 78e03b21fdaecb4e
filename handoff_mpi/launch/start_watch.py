"""Watches one launch for its supervisor: ranks that die or do not come while MPI starts, and the death of rank 0.

A rank that dies while the others are in MPI_Init leaves them there, spinning (Open MPI with fault tolerance): no error
reaches them, and nobody inside can end them. So the launch is watched from outside.
"""

from __future__ import annotations

import socket
import time

import psutil

from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.supervision import ARRIVED, JOINED
from handoff_mpi.runtime.process_monitor import GONE, STOPPED, ProcessMonitor, look_at

#: Before the first rank has arrived at MPI the launcher and Python start, on a file system that may be slow.
FIRST_ARRIVAL_S = 90.0
#: More than ``join_limit`` for each rank.
JOIN_RANK_S = 0.02
#: Ranks that refuse a launch end one after the other: others have this long to end, too.
END_TOGETHER_S = 4.0
_ARRIVAL_POLL_INTERVAL_S = 0.5
#: A rank must be seen alive once to be missed, and it may die half a second after its start. Where a look takes long
#: (many processes), looks take a tenth of the time at most.
_START_LOOK_S = 0.1
_LOOKS_SHARE = 10
_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_DEAD = ("Z", "X")


class StartWatch:
    """Watches a launch until all its ranks have joined.

    Args:
        run_dir: of the run; ranks leave their marks there.
        launcher: the process of mpirun.
        limit_s: how long after the last rank that arrived at MPI all must have joined.
    """

    def __init__(self, run_dir: Directory, launcher: int, limit_s: float) -> None:
        self._run_dir = run_dir
        self._launcher = launcher
        self._limit_s = limit_s
        self._ranks: dict[int, tuple[str, str | None]] = {}  # by process: rank, and when it was born
        self._died_at: dict[int, float] = {}
        self._arrived: float | None = None
        self._latest = self._next_look = time.monotonic()
        self._is_over = False

    def problem(self) -> str:
        """Look; return why the launch will fail, an empty text while it may succeed."""
        now = time.monotonic()
        if self._is_over or now < self._next_look:
            return ""
        self._is_over = self._run_dir.status(JOINED) is not None
        problem = "" if self._is_over else self._death(now) or self._silence(now)
        took_s = time.monotonic() - now
        self._next_look = now + max(_START_LOOK_S, _LOOKS_SHARE * took_s)
        return problem

    def _death(self, now: float) -> str:
        """A rank of this host has died. Ranks that end by themselves, having said why, end together."""
        for process in _descendants(self._launcher):
            if process.pid not in self._ranks and (rank := _rank_of(process)) is not None:
                self._ranks[process.pid] = rank, look_at(process.pid)[1]
        for pid, (rank, born) in self._ranks.items():
            state, since = look_at(pid)
            has_died = since != born or state in _DEAD
            if has_died and now - self._died_at.setdefault(pid, now) >= END_TOGETHER_S:
                return f"rank {rank} (process {pid}) has died while MPI started"
        return ""

    def _silence(self, now: float) -> str:
        mark = self._run_dir.status(ARRIVED)
        if mark is not None and mark.st_mtime != self._arrived:  # by the file system's clock: only changes count
            self._arrived, self._latest = mark.st_mtime, now
        limit_s = self._limit_s if self._arrived is not None else max(self._limit_s, FIRST_ARRIVAL_S)
        if now - self._latest < limit_s:
            return ""
        return f"its ranks have not joined within {limit_s:g} s after the last one that arrived (--join-limit)"


class Rank0Watch:
    """Watches the process of rank 0 where it is on this host: an mpirun may not notice its end, nor end without it."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._process_monitor = ProcessMonitor(-1, {})
        self._gone_since: float | None = None
        self._next_look = 0.0

    def problem(self, status: dict[str, object]) -> str:
        """Look; return why rank 0 is lost, an empty text while it lives, or cannot be seen from here.

        A rank 0 that has been stopped for long is killed. A launcher has a moment to end after its rank 0.
        """
        now, pid = time.monotonic(), status.get("pid")
        if now < self._next_look or not isinstance(pid, int) or status.get("host") != socket.gethostname():
            return ""
        self._next_look = now + _ARRIVAL_POLL_INTERVAL_S
        if pid != self._pid:
            self._pid, self._process_monitor, self._gone_since = pid, ProcessMonitor(-1, {0: pid}), None
        state, reason = self._process_monitor.examine(0, now)
        if state == STOPPED:
            return reason
        if state != GONE:
            self._gone_since = None
            return ""
        self._gone_since = now if self._gone_since is None else self._gone_since
        return reason if now - self._gone_since >= END_TOGETHER_S else ""


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _rank_of(process: psutil.Process) -> str | None:
    """Return the rank that a process is; None for one of the launcher's own, and for what a rank has started."""
    try:
        parent = process.parent()
        rank = _rank_in(process.environ())
        return None if parent is None or _rank_in(parent.environ()) is not None else rank
    except (psutil.Error, OSError):
        return None


def _rank_in(environment: dict[str, str]) -> str | None:
    return next((environment[name] for name in _RANK if name in environment), None)
