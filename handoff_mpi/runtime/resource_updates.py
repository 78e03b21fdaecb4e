"""Carries updates of resources, which user code makes in any thread, from this process to rank 0."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from handoff_mpi.errors import HandoffError
from handoff_mpi.process_context import this_process
from handoff_mpi.worker.child_main import tell_rank
from handoff_mpi.worker.child_protocol import UPDATE


class TakesUpdates(Protocol):
    """Takes in updates of resources: the loop of rank 0, or what sends to it."""

    def update_resources(self, rank: int, amounts: dict[str, object], /) -> None:
        """Take in that ``rank`` offers ``amounts`` from now on; from any thread."""
        ...


@dataclass(slots=True)
class UpdateTarget:
    """The part of the process context that takes updates.

    Attributes:
        entered: (thread, what takes them) of each run in which this process takes part, in the order in which it has
            begun to. Runs of several threads may end in another order.
    """

    entered: list[tuple[int, TakesUpdates]] = field(default_factory=list)

    @property
    def current(self) -> TakesUpdates | None:
        """The target of this thread's updates: that of its newest run, else of the newest of all; None without one."""
        me = threading.get_ident()
        entered = [*self.entered]
        return next((each for thread, each in reversed(entered) if thread == me), entered[-1][1] if entered else None)

    @contextmanager
    def taking(self, target: TakesUpdates) -> Iterator[None]:
        """Have ``target`` take updates within ``with``."""
        entry = threading.get_ident(), target
        self.entered.append(entry)
        try:
            yield
        finally:
            self.entered.remove(entry)


def update_resources(rank: int, amounts: dict[str, object]) -> None:
    """Carry ``update_node_resources`` from any thread, function or handler to rank 0.

    Raises:
        HandoffError: this process executes no run.
    """
    target = this_process.of(UpdateTarget).current
    if target is not None:
        target.update_resources(rank, amounts)
    elif not tell_rank((UPDATE, rank, amounts)):
        raise HandoffError(
            "update_node_resources acts on a run, and this process executes none; call it while execute runs"
        )
