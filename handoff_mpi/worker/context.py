"""Tells a running call its id, rank, attempt and claim: :func:`current_task`.

Every rank and child imports this room, and few calls ask for a seed or a scratch directory: what these need is imported
then.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from pathlib import Path

from handoff_mpi.errors import UsageError


@dataclass(slots=True)
class TaskContext:
    """The task a call belongs to.

    Attributes:
        id: the function's id; ``(id of the array, index)`` for an element of an array.
        attempt: 1 for the first try.
        rank: the rank it runs on.
        cores: the cores it claimed.
        gpus: the devices it claimed, as CUDA numbers them here: 0 alone for a call with one device, on any.
        run: the run's name.
        gpu_uuids: what tells these devices apart on their host.
    """

    id: Hashable
    attempt: int
    rank: int
    cores: float
    gpus: tuple[int, ...]
    run: str
    gpu_uuids: tuple[str, ...] = ()
    _scratch: Path | None = field(default=None, repr=False)

    @property
    def index(self) -> int | None:
        """The index of the element of an array that is being computed; None for a function."""
        return None

    @property
    def seed(self) -> int:
        """A 64-bit seed derived from the id alone, so that a recomputed value is the same value."""
        import hashlib

        return int.from_bytes(hashlib.sha256(repr(self.id).encode()).digest()[:8], "little")

    @property
    def scratch(self) -> Path:
        """A directory of this call's own, made when first asked for and removed when the call ends."""
        if self._scratch is None:
            import tempfile

            self._scratch = Path(tempfile.mkdtemp(prefix="handoff-"))
        return self._scratch

    def clear(self) -> None:
        """Remove the scratch directory, if there is one."""
        if self._scratch is not None:
            import shutil

            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


_current: ContextVar[TaskContext | None] = ContextVar("handoff_task", default=None)


def current_task() -> TaskContext:
    """Return the context of the call that is running.

    Raises:
        UsageError: no function of a run is being called here, in this thread.
    """
    context = _current.get()
    if context is None:
        where = "inside a function while a run calls it, not in threads that the function starts"
        raise UsageError(f"current_task() can be asked only {where}: ask before, and pass it to them")
    return context


def is_in_call() -> bool:
    """Whether a function of a run is being called here, in this thread."""
    return _current.get() is not None


def enter(context: TaskContext | None) -> Token[TaskContext | None]:
    """Make ``context`` what :func:`current_task` returns; what this returns makes :func:`leave` undo it."""
    return _current.set(context)


def leave(token: Token[TaskContext | None]) -> None:
    """Undo an :func:`enter`."""
    _current.reset(token)
