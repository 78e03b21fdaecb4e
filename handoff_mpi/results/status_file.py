"""``status.json`` as the launch that owns the run-dir writes it, and as the user who owns it reads it.

:mod:`~handoff_mpi.results.run_status` reads the status of a colleague's run.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from handoff_mpi.errors import EXIT_STOPPED, JournalError, UsageError
from handoff_mpi.results.run_dir import ANOTHER, STATUS
from handoff_mpi.results.secure_files import Directory, opened

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_RESERVE = ".reserve"
_RESERVE_NBYTES = 64 * 1024


def reserve_space(run_dir: Path | Directory) -> None:
    """Take some room on the disk that :func:`write_status` gives up for a verdict once the disk is full.

    Raises:
        UsageError: there is none.
    """
    try:
        with opened(run_dir) as directory:
            directory.write(_RESERVE, bytes(_RESERVE_NBYTES))
    except OSError as error:
        path = run_dir.path if isinstance(run_dir, Directory) else run_dir
        raise UsageError(f"nothing can be written to the run-dir {path}: {error.strerror}; {ANOTHER}") from error


def release_space(run_dir: Path | Directory) -> None:
    """Give back what :func:`reserve_space` took."""
    with opened(run_dir) as directory:
        directory.remove(_RESERVE)


def write_status(run_dir: Path | Directory, **fields: object) -> None:
    """Write ``status.json``, whole or not at all.

    Raises:
        JournalError: it cannot be written.
    """
    content = (json.dumps(fields, indent=1, default=repr) + "\n").encode()
    try:
        with opened(run_dir) as directory:
            try:
                directory.write(STATUS, content)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                release_space(directory)
                directory.write(STATUS, content)
    except OSError as error:
        path = run_dir.path if isinstance(run_dir, Directory) else run_dir
        raise JournalError(f"{path / STATUS} cannot be written: {error.strerror}", EXIT_STOPPED) from error


def touch_status(run_dir: Path | Directory) -> None:
    """Show that the launch whose ``status.json`` it is still lives."""
    try:
        with opened(run_dir) as directory:
            directory.touch(STATUS)
    except (OSError, UsageError):
        pass  # it is the supervisor who looks, and it has other ways to tell


def read_status(run_dir: Path | Directory) -> dict[str, Any]:
    """Return what ``status.json`` says, an empty dict if it is not there, not whole, or of somebody else."""
    return read_record(run_dir, STATUS)


def read_record(run_dir: Path | Directory, name: str) -> dict[str, object]:
    """Return the mapping that a small JSON file of a run-dir holds; empty if there is none that can be trusted."""
    try:
        with opened(run_dir) as directory:
            said = json.loads(directory.read(name))
    except (OSError, UsageError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
