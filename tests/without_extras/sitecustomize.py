"""Python imports this as it starts, where its directory is on PYTHONPATH: some modules look uninstalled then."""

from __future__ import annotations

import os
import sys

for _name in os.environ["TESTS_UNINSTALLED"].split(","):
    sys.modules[_name] = None  # ``import`` raises ModuleNotFoundError, and find_spec finds nothing
