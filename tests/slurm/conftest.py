"""One Slurm for all the tests that submit jobs, and others for those that break one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import missing
from tests.slurm.cluster import Cluster, find_missing


@pytest.fixture(scope="session")
def slurm():
    """Start a Slurm of three nodes, and take it down after the last test."""
    with _started() as cluster:
        yield cluster


@pytest.fixture
def own_slurm():
    """Start a Slurm of three nodes for one test."""
    with _started() as cluster:
        yield cluster


@contextmanager
def _started() -> Iterator[Cluster]:
    lacking = find_missing()
    if lacking is not None:
        missing(lacking)
    cluster = Cluster(nodes=3)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
