"""The same machines under a fake clock, for tests and for clusters one does not have."""

from handoff_mpi.simulation.cluster import SimulatedCluster

__all__ = ["SimulatedCluster"]
