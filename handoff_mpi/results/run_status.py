"""Reads ``status.json``, as any user who may read it: of a run that is running, has ended, or has died.

Nothing is unpickled, so the file may be a colleague's. A run that left no verdict is running or not according to the
counter ``beat``, which rank 0 increases every second, read twice: clocks of hosts differ, and network file systems
cache times.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from handoff_mpi.results.run_dir import STATUS

#: Seconds within which a run that is running renews its status, also through the cache of a network file system.
RENEWAL_TIMEOUT_S = 6.0
_STATUS_POLL_INTERVAL_S = 0.2
_MAX_NBYTES = 1 << 20

RUNNING, DIED = "running", "died"


def read_any_status(run_dir: Path) -> dict[str, object]:
    """Return what ``status.json`` in ``run_dir`` holds; an empty dict where it is missing, torn, or not a mapping."""
    try:
        fd = os.open(run_dir / STATUS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            said = json.loads(file.read(_MAX_NBYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def is_ended(status: dict[str, object]) -> bool:
    """Whether a run has left its verdict."""
    return status.get("exit_code") is not None


def final_counts(status: dict[str, object], launch: int) -> dict[str, int]:
    """Return how many calls were in each state at the end of a launch; empty where ``status`` does not tell of that."""
    counts = {name: status.get(name) for name in ("done", "failed", "skipped", "waiting")}
    are_told = is_ended(status) and status.get("launch") == launch
    found = {name: count for name, count in counts.items() if type(count) is int and count >= 0}
    return found if are_told and len(found) == len(counts) else {}


def counts_told(status: dict[str, object], launch: int, is_running: bool) -> dict[str, int]:
    """Return how many calls were in each state at the end of a launch, or are now; empty where that is not told."""
    counts = status.get("counts")
    if not is_running:
        return final_counts(status, launch)
    if status.get("launch") != launch or not isinstance(counts, dict):
        return {}
    names = ("done", "failed", "skipped", "running", "waiting", "ready")
    found = {name: count for name in names if type(count := counts.get(name)) is int and count >= 0}
    if len(found) < len(names):
        return {}
    found["waiting"] += found.pop("ready")
    return found


def is_rank_0_alive(status: dict[str, object]) -> bool | None:
    """Return whether the process that ``status`` names still runs; None where only its own host can tell."""
    pid, started_s = status.get("pid"), status.get("started_s")
    if status.get("host") != socket.gethostname() or type(pid) is not int or not isinstance(started_s, (int, float)):
        return None
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and bool(process.create_time() <= started_s + 1.0)
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
    except psutil.Error:
        return None


def find_states(
    run_dirs: Iterable[Path], timeout_s: float = RENEWAL_TIMEOUT_S, sleep: Callable[[float], object] = time.sleep
) -> dict[Path, tuple[str, dict[str, object]]]:
    """Return the state and the status of each run: what its verdict says, or else "running" or "died".

    Args:
        timeout_s: how long all of those without a verdict together are waited for, if they are of other hosts.
    """
    found: dict[Path, tuple[str, dict[str, object]]] = {}
    open_runs: dict[Path, object] = {}
    for run_dir in run_dirs:
        status = read_any_status(run_dir)
        is_alive = None if is_ended(status) else is_rank_0_alive(status)
        if is_ended(status) or is_alive is not None:
            found[run_dir] = (state_of(status) if is_ended(status) else RUNNING if is_alive else DIED), status
        else:
            found[run_dir] = DIED, status
            if status:
                open_runs[run_dir] = status.get("beat")
    end = time.monotonic() + timeout_s
    while open_runs and time.monotonic() < end:
        sleep(_STATUS_POLL_INTERVAL_S)
        for run_dir, beat in list(open_runs.items()):
            status = read_any_status(run_dir)
            if is_ended(status) or (status and status.get("beat") != beat):
                found[run_dir] = (state_of(status) if is_ended(status) else RUNNING), status
                del open_runs[run_dir]
    return found


def state_of(status: dict[str, object]) -> str:
    """Return the state that a verdict tells."""
    return str(status.get("status"))[:20]
