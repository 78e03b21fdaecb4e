"""Commands that launch ranks for themselves: what ``run -n``, ``check -n`` and ``doctor -n`` have in common."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from handoff_mpi import signals
from handoff_mpi.errors import UsageError
from handoff_mpi.launch.environment import is_under_launcher
from handoff_mpi.launch.hosts import find_hosts, refuse_too_many
from handoff_mpi.launch.mpirun import launcher_command
from handoff_mpi.python_path import own_command


def refuse_to_launch(verb: str, ranks: int) -> None:
    """Refuse to launch ranks where that cannot be meant.

    Raises:
        UsageError: this is a launcher's job already, or the number of ranks is none.
    """
    if is_under_launcher():
        what = f"{verb} -n launches mpirun itself, and this process is a rank of mpirun, mpiexec or srun already"
        raise UsageError(f"{what}; leave -n out (a shell in a Slurm job has one task: srun -n 1 --pty bash)")
    if ranks < 1:
        raise UsageError(f"-n must be a whole number from 1, not {ranks}")


def command_on_ranks(
    ranks: int, hosts: str | None, extra: Sequence[str], words: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Return the command that has ``ranks`` ranks execute a command of this package, and the environment it needs.

    Args:
        hosts: the user's list of hosts, or None.
        extra: the user's words for mpirun.
        words: of the command on each rank.

    Raises:
        UsageError: there is no launcher, or the hosts cannot be understood.
    """
    found = find_hosts(ranks, hosts, extra)
    refuse_too_many(ranks, found, extra)
    places = found.places()
    command, environment = launcher_command(ranks if places is None else sum(places.values()), places, extra)
    return [*command, *own_command(), *words], environment


def exit_on_term() -> None:
    """Have TERM end this process as an exit does, so that what it has started is ended too."""
    signals.handle(signal.SIGTERM, _exit)


def _exit(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)
