"""``doctor``: what this machine and its MPI are like, and what to do about it. Run it on a new machine first.

Measuring (``measuring``, ``folder``, ``probes``, ``trial``) and judging (``findings``, ``places``: pure) are kept
apart; ``visit`` leads through both, ``report`` prints.
"""

from handoff_mpi.launch.doctor.report import Report
from handoff_mpi.launch.doctor.visit import visit, visit_with_ranks

__all__ = ["Report", "visit", "visit_with_ranks"]
