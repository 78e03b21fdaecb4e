"""The processes of the other ranks of this host, found without MPI: before it has started, and when it cannot be used.

The launcher gives all processes of one job the same name space, and each its rank, in the environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from handoff_mpi.runtime.process_monitor import look_at

_JOB = ("PMIX_NAMESPACE", "PMI_JOBID", "PMI_KVSNAME")
_RANK = ("PMIX_RANK", "PMI_RANK")
_STOPPED = "T"


def _variables(names: Iterable[str], environment: dict[str, str]) -> list[str | None]:
    return [environment.get(name) for name in names]


#: Before this package hides the launcher's variables from what functions start.
_own_job = _variables(_JOB, dict(os.environ))
_own_rank = _variables(_RANK, dict(os.environ))


def other_ranks() -> list[int]:
    """Return the processes of this user on this host that belong to other ranks of this job."""
    if not any(_own_job) or not any(_own_rank):
        return []
    return [pid for pid in _pids() if _is_of_another_rank(pid)]


def kill_other_ranks() -> list[int]:
    """End the other ranks of this host; return their processes."""
    return _kill(other_ranks())


def kill_stopped_ranks() -> list[int]:
    """End those of the other ranks of this host that a signal has stopped: they cannot leave by themselves."""
    return _kill([pid for pid in other_ranks() if look_at(pid)[0] == _STOPPED])


def _kill(pids: list[int]) -> list[int]:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended meanwhile
    return pids


def _pids() -> list[int]:
    try:
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    except OSError:
        return []


def _is_of_another_rank(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or belongs to another user
        return False
    environment = dict(line.partition("=")[::2] for line in text.split("\0"))
    rank = _variables(_RANK, environment)
    return _variables(_JOB, environment) == _own_job and any(rank) and rank != _own_rank
