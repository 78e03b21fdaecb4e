"""Files that must not fill the system's cache."""

from __future__ import annotations

import os

import numpy as np
import pytest

from handoff_mpi.results import DirectoryStore
from handoff_mpi.results.uncached import MAX_DIRTY_NBYTES
from handoff_mpi.serialization import decode, encode


class Watched:
    """Counts how many bytes each file had that were not on the disk, and what was said to the system."""

    def __init__(self, monkeypatch):
        self.most_dirty_nbytes = 0
        self.on_disk_nbytes = 0
        self.advice = []
        self._fdatasync = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)
        monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: self.advice.append(advice))

    def fdatasync(self, descriptor):
        nbytes = os.fstat(descriptor).st_size
        self.most_dirty_nbytes = max(self.most_dirty_nbytes, nbytes - self.on_disk_nbytes)
        self.on_disk_nbytes = nbytes
        self._fdatasync(descriptor)


@pytest.mark.parametrize("count", [1, 1000, 3 * MAX_DIRTY_NBYTES // 8 + 5])
def test_a_file_leaves_the_cache_while_it_is_written(tmp_path, monkeypatch, count):
    watched = Watched(monkeypatch)
    array = np.arange(count, dtype="f8")
    store = DirectoryStore(tmp_path, is_cached=False)
    store.put(("run", 1), encode([array, array + 1]))
    assert watched.on_disk_nbytes == store.path(("run", 1)).stat().st_size
    assert watched.most_dirty_nbytes <= MAX_DIRTY_NBYTES
    assert set(watched.advice) == {(0, 0, os.POSIX_FADV_DONTNEED)}
    for value, expected in zip(decode(store.get(("run", 1))), [array, array + 1], strict=True):
        assert np.array_equal(value, expected)
