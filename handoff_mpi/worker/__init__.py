"""Runs the calls of a worker rank: its state machine (:mod:`handoff_mpi.worker.machine`), call runners and children."""
