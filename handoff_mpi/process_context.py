"""The state of this process that outlasts a run: its jobs, what the user has set, what must end with the process.

Each piece is an object of a class that belongs to the room which needs it, and says what it is for. The process has one
object of each class, and this context is the one place where they are: ``this_process.of(Registrations)``. Modules have
no variables of their own beside it, except for caches and for what mirrors the interpreter or the kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

Piece = TypeVar("Piece")


class Settings(ABC):
    """A piece of the context that the user sets, and that tests restore."""

    @abstractmethod
    def restorer(self) -> Callable[[], object]:
        """Return a function that brings back what is set now."""


class ProcessContext:
    """Holds one object of each class of state; see :data:`this_process`."""

    def __init__(self) -> None:
        self._pieces: dict[type, object] = {}

    def of(self, kind: type[Piece]) -> Piece:
        """Return the object of class ``kind``; the first call makes it, and it stays the same from then on."""
        found = self._pieces.get(kind)
        if found is None:
            found = self._pieces.setdefault(kind, kind())  # of two threads one makes it
        return cast("Piece", found)

    def kinds(self) -> list[type]:
        """Return the classes of which there are objects, in the order in which those were made."""
        return list(self._pieces)

    @contextmanager
    def restored(self, *kinds: type[Settings]) -> Iterator[None]:
        """Restore at the end of ``with`` what the user had set before it."""
        restorers = [self.of(kind).restorer() for kind in kinds]
        try:
            yield
        finally:
            for restore in restorers:
                restore()


#: The context of this process.
this_process = ProcessContext()
