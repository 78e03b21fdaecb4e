"""How messages travel: a small port, and its adapters (memory here, MPI in :mod:`handoff_mpi.comm.mpi`)."""

from handoff_mpi.comm.in_memory import MemoryNetwork, MemoryTransport
from handoff_mpi.comm.transport import Allocate, Envelope, RankFailed, Transport, fresh_memory

__all__ = ["Allocate", "Envelope", "MemoryNetwork", "MemoryTransport", "RankFailed", "Transport", "fresh_memory"]
