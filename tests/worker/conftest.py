"""Fixtures of the tests of workers."""

from __future__ import annotations

import pytest

from handoff_mpi.worker import shared_memory


@pytest.fixture
def written(monkeypatch):
    """Sizes of all buffers that this process copies into shared memory."""
    sizes = []
    write = shared_memory.write

    def counted(views):
        views = list(views)
        sizes.extend(view.nbytes for view in views)
        return write(views)

    monkeypatch.setattr(shared_memory, "write", counted)
    return sizes
