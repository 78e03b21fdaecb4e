"""``check -n N``: the same check on N ranks that mpirun starts for it, as ``run -n N`` would start them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from handoff_mpi import signals
from handoff_mpi.errors import EXIT_FAILED, UsageError
from handoff_mpi.kernel import signal_at_parents_end
from handoff_mpi.launch.doctor.trial import started
from handoff_mpi.launch.environment import is_under_launcher
from handoff_mpi.launch.hosts import find_hosts, refuse_too_many
from handoff_mpi.launch.mpirun import launcher_command
from handoff_mpi.python_path import own_command
from handoff_mpi.speech import say


def check_with_ranks(ranks: int, hosts: str | None, extra: Sequence[str], words: Sequence[str]) -> int:
    """Launch ``ranks`` ranks that check; return the exit code.

    Args:
        hosts: the user's list of hosts, or None.
        extra: the user's words for mpirun.
        words: the command line of the check on each rank.

    Raises:
        UsageError: this is a launcher's job already, there is no launcher, or the hosts cannot be understood.
    """
    if is_under_launcher():
        raise UsageError("check -n launches mpirun itself; inside mpirun, mpiexec or srun leave -n out")
    if ranks < 1:
        raise UsageError(f"-n must be a whole number from 1, not {ranks}")
    found = find_hosts(ranks, hosts, extra)
    refuse_too_many(ranks, found, extra)
    signals.handle(signal.SIGTERM, _on_term)
    places = found.places()
    command, environment = launcher_command(ranks if places is None else sum(places.values()), places, extra)
    try:
        with started([*command, *own_command(), *words], environment, preexec_fn=_end_with_parent) as process:
            return _code_of(process)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _code_of(process: subprocess.Popen[Any]) -> int:
    code = process.wait()
    if code < 0:
        say(f"mpirun was ended by signal {-code} before the check was done; the same command checks again")
    return EXIT_FAILED if code < 0 else code


def _end_with_parent() -> None:
    """Run in mpirun's process before it is mpirun: have it told to end if the check is killed."""
    signal_at_parents_end(signal.SIGTERM)


def _on_term(number: int, frame: Any) -> NoReturn:
    sys.exit(128 + number)  # so that what was started is ended
