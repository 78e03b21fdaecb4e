"""Functions on devices: against a stand-in of cupy, and on real devices where there are any."""

from __future__ import annotations

import shutil
from pathlib import Path


def fake_cupy_at(directory: Path) -> None:
    """Put the stand-in of cupy into ``directory``, for processes that have it on their path."""
    shutil.copy(Path(__file__).parent / "fake_cupy.py", directory / "cupy.py")
