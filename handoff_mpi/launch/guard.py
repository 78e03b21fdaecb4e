"""A thread of a rank of a script that ends the rank when rank 0 has died, also while the script computes.

While a rank serves, its loop notices that. In the user's own code, behind ``execute``, nothing would: a rank that
sleeps, computes or waits in MPI outlives a rank 0 that was killed or has left by ``os._exit``. The thread looks at the
process of rank 0, on rank 0's host; on another host the rank continues until its next call of MPI with rank 0.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import NoReturn

from handoff_mpi.console import print_message
from handoff_mpi.launch.local_ranks import kill_stopped_ranks
from handoff_mpi.process_exit import exit_process, flush_output
from handoff_mpi.runtime.process_monitor import GONE, STOPPED, ProcessMonitor

#: What rank 0 tells a guard before it ends: that the job has ended well, or that it leaves with a status of its own.
RELEASED = b"released"
LEAVES = b"leaves"
#: Seconds between two looks at rank 0.
GUARD_INTERVAL_S = 0.5
#: Status of a rank that ends because rank 0 was killed: the one of a shell for a process that was killed.
EXIT_LOST = 128 + signal.SIGKILL

_CREDENTIALS = struct.Struct("3i")


class Guard(threading.Thread):
    """Watches rank 0 from another rank of its host.

    Args:
        pid: the process of rank 0.

    Raises:
        OSError: it can receive no message here, so that it cannot tell a good end from another.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(name="handoff-guard", daemon=True)
        self._told = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.settimeout(GUARD_INTERVAL_S)
        self._socket.bind(_address(os.getpid()))
        self.watch(pid)

    def watch(self, pid: int) -> None:
        """Watch the process ``pid``, rank 0 of the present job, from now on."""
        self._process_monitor = ProcessMonitor(-1, {0: pid})

    def run(self) -> None:
        while self.told() != RELEASED:
            state, reason = self._process_monitor.examine(0, time.monotonic())
            if state in (GONE, STOPPED) and self.told() != RELEASED:
                print_message(f"a rank (process {os.getpid()}) ends, since rank 0 has ended: {reason}")
                self.leave()

    def leave(self) -> NoReturn:
        """End this rank: rank 0 has ended, and not well."""
        kill_stopped_ranks()
        if self.told() == LEAVES:  # the launcher is to end with the status of rank 0, not with this one's
            flush_output()
            os.kill(os.getpid(), signal.SIGKILL)
        exit_process(EXIT_LOST)

    def told(self) -> bytes:
        """Return what rank 0 has told; it is waited for a little, as long as that is nothing."""
        if not self._told:
            try:
                words, about, _, _ = self._socket.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:
                return self._told
            self._take(words, about)
        return self._told

    def _take(self, words: bytes, about: Iterable[tuple[int, int, bytes]]) -> None:
        for level, kind, data in about:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                _, user, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
                if user == os.getuid():  # anybody on this host can send here
                    self._told = words


class OwnGuard:
    """The guard of this process, if it is a rank of a script on rank 0's host; a part of the process context."""

    def __init__(self) -> None:
        self._guard: Guard | None = None

    def watch(self, pid: int) -> None:
        """Watch rank 0 of the present job from now on, if that is possible here."""
        if self._guard is not None:
            self._guard.watch(pid)
            return
        try:
            self._guard = Guard(pid)
        except OSError:
            return  # there are no abstract addresses here
        self._guard.start()

    def leave(self) -> None:
        """End this rank, as rank 0 has died; nothing where there is no guard."""
        if self._guard is not None:
            self._guard.leave()


def tell_guards(pids: Iterable[int], words: bytes) -> None:
    """Tell the guards of other ranks of this host."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        for pid in pids:
            try:
                sender.sendto(words, _address(pid))
            except OSError:
                pass  # that rank has ended, or has no guard


def _address(pid: int) -> bytes:
    return f"\0handoff_mpi-guard-{pid}".encode()
