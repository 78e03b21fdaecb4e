"""Carries messages between ranks: the transport protocol, and its implementations in memory and over MPI."""

from handoff_mpi.comm.in_memory import MemoryNetwork, MemoryTransport
from handoff_mpi.comm.transport import Allocate, Envelope, RankFailed, Transport, fresh_memory

__all__ = ["Allocate", "Envelope", "MemoryNetwork", "MemoryTransport", "RankFailed", "Transport", "fresh_memory"]
