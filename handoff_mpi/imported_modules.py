"""Finds modules that this process has imported: no value here is of a type of one that it has not."""

from __future__ import annotations

import sys
from typing import Any


def imported_module(name: str) -> Any:
    """Return a module, None if it is not imported, or is at present: another thread may have just begun to.

    A module that is being imported is known already, and has not all of its attributes.
    """
    module = sys.modules.get(name)
    is_whole = not getattr(getattr(module, "__spec__", None), "_initializing", False)
    return module if is_whole else None
