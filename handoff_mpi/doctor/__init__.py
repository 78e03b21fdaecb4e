"""``doctor``: what this machine and its MPI are like, and what to do about it. Run it on a new machine first.

Modules that measure (``measuring``, ``filesystem``, ``network``, ``fault_tolerance``) are apart from those that judge
(``mpi_checks``, ``host_checks``: pure); ``runner`` calls both, ``report`` prints.
"""
