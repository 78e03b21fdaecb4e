"""The brain of the other ranks (:mod:`handoff_mpi.worker.machine`), and its hands: calls in the rank or in children."""
