"""The command ``handoff-mpi``, and ``python -m handoff_mpi``, from its first import on."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def program() -> NoReturn:
    """Import the command line and run it in this process.

    An interrupt while modules are imported ends the process by its signal and without a traceback: imports take seconds
    on a busy file system, and launchers pass Ctrl-C on to all ranks. Ranks in which MPI has started have handlers.
    A Python that finds this package and not what it needs (PYTHONPATH names a clone) is refused in a line.
    """
    try:
        try:
            from handoff_mpi import cli
        except ModuleNotFoundError as error:
            _refuse_python(error)
        cli.program()
    except KeyboardInterrupt:
        if "mpi4py.MPI" in sys.modules:
            raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise


def _refuse_python(error: ModuleNotFoundError) -> NoReturn:
    name = (error.name or "").partition(".")[0]
    if not name or name == __package__:
        raise error
    where = f"this Python ({sys.executable}) has no module {name!r}, which handoff_mpi needs"
    print(
        f"handoff: {where}; install handoff_mpi into it with pip, or use the Python where it is installed",
        file=sys.stderr,
    )
    sys.exit(2)
