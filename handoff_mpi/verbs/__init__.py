"""The subcommands that read what runs have left, a module each; ``handoff_mpi.flags.READING_VERBS`` lists them.

A module offers ``add_arguments(parser)`` and ``main(given)``, which returns the exit code. Nothing here starts MPI.
"""
