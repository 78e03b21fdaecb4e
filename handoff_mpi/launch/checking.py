"""``check -n N``: the same check on N ranks that mpirun starts for it, as ``run -n N`` would start them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from handoff_mpi.console import print_message
from handoff_mpi.errors import EXIT_FAILED
from handoff_mpi.launch.launcher_process import started
from handoff_mpi.launch.own_ranks import command_on_ranks, exit_on_term, refuse_to_launch
from handoff_mpi.linux import signal_at_parents_end


def check_with_ranks(ranks: int, hosts: str | None, extra: Sequence[str], words: Sequence[str]) -> int:
    """Launch ``ranks`` ranks that check; return the exit code.

    Args:
        hosts: the user's list of hosts, or None.
        extra: the user's words for mpirun.
        words: the command line of the check on each rank.

    Raises:
        UsageError: this is a launcher's job already, there is no launcher, or the hosts cannot be understood.
    """
    refuse_to_launch("check", ranks)
    command, environment = command_on_ranks(ranks, hosts, extra, words)
    exit_on_term()
    try:
        with started(command, environment, preexec_fn=_end_with_parent) as process:
            return _code_of(process)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _code_of(process: subprocess.Popen[Any]) -> int:
    code = process.wait()
    if code < 0:
        print_message(f"mpirun was ended by signal {-code} before the check was done; the same command checks again")
    return EXIT_FAILED if code < 0 else code


def _end_with_parent() -> None:
    """Run in mpirun's process before it is mpirun: have it told to end if the check is killed."""
    signal_at_parents_end(signal.SIGTERM)
