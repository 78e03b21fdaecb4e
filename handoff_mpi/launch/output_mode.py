"""Decides what becomes of what functions print: see ``manual/watching.md``."""

from __future__ import annotations

import os
import sys

from handoff_mpi.runtime.choices import AUTO, CAPTURE, FORWARD, OFF, PLAIN, OutputMode
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.run_setup import OutputSetup

#: All ranks of a run together keep about so much.
MAX_RUN_NBYTES = 10 << 30
#: Each of them keeps at least, and at most, so much.
_MIN_FILE_NBYTES, _MAX_FILE_NBYTES = 4 << 20, 1 << 30
#: Variables that batch systems set in their jobs.
_BATCH = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "PJM_JOBID", "COBALT_JOBID", "FLUX_JOB_ID", "JOB_ID")


def output_of_command(options: RunOptions, owns_terminal: bool) -> OutputMode:
    """Return what the command line does with what functions print.

    Args:
        options: of the run.
        owns_terminal: whether stdout and stderr of this process are the user's: this is no rank of a launcher.
    """
    if options.output != AUTO:
        return options.output
    if owns_terminal and _is_terminal(sys.stderr):
        return FORWARD if _is_terminal(sys.stdout) else PLAIN
    return CAPTURE if is_batch_job() else PLAIN


def is_batch_job() -> bool:
    """Whether a batch system has started this process."""
    return any(os.environ.get(name) for name in _BATCH)


def _is_terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):  # closed, or an object of the user's
        return False


def output_setup(mode: str, launch: int, processes: int, is_local: bool) -> OutputSetup | None:
    """Return the mode that ranks get; None if they leave output alone, as in a script that does not ask for more.

    Args:
        mode: as the options say.
        launch: the number of the launch.
        processes: how many capture output.
        is_local: whether there is one process, no ranks.
    """
    if mode in (AUTO, OFF):
        return None
    share = max(_MIN_FILE_NBYTES, min(_MAX_FILE_NBYTES, MAX_RUN_NBYTES // max(1, processes)))
    return OutputSetup(launch, share, mode in (FORWARD, PLAIN), mode == FORWARD, not is_local)
