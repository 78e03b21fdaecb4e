"""One contract for all stores."""

from __future__ import annotations

import numpy as np
import pytest

from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.results import DirectoryStore, MemoryStore, ResultStore
from handoff_mpi.serialization import decode, encode


@pytest.fixture(params=["memory", "directory"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "values")


def test_the_contract(store):
    assert isinstance(store, ResultStore)
    assert not store.has(("run", 1))
    with pytest.raises(KeyError):
        store.get(("run", 1))
    store.put(("run", 1), encode(np.arange(10_000)))
    store.put(("other", 1), encode("another run's"))
    assert np.array_equal(decode(store.get(("run", 1))), np.arange(10_000))
    store.delete(("run", 1))
    store.delete(("run", 1))
    assert not store.has(("run", 1))
    assert decode(store.get(("other", 1))) == "another run's"


def test_a_file_that_was_cut_is_no_value(tmp_path):
    store = DirectoryStore(tmp_path)
    store.put(("run", 1), encode("x" * 5000))
    path = store.path(("run", 1))
    for size in (0, 3, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueUnavailable, match="cannot be read"):
            store.get(("run", 1))
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "no partial file is left"
