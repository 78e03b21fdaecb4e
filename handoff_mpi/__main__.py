"""``python -m handoff_mpi``."""

from handoff_mpi.program import program

program()
