"""A small process beside a rank that ends stopped ranks of its host once that rank has died, or at its end.

Ranks look at one another, and a supervisor at all of them. Under a bare mpirun with two ranks, one of which is stopped,
nobody is left to look when rank 0 is killed, and mpirun would wait for the stopped one; and nobody looks any more when
a rank is stopped on its way out. The process is a shell that waits for the end of a pipe, which one rank alone holds:
it costs nothing until then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from handoff_mpi.descendants import MARK, spare
from handoff_mpi.runtime.process_monitor import look_at
from handoff_mpi.worker.child_process import environment_of_child

#: The shell looks at the ranks once a second, so often at most: those that run notice the end of rank 0 themselves.
_LOOKS = 30
_SCRIPT = """
trap '' HUP
read -r line
looks=0
while [ $looks -lt "$0" ]; do
    living=0
    for rank do
        pid=${rank%%:*}
        read -r stat < /proc/$pid/stat || continue
        set -f -- "$@"; fields=${stat##*) }
        state=${fields%% *}
        [ "$(echo $fields | cut -d " " -f 20)" = "${rank##*:}" ] || continue
        case $state in
            T) kill -KILL "$pid" ;;
            Z|X) continue ;;
        esac
        living=1
    done
    [ $living = 0 ] && exit
    looks=$((looks + 1))
    sleep 1
done
"""

#: The kernel continues a stopped process of this session once its parent has died (and sends it SIGHUP first).
_OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}


class LastWatch:
    """The process that this one has started to look at its ranks at their end; a part of the process context."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process; None before it was started."""
        return None if self._process is None else self._process.pid

    def start(self, pids: Iterable[int]) -> None:
        """Start the process, unless it has been; it ends with this one.

        Args:
            pids: the processes of the other ranks of this host.
        """
        others = [pid for pid in pids if look_at(pid)[1] is not None]
        if self._process is not None or not others:
            return
        # This rank too: it may be stopped when it has told the process to look, while others wait for it in MPI.
        ranks = [f"{pid}:{look_at(pid)[1]}" for pid in (*others, os.getpid())]
        with suppress(OSError):  # where no process can be started, there are other worries
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, str(_LOOKS), *ranks],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                **_OWN_GROUP,
            )
            self._process.returncode = 0  # it may outlive this process, which does not wait for it
            spare(self._process.pid)

    def look_now(self, pids: Iterable[int]) -> None:
        """Have the process look at once: this rank is about to leave.

        Args:
            pids: as for :meth:`start`, if there is no process yet.
        """
        self.start(pids)
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
                # A signal that stops all processes of a job has stopped this one too.
                os.kill(self._process.pid, signal.SIGCONT)


def _environment() -> dict[str, str]:
    """Return its environment: it must be taken neither for a rank nor for what this rank has left running."""
    return {name: value for name, value in environment_of_child().items() if name != MARK}
