"""``python -m handoff_mpi``."""

from handoff_mpi.cli import program

program()
