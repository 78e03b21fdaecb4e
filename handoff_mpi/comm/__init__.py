"""How messages travel: a small port, and its adapters (memory here, MPI in :mod:`handoff_mpi.comm.mpi`)."""

from handoff_mpi.comm.memory import MemoryNetwork, MemoryTransport
from handoff_mpi.comm.port import Envelope, RankGone, Transport

__all__ = ["Envelope", "MemoryNetwork", "MemoryTransport", "RankGone", "Transport"]
