"""The jobs that this process is a rank of."""

from __future__ import annotations

from dataclasses import dataclass, field

from handoff_mpi.launch.job import Job
from handoff_mpi.resources import Capability


@dataclass(slots=True)
class OwnJobs:
    """The part of the process context that is about jobs.

    Attributes:
        entered: the jobs that this process leads, or serves in, at present, in the order in which it has begun to.
            Threads may leave theirs in another order.
        world: what the ranks of the world offered in their last job, or in the present one.
    """

    entered: list[Job] = field(default_factory=list)
    world: list[Capability] = field(default_factory=list)

    @property
    def current(self) -> Job | None:
        """The job that is asked where none is named; None where this process has none."""
        return self.entered[-1] if self.entered else None

    def enter(self, job: Job) -> None:
        """Have ``job`` be the current one, until it is left or another one is entered."""
        self.entered.append(job)

    def leave(self, job: Job) -> None:
        """Leave a job that was entered; the one before is current again, if it was not left meanwhile."""
        self.entered.remove(job)

    @property
    def leads_ranks(self) -> bool:
        """Whether this is rank 0 of a job whose other ranks serve already: in dag.py, or within a Cluster."""
        current = self.current
        return current is not None and not current.is_local and current.rank == 0
