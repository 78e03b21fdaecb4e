"""``doctor``: what this machine and its MPI are like, and what to do about it. Run it on a new machine first.

Measuring (``measuring``, ``folder``, ``probes``, ``trial``) and judging (``findings``, ``places``: pure) are kept
apart; ``visit`` leads through both, ``report`` prints.
"""
