"""Hosts made of namespaces, where they can be made."""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.faults.namespaces import Hosts, find_missing


@pytest.fixture
def three_hosts():
    """Three hosts, for one test."""
    lacking = find_missing()
    if lacking is not None:
        missing(lacking)
    with Hosts(3) as hosts:
        yield hosts
