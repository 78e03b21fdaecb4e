"""The one place that chooses adapters: MPI or memory, which stores; and the self-launch under mpirun."""
