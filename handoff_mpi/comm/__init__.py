"""How messages travel: a small port, and its adapters (memory here, MPI in :mod:`handoff_mpi.comm.mpi`)."""

from handoff_mpi.comm.memory import MemoryNetwork, MemoryTransport
from handoff_mpi.comm.port import Allocate, Envelope, RankGone, Transport, fresh_memory

__all__ = ["Allocate", "Envelope", "MemoryNetwork", "MemoryTransport", "RankGone", "Transport", "fresh_memory"]
