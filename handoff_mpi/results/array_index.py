"""Keeps the indices of a Slurm job array apart: each has a run-dir of its own.

One that finds a run of another index finished would take its values for its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from handoff_mpi.errors import UsageError
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.status_file import read_record

_INDEX = ".array"


def refuse_other_index(directory: Directory, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a run-dir that another index of the same job array uses, or has used.

    Raises:
        UsageError: so it is.
    """
    array, index = _own_index(environ)
    told = read_record(directory, _INDEX)
    if array and told.get("array") == array and told.get("index") != index:
        what = f"index {index} of the job array {array} cannot use the run-dir {directory.path}"
        why = f"index {told.get('index')} does; give each index a run-dir of its own"
        raise UsageError(f"{what}: {why} (slurm/run.sbatch does without --run-dir)")


def claim_for_index(directory: Directory, environ: Mapping[str, str] = os.environ) -> None:
    """Note that this index of a job array uses a run-dir, which is locked.

    Raises:
        UsageError: another one does, or it cannot be noted.
    """
    refuse_other_index(directory, environ)
    array, index = _own_index(environ)
    if array:
        try:
            directory.write(_INDEX, json.dumps({"array": array, "index": index}).encode())
        except OSError as error:
            raise UsageError(f"nothing can be written to the run-dir {directory.path}: {error.strerror}") from error


def _own_index(environ: Mapping[str, str]) -> tuple[str, str]:
    return environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
