"""The launch as a simulated rank sees it, and the kind of the rank."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from handoff_mpi.messages import Message
from handoff_mpi.scheduler import Scheduler
from handoff_mpi.simulation.network import Clock
from handoff_mpi.simulation.run_dir import SimulatedRunDir
from handoff_mpi.simulation.running_lease import RunningLease
from handoff_mpi.simulation.workload import Workload
from handoff_mpi.worker.events import QueuedCall

#: The number of the run, part of every message.
RUN = 1


class SimulationContext(Protocol):
    """The cluster as a rank sees it."""

    clock: Clock
    scheduler: Scheduler
    rng: random.Random
    load: Workload
    run_dir: SimulatedRunDir
    fault_counts: Counter[str]
    number: int

    def send(self, source: int, dest: int, message: Message) -> None:
        """Send ``message`` to rank ``dest``."""

    def spoils(self, rank: int, task: int) -> str:
        """How a call on ``rank`` fails because its host is bad; empty if it does not."""

    def note_kill(self, task: int, element: int) -> None:
        """``task``, or an element of it where that is a lease, has killed the process that ran it."""

    def draw_element(self, array: int, index: int, may_hang: bool) -> tuple[str, float]:
        """Return how an element ends, and how long it takes."""

    def note_lease(self, lease: RunningLease, attempt: int) -> None:
        """The elements of a lease begin; each sees this attempt."""

    def note_call(self, rank: int, work: QueuedCall) -> None:
        """A call begins on ``rank``."""

    def die(self, rank: int) -> None:
        """``rank`` dies."""

    def looks_dead(self, rank: int) -> bool:
        """Whether the process of ``rank`` no longer exists, or was stopped for so long that it is ended now."""


@dataclass(slots=True)
class Traits:
    """The kind of a rank.

    Attributes:
        calls_itself: whether its first slot is the rank itself, so that a call can take the rank down with it.
        sees_files: whether it sees the run-dir.
        checkpoints: how likely it writes a large value that need not outlast the run.
        fan_out: how many others it gives a value to before it refers those that ask to them.
        cache_nbytes: how much memory it gives to values that no call needs.
    """

    calls_itself: bool
    sees_files: bool
    checkpoints: float
    fan_out: int
    cache_nbytes: int
