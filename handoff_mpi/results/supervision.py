"""The files of a run-dir by which a supervisor and the ranks that it launched speak to each other.

The supervisor marks its launches by an environment variable, and writes why a launch shall stop. The ranks write that
they have arrived and joined. A launch without the mark has no supervisor: nothing is written or read.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from handoff_mpi.errors import UsageError
from handoff_mpi.process_context import this_process
from handoff_mpi.results.run_dir import LOCK
from handoff_mpi.results.secure_files import Directory, opened
from handoff_mpi.results.status_file import read_record

#: The environment variable that holds the supervisor's mark, and the name of that mark in files.
LAUNCHED_BY = "HANDOFF_LAUNCHED_BY"
#: The environment variable that holds the hosts which earlier launches of the supervisor had and this one lacks.
LOST_HOSTS = "HANDOFF_LOST_HOSTS"
#: The files: another rank has arrived; all have joined; the launch shall stop.
ARRIVED = ".arrived"
JOINED = ".joined"
STOP = ".stop"


def lost_hosts() -> list[str]:
    """Return the hosts that the supervisor of this launch has given up, as the launcher calls them."""
    return [host for host in os.environ.get(LOST_HOSTS, "").split(",") if host]


class SupervisorLink:
    """The link of a launched rank to its supervisor.

    Args:
        mark: the supervisor's; empty if there is none.
    """

    def __init__(self, mark: str = "") -> None:
        self._mark = mark

    @property
    def is_present(self) -> bool:
        """Whether a supervisor watches the launch."""
        return bool(self._mark)

    def fields(self) -> dict[str, str]:
        """Return what a lock says of the supervisor, so that its next launch recognises the lock of this one."""
        return {LAUNCHED_BY: self._mark} if self._mark else {}

    def owns_lock_of(self, directory: Directory) -> bool:
        """Whether a launch of the same supervisor has written the lock of a run-dir."""
        try:
            return self.is_present and json.loads(directory.read(LOCK)).get(LAUNCHED_BY) == self._mark
        except (OSError, UsageError, ValueError, AttributeError):
            return False

    def note_arrived(self, run_dir: Path | Directory) -> None:
        """Show the supervisor that another rank has come so far as to start MPI."""
        if not self.is_present:
            return
        try:
            with opened(run_dir) as directory:
                fd = directory.open_or_create(ARRIVED)
                try:
                    os.utime(fd)
                finally:
                    os.close(fd)
        except (OSError, UsageError):
            pass  # a run-dir that cannot be used is refused by rank 0

    def note_joined(self, run_dir: Path | Directory) -> None:
        """Show the supervisor that all ranks of its launch have joined, and which process rank 0 is."""
        if not self.is_present:
            return
        try:
            with opened(run_dir) as directory:
                directory.write(JOINED, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except (OSError, UsageError):
            pass  # a run-dir that cannot be used is refused a moment later

    def read_stop(self, run_dir: Path) -> str:
        """Return why this launch is asked to stop; empty if its supervisor has not said so."""
        said = read_record(run_dir, STOP)
        return str(said.get("why", "")) if self.is_present and said.get(LAUNCHED_BY) == self._mark else ""


@dataclass(slots=True)
class OwnSupervisor:
    """The part of the process context that is about a supervisor.

    Attributes:
        link: to the supervisor of this process, as its command line has found it in the environment.
    """

    link: SupervisorLink = field(default_factory=SupervisorLink)


def own_supervisor() -> SupervisorLink:
    """Return the link of this process to its supervisor."""
    return this_process.of(OwnSupervisor).link


def has_supervisor() -> bool:
    """Whether a supervisor watches the launch of this process."""
    return own_supervisor().is_present


def take_mark() -> None:
    """Take the supervisor's mark out of the environment: what functions of the run launch themselves is not its."""
    this_process.of(OwnSupervisor).link = SupervisorLink(os.environ.pop(LAUNCHED_BY, ""))


def note_stop(run_dir: Path | Directory, mark: str, why: str) -> None:
    """Tell rank 0 of the launch with the supervisor's ``mark`` why it is asked to stop: a signal carries no words."""
    try:
        with opened(run_dir) as directory:
            directory.write(STOP, json.dumps({LAUNCHED_BY: mark, "why": why}).encode())
    except (OSError, UsageError):
        pass  # then it says which signal it was


def read_joined(run_dir: Path | Directory) -> dict[str, object]:
    """Return ``pid`` and ``host`` of a rank 0 whose ranks have joined, an empty dict if they have not."""
    return read_record(run_dir, JOINED)
