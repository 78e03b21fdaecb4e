"""The child process: calls functions for a rank, so that whatever kills it kills no rank.

Started by exec, never by forking a process that has initialised MPI. It ends with its rank.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import sys
from typing import Any

from handoff_mpi.encoding import Payload, decode_code
from handoff_mpi.messages import RAISED
from handoff_mpi.worker.calls import Caller, CallSpec, Error, Outcome, describe
from handoff_mpi.worker.frames import FrameReader, send_frame

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, rank: int, run: str) -> None:
    """Serve calls that arrive on the socket ``descriptor`` until it is closed."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rank decides what an interrupt means
    sock = socket.socket(fileno=descriptor)
    reader = FrameReader(sock)
    caller = Caller(rank, run)
    problem: Error | None = None
    global _parent
    _parent = sock
    while True:
        try:
            frame = reader.read()
        except EOFError:
            return
        assert frame is not None
        message, buffers = frame
        if message[0] == "learn":
            constant = message[2]
            caller.learn(message[1], None if constant is None else (constant[0], (*constant[1], *buffers)))
        elif message[0] == "setup":
            problem = _set_up(message[1], rank)
        elif message[0] == "call":
            spec = _spec(message, buffers)
            _answer(sock, caller.call(spec) if problem is None else Outcome(RAISED, None, problem, 0.0))


def _set_up(blob: bytes, rank: int) -> Error | None:
    """Initialise this process as its rank was; what ``setup`` returns was registered there."""
    try:
        decode_code(blob)(rank)
    except BaseException as error:
        kind, message, traceback = describe(error)
        return kind, f"setup({rank}) failed in a child process: {message}", traceback
    return None


def _spec(message: tuple[Any, ...], buffers: list[bytearray]) -> CallSpec:
    _, id, attempt, recipe, heads, cores, gpus = message
    values: list[tuple[Payload, Any, int]] = []
    taken = 0
    for head, count, codec, source in heads:
        values.append(((*head, *buffers[taken : taken + count]), codec, source))
        taken += count
    return CallSpec(id, attempt, recipe, values, cores, gpus)


def _answer(sock: socket.socket, outcome: Outcome) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    payload = outcome.payload
    head = None if payload is None else payload[:2]
    buffers = () if payload is None else payload[2:]
    send_frame(sock, ("ended", outcome.status, head, outcome.error, outcome.duration), buffers)


def tell_rank(message: tuple[Any, ...]) -> bool:
    """Send ``message`` to the rank of this child; return False if this process is no child."""
    if _parent is None:
        return False
    send_frame(_parent, message)
    return True


_parent: socket.socket | None = None


def _die_with_parent() -> None:
    """Have the kernel end this process when its rank dies, even inside a call that holds the interpreter."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        pass  # elsewhere the closed socket ends it between calls
