"""Child processes of a rank, one for each slot that needs one: started, fed, watched, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from handoff_mpi.encoding import Payload
from handoff_mpi.worker.calls import CallSpec
from handoff_mpi.worker.frames import FrameReader, send_frame

#: A child that takes nothing from its socket for this long is given up.
SEND_LIMIT_S = 60.0
_LAUNCHER_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_", "MPIEXEC_", "MPIR_CVAR_", "PALS_")
_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);"
    "from handoff_mpi.worker.child import main; main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
)


def environment_of_child() -> dict[str, str]:
    """Return this rank's environment without its launcher's variables: a child may itself run mpirun."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER_PREFIXES)}


class Child:
    """One child process; started at its first call, replaced by making another.

    Args:
        rank: the rank it works for.
        run: the run's name.
        setup: dag.py's ``setup(rank)``, encoded, or None.

    Raises:
        OSError: it cannot be started, or has ended already.
    """

    def __init__(self, rank: int, run: str, setup: bytes | None = None) -> None:
        ours, theirs = socket.socketpair()
        arguments = [json.dumps(sys.path), str(theirs.fileno()), str(rank), run]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment_of_child(),
                start_new_session=True,
            )
        ours.setblocking(False)
        self._sock = ours
        self._reader = FrameReader(ours)
        self.knows: set[int] = set()
        self.knows_constants: set[int] = set()
        if setup is not None:
            self._send(("setup", setup))

    def fileno(self) -> int:
        return self._sock.fileno()

    def learn(self, codes: Sequence[tuple[int, bytes]]) -> None:
        """Send encoded callables.

        Raises:
            OSError: the child is gone.
        """
        self._send(("learn", codes, None))
        self.knows.update(number for number, _ in codes)

    def learn_constant(self, number: int, payload: Payload) -> None:
        """Send a large constant.

        Raises:
            OSError: the child is gone.
        """
        self._send(("learn", (), (number, payload[:2])), payload[2:])
        self.knows_constants.add(number)

    def call(self, spec: CallSpec) -> None:
        """Start a call.

        Raises:
            OSError: the child is gone.
        """
        heads = [(payload[:2], len(payload) - 2, codec, source) for payload, codec, source in spec.values]
        buffers = [part for payload, _, _ in spec.values for part in payload[2:]]
        self._send(("call", spec.id, spec.attempt, spec.recipe, heads, spec.cores, spec.gpus), buffers)

    def _send(self, message: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
        self._sock.settimeout(SEND_LIMIT_S)
        try:
            send_frame(self._sock, message, buffers)
        finally:
            self._sock.setblocking(False)

    def poll(self) -> tuple[tuple[Any, ...], list[bytearray]] | None:
        """Return what the child says, or None if it says nothing now.

        Raises:
            EOFError: the child is gone.
        """
        return self._reader.read()

    def kill(self) -> None:
        """End the child and what it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Let the child end by itself when idle; see :meth:`kill` for one that runs."""
        self._sock.close()
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def how_it_died(self) -> str:
        """Reap a dead child and return how it died, in words."""
        self._sock.close()
        try:
            code = self._process.wait(1)  # it may still be ending, and its own status tells most
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self.kill()  # whatever it left behind
        if code >= 0:
            return f"its process ended with exit status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
