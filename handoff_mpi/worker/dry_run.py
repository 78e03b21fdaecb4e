"""Decodes what the functions of a DAG will be sent, before a run: in this process, or in a child of it.

A child process has not loaded ``dag.py``. It says at which piece it is: one that hangs there, or kills it, is named.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from handoff_mpi.call_modules import copies_entered
from handoff_mpi.callbacks import CallbackFailed, call, in_words
from handoff_mpi.dag.call_template import VALUES
from handoff_mpi.dag.dry_run import VALUE, Piece, decode_piece
from handoff_mpi.messages import OK
from handoff_mpi.serialization import EncodingError, Payload, decode, encode, encode_code
from handoff_mpi.worker import child_main as child_process
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.child_process import ChildProcess
from handoff_mpi.worker.child_protocol import DECODING, ENDED

#: A child must have decoded everything within this long.
DECODE_TIMEOUT_S = 30.0
_DECODE_POLL_INTERVAL_S = 0.05
#: The name of the run of a child that decodes.
_RUN = "dry run"


@dataclass(slots=True)
class Decoded:
    """The outcome of decoding some payloads.

    Attributes:
        errors: number of a piece to why it cannot be decoded.
        unfinished: the piece at which the process ended or was ended; None if it came to the end.
        trouble: how that was, or why nothing was decoded at all.
    """

    errors: Mapping[int, str] = field(default_factory=dict)
    unfinished: int | None = None
    trouble: str = ""


def decode_here(pieces: Sequence[Piece]) -> Decoded:
    """Decode ``pieces`` in this process."""
    with copies_entered():
        return Decoded(_decode_all(pieces))


def decode_in_child(child: ChildProcess, pieces: Sequence[Piece]) -> Decoded:
    """Decode ``pieces`` in an idle child, which is killed if that takes longer than :data:`DECODE_TIMEOUT_S`."""
    try:
        child.learn([(0, encode_code(_decode_and_tell))])
        child.call(CallSpec(_RUN, 1, ((0,), VALUES, None, ()), [(encode(in_one_piece(pieces)), None, 0)], 1.0, ()))
        return _await(child, time.monotonic() + DECODE_TIMEOUT_S)
    except OSError:
        return _died(child, None)


def decode_in_spare(child_pool: ChildPool, rank: int, setup: bytes | None, pieces: Sequence[Piece]) -> Decoded:
    """Decode ``pieces`` in a child of ``rank`` that serves the run afterwards, if it can.

    Args:
        setup: dag.py's ``setup(rank)``, encoded, which the child has to call first; or None.
    """
    try:
        child = (child_pool.take(_RUN) if setup is None else None) or ChildProcess(rank, _RUN, setup)
    except OSError as error:
        return Decoded(trouble=f"a child process cannot be started: {error}")
    decoded = decode_in_child(child, pieces)
    child_pool.keep([child])
    return decoded


def in_one_piece(pieces: Sequence[Piece]) -> list[Piece]:
    """Return ``pieces`` with their buffers as bytes, which can be pickled."""
    return [(kind, _flat(encoded) if kind == VALUE else encoded, is_first) for kind, encoded, is_first in pieces]


def _flat(payload: Payload) -> Payload:
    return (*payload[:2], *map(bytes, payload[2:]))


def _await(child: ChildProcess, end: float) -> Decoded:
    at: int | None = None
    while time.monotonic() < end:
        try:
            frame = child.poll()
        except EOFError:
            return _died(child, at)
        if frame is None:
            select.select([child], [], [], _DECODE_POLL_INTERVAL_S)
            continue
        (kind, *fields), buffers = frame
        if kind == DECODING:
            (at,) = fields
        elif kind == ENDED:
            status, head, error, *_ = fields
            return Decoded(decode((*head, *buffers))) if status == OK else Decoded(trouble=error.message)
    child.kill()
    return Decoded(unfinished=at, trouble=f"decoding it has not ended within {DECODE_TIMEOUT_S:g} s")


def _died(child: ChildProcess, at: int | None) -> Decoded:
    return Decoded(unfinished=at, trouble=f"decoding it has ended a process: {child.how_it_died()[0]}")


def _decode_and_tell(pieces: Sequence[Piece]) -> dict[int, str]:
    """As :func:`_decode_all`, in a child that tells its rank at which piece it is."""
    return _decode_all(pieces, lambda number: child_process.tell_rank((DECODING, number)))


def _decode_all(pieces: Sequence[Piece], begin: Callable[[int], object] = id) -> dict[int, str]:
    """Return number to why, for the pieces that cannot be decoded here.

    Args:
        begin: is called with the number of each piece before it is decoded.
    """
    errors: dict[int, str] = {}
    for number, piece in enumerate(pieces):
        begin(number)
        try:
            call(decode_piece, piece)
        except CallbackFailed as failed:
            errors[number] = _why(failed)
    return errors


def _why(failed: CallbackFailed) -> str:
    """Return the error itself, without what this package says of it."""
    error = failed.__cause__
    if isinstance(error, EncodingError) and error.__cause__ is not None:
        error = error.__cause__
    return str(failed) if error is None else in_words(error)
