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
    """
    try:
        from handoff_mpi import cli

        cli.program()
    except KeyboardInterrupt:
        if "mpi4py.MPI" in sys.modules:
            raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise
