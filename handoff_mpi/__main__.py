"""``python -m handoff_mpi``."""

import sys

from handoff_mpi.cli import main

sys.exit(main())
