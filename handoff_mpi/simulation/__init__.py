"""The coordinator, reactors and machines of real runs under a fake clock, for tests and for clusters one does not have.

A seed draws a workload, its hosts and a swarm of faults; the run must end soon after the last of them, with every
value that could be computed equal to the serial answer. Nothing here is part of a real run.
"""

from handoff_mpi.simulation.check import check
from handoff_mpi.simulation.cluster import SimulatedCluster

__all__ = ["SimulatedCluster", "check"]
