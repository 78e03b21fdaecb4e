"""Detects functions that call MPI's collective operations, which block because other ranks do not join them."""

from __future__ import annotations

import dis
import sys
import threading
from types import FrameType

_BLOCKING = (
    "allgather allgatherv allreduce alltoall alltoallv alltoallw barrier bcast create dup exscan gather "
    "gatherv reduce reduce_scatter reduce_scatter_block scan scatter scatterv split split_type"
)
#: Methods that all ranks of the communicator must call; mpi4py capitalises the variants for buffers.
COLLECTIVES = frozenset(form for name in _BLOCKING.split() for form in (name, name.capitalize()))
WHY_IN_VAIN = (
    "a collective operation needs all ranks of its communicator, and a function is called on one; let it return its "
    "part, and combine the parts in another function"
)


def find_collective(thread: int | None = None) -> str:
    """Return the collective operation in which a thread waits, and its place in the source; "" if there is none.

    Args:
        thread: the identity of the thread; the main thread by default.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    frame = sys._current_frames().get(thread or threading.main_thread().ident or 0)
    if mpi is None or frame is None:
        return ""
    name = _collective_of(frame, mpi.Comm)
    return f"{name}() ({frame.f_code.co_filename}, line {frame.f_lineno})" if name else ""


def _collective_of(frame: FrameType, communicator: type) -> str:
    """Return the name of the collective method that this frame is calling; "" if it calls another function.

    The bytecode loads the callee (a name, then its attributes) before the call, and the callee's expression begins at
    the same position as the call's. So a matching position tells this callee from those of the arguments.
    """
    *before, call = _instructions_up_to_call(frame)
    found: object = None
    place: object = None
    name = ""
    for instruction in before:
        loaded = instruction.argval
        if instruction.opname.startswith(("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF")):
            found, place = _look_up(frame, loaded), _place(instruction)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if loaded in COLLECTIVES and isinstance(found, communicator) and place == _place(call):
                name = loaded
            found = _attribute(found, loaded)
    return name


def _instructions_up_to_call(frame: FrameType) -> list[dis.Instruction]:
    """Return a function's instructions up to the current one of ``frame``; before 3.11, those of its current line."""
    found = [each for each in dis.get_instructions(frame.f_code) if each.offset <= frame.f_lasti]
    if sys.version_info < (3, 11):
        starts = [place for place, each in enumerate(found) if each.starts_line is not None]
        return found[starts[-1] :]
    return found


def _place(instruction: dis.Instruction) -> tuple[int | None, int | None]:
    """Return the line and column at which the expression of an instruction begins; before 3.11 Python has neither."""
    positions = getattr(instruction, "positions", None)
    return (None, None) if positions is None else (positions.lineno, positions.col_offset)


def _look_up(frame: FrameType, name: str) -> object:
    for names in (frame.f_locals, frame.f_globals):
        if name in names:
            return names[name]
    return None


def _attribute(owner: object, name: str) -> object:
    """Return an attribute from ``__dict__`` only: a computed one would run code of the user in another thread."""
    names = getattr(owner, "__dict__", None)
    return names.get(name) if isinstance(names, dict) else None
