"""A dry round trip before anything starts: what functions will be sent is decoded where they might run, and refused
here if it cannot be.

``check`` decodes in a child process that has not loaded ``dag.py``. A run has one rank decode, or does so in its own
process where that is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

from handoff_mpi.console import print_message
from handoff_mpi.dag import DAG, Plan
from handoff_mpi.dag.dry_run import MAX_NBYTES, MAX_PIECES, Piece, Pieces, collect_pieces, explain
from handoff_mpi.dag.faults import Faults
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.dry_run import Decoded, decode_here, decode_in_spare

if TYPE_CHECKING:
    from handoff_mpi.launch.job import Job

#: A rank, and whether its functions run in child processes.
Place: TypeAlias = "tuple[int, bool]"

#: What cannot be decoded on ranks of so many hosts is refused.
MAX_HOSTS = 16


def check_in_child(dag: DAG, plan: Plan, setup: bytes | None) -> None:
    """Have a child process decode what the functions of ``dag`` will be sent.

    Args:
        setup: dag.py's ``setup(rank)``, encoded, which the child calls first; or None.

    Raises:
        DAGError: something cannot be decoded there, or decoding it does not come to an end.
    """

    def decode(pieces: list[Piece]) -> Decoded:
        return _decode_in_child(pieces, setup)

    pieces = collect_pieces(plan)
    decoded = decode(pieces.pieces)
    faults = _explained(dag, plan, pieces, decoded, decode, "another process")
    if decoded.unfinished is not None:
        task, count = pieces.tasks[decoded.unfinished]
        faults.add(plan.ids[task], f"cannot be sent: {decoded.trouble}", count)
    elif decoded.trouble:
        raise DAGError(decoded.trouble)
    if faults:
        raise DAGError(faults.lines())
    if pieces.left_out:
        most = f"{MAX_PIECES} pieces, {MAX_NBYTES >> 20} MiB"
        print_message(
            f"{pieces.left_out} constants were not decoded in another process, as there are too many ({most})"
        )


def check_for_run(job: Job, dag: DAG, plan: Plan, places: Sequence[Place]) -> None:
    """Have a rank decode what the functions of ``dag`` will be sent.

    What does not come to an end there refuses nothing, as it may be slow; nor does what another host can decode.

    Args:
        places: where functions will be called, a rank of each host; rank 0 stands for this process.

    Raises:
        DAGError: something can be decoded at none of ``places``.
    """
    pieces = collect_pieces(plan)
    first = places[0]
    decoded = _decode_at(job, first, pieces.pieces)
    for place in places[1:MAX_HOSTS]:
        if not decoded.errors:
            break
        decoded.errors = _errors_there_too(job, place, pieces, decoded.errors)
    name = "this process" if first == (0, False) else f"rank {first[0]}"
    faults = _explained(dag, plan, pieces, decoded, lambda parts: _decode_at(job, first, parts), name)
    if faults:
        raise DAGError(faults.lines())
    if decoded.trouble and not job.stop_reason:
        task = None if decoded.unfinished is None else pieces.tasks[decoded.unfinished][0]
        at = "" if task is None else f"of function {show(plan.ids[task])}, "
        what = f"rank {first[0]} has not decoded all that functions will be sent ({at}{decoded.trouble})"
        print_message(f"{what}; the run begins without that")


def _errors_there_too(job: Job, place: Place, pieces: Pieces, errors: Mapping[int, str]) -> dict[int, str]:
    numbers = list(errors)
    decoded = _decode_at(job, place, [pieces.pieces[number] for number in numbers])
    return {numbers[position]: errors[numbers[position]] for position in decoded.errors}


def _decode_at(job: Job, place: Place, pieces: list[Piece]) -> Decoded:
    rank, in_child = place
    if rank:
        return job.decode_on(rank, pieces, in_child)
    return _decode_in_child(pieces, job.setup) if in_child else decode_here(pieces)


def _decode_in_child(pieces: list[Piece], setup: bytes | None) -> Decoded:
    with closing(ChildPool()) as child_pool:
        return decode_in_spare(child_pool, 0, setup, pieces)


def _explained(
    dag: DAG, plan: Plan, pieces: Pieces, decoded: Decoded, decode: Callable[[list[Piece]], Decoded], where: str
) -> Faults:
    errors = {number: f"{where} cannot decode it: {why}" for number, why in decoded.errors.items()}
    return explain(dag, plan, pieces, errors, lambda parts: decode(parts).errors)
