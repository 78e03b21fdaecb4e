"""Print the table of features: ``python -m tests.features``."""

import sys
import tempfile
from pathlib import Path

from tests.features.table import make_table

with tempfile.TemporaryDirectory(prefix="handoff-features-") as directory:
    table = make_table(Path(directory))
print(table)
print(*table.problems(), sep="\n", file=sys.stderr)
sys.exit(bool(table.problems()))
