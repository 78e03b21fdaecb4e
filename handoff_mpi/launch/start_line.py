"""The lines that rank 0 prints as a run begins: what runs where, where its files are, which command resumes it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from handoff_mpi.formatting import counted


class ResumeCommand(Protocol):
    """Makes the command that resumes a run, from the path of its run-dir.

    Args:
        is_later: whether it is read by somebody who did not give the command just now.
    """

    def __call__(self, run_dir: str, is_later: bool = False) -> str: ...


_MB_PER_GB = 1000


def start_lines(
    functions: int,
    hosts: Collection[str],
    ranks: int,
    capacity: Mapping[str, float],
    started_s: float,
    run_dir: str | None,
    resumed_by: ResumeCommand | None,
) -> list[str]:
    """Return the start lines of a run.

    Args:
        functions: how many there are in the DAG.
        hosts: the host of each rank.
        ranks: how many there are.
        capacity: resource to amount of all ranks: cores, MB, devices.
        started_s: when the run began, in seconds since the epoch.
        run_dir: as :func:`shown_path` shows it; None for a run without files.
        resumed_by: makes the command that resumes; None in a script.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started_s))
    where = f"{counted(ranks, 'rank')} of {counted(len(set(hosts)), 'host')}"
    first = f"{when} {counted(functions, 'function')} on {where}: {_resources(capacity)}"
    if run_dir is None:
        return [first, "files: none, so the run cannot be resumed"]
    return [first, f"files: {run_dir}", f"to resume: {resume_text(run_dir, resumed_by)}"]


def resume_text(run_dir: str, resumed_by: ResumeCommand | None, is_later: bool = False) -> str:
    """Return what resumes the run with that run-dir, as a user writes it.

    Args:
        is_later: see :class:`ResumeCommand`.
    """
    return f"execute(..., run_dir={run_dir!r})" if resumed_by is None else resumed_by(run_dir, is_later)


def _resources(capacity: Mapping[str, float]) -> str:
    parts = [counted(int(capacity.get("cpu", 0)), "core")]
    if capacity.get("memory"):
        parts.append(f"{capacity['memory'] / _MB_PER_GB:,.3g} GB")
    if capacity.get("gpu"):
        parts.append(counted(int(capacity["gpu"]), "GPU"))
    return ", ".join(parts)


def shown_path(path: Path, directory: str) -> str:
    """Return ``path`` as a user in ``directory`` writes it: relative where it is below."""
    try:
        return str(path.relative_to(directory))
    except ValueError:
        return str(path)
