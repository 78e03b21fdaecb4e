"""A run's directory and its ``status.json``."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from handoff_mpi.errors import UsageError

STATUS = "status.json"


def make_run_dir(wanted: Any) -> Path:
    """Make and return the directory of a run: ``wanted``, or a new timestamped one under ``handoff-runs/``.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        if wanted is not None:
            path = Path(wanted).absolute()
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = _fresh(Path("handoff-runs").absolute())
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"the run-dir cannot be used: {error}; name another with --run-dir") from error
    return path


def _fresh(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for serial in range(1000):
        path = parent / (f"{stamp}-{serial}" if serial else stamp)
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise OSError(f"{parent} holds a thousand runs of this second")


def write_status(run_dir: Path, **fields: Any) -> None:
    """Write ``status.json``, whole or not at all."""
    partial = run_dir / f".{STATUS}.{os.getpid()}"
    partial.write_text(json.dumps(fields, indent=1, default=repr) + "\n")
    partial.replace(run_dir / STATUS)


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return what ``status.json`` says, an empty dict if it is not there or not whole."""
    try:
        status = json.loads((run_dir / STATUS).read_text())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
