"""The jobs that this process is a rank of."""

from __future__ import annotations

from dataclasses import dataclass, field

from handoff_mpi.launch.job import Job
from handoff_mpi.resources import Capability


@dataclass(slots=True)
class OwnJobs:
    """The part of the process context that is about jobs.

    Attributes:
        current: the job that this process leads, or serves in, at present; None where it has none.
        world: what the ranks of the world offered in their last job, or in the present one.
    """

    current: Job | None = None
    world: list[Capability] = field(default_factory=list)

    @property
    def leads_ranks(self) -> bool:
        """Whether this is rank 0 of a job whose other ranks serve already: in dag.py, or within a Cluster."""
        return self.current is not None and not self.current.is_local and self.current.rank == 0
