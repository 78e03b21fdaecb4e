"""Fixtures of the tests of run-dirs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def as_user():
    """A directory of an ordinary user, and for the time of the test this process is that user."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)
            os.setegid(0)
