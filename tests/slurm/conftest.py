"""One Slurm for all the tests that submit jobs."""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.slurm.cluster import Cluster, find_missing


@pytest.fixture(scope="session")
def slurm():
    """Start a Slurm of three nodes, and take it down after the last test."""
    lacking = find_missing()
    if lacking is not None:
        missing(lacking)
    cluster = Cluster(nodes=3)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
