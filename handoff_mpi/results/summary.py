"""``summary.json``: how a launch of a run has ended, for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from handoff_mpi.errors import UntrustedFile
from handoff_mpi.formatting import id_text, one_line
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.version import VERSION

if TYPE_CHECKING:
    from handoff_mpi.results.results import Results

SUMMARY = "summary.json"
#: Of the format: it is raised when a field changes its meaning or goes; new fields may come.
SCHEMA = 1
_MAX_CHARS = 100
#: Fields of ``status.json`` that a summary has too.
_OF_STATUS = (
    *("dag_id", "run", "launch", "host", "ranks", "directory", "resume", "started_s", "counts"),
    *("by_name", "hosts", "lost_ranks", "losses", "lost_ranks_before", "launches_before", "probation", "failures"),
    "slowest",
)


def read_summary(run_dir: Directory) -> dict[str, object] | None:
    """Return what ``summary.json`` holds; None where it is missing, or not whole."""
    try:
        told = json.loads(run_dir.read(SUMMARY))
    except (OSError, UntrustedFile, ValueError):
        return None
    return told if isinstance(told, dict) else None


def summarize(results: Results, status: Mapping[str, object]) -> dict[str, object]:
    """Return the summary of a run that has ended.

    Args:
        results: its results.
        status: the fields of ``status.json``, those of its progress among them.
    """
    own_incidents, earlier_incidents = results._incidents_of_launches()
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "status": results.status,
        "exit_code": results.exit_code,
        "stopped_because": results.stopped_because or None,
        "duration_s": results.duration_s,
        "functions": len(results._records),
        **{name: status.get(name) for name in _OF_STATUS},
        "dag_id": one_line(id_text(results.dag_id), _MAX_CHARS),
        "lost_ranks": results.lost_ranks,
        "failed_attempts": own_incidents,
        "failed_attempts_before": earlier_incidents,
        "run_dir": None if results.run_dir is None else str(results.run_dir),
    }
