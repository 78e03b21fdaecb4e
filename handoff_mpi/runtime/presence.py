"""Shows other processes of this host that a rank still runs this program.

A process number and a start time name a process, but not its program: ``execv`` keeps both. A rank therefore binds a
socket to an abstract address that its process number names, and never closes it: the kernel takes the address away
when the process ends, executes another program, or when somebody closes its descriptors. Nothing is ever sent there.
"""

from __future__ import annotations

import errno
import os
import socket


class Presence:
    """Shows that this process runs this program; a part of the process context."""

    def __init__(self) -> None:
        self._is_shown = False

    def show(self) -> None:
        """Show it from now on, until this process ends."""
        if self._is_shown:
            return
        shown = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            shown.bind(_address(os.getpid()))
            shown.detach()  # the kernel closes the descriptor, when this process ends
            self._is_shown = True
        except OSError:  # there are no abstract addresses here
            shown.close()


def is_shown(pid: int) -> bool:
    """Return whether process ``pid`` shows itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as looking:
        try:
            looking.connect(_address(pid))
        except OSError as error:
            return error.errno != errno.ECONNREFUSED
    return True


def _address(pid: int) -> bytes:
    return f"\0handoff_mpi-rank-{pid}".encode()
