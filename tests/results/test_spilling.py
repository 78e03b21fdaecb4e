"""Values that were moved out of memory: had as before, gone when they should be, and refused where it does not help."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from handoff_mpi.encoding import decode, encode
from handoff_mpi.results.spilling import SPILLED, SpillingStore, clear_spilled
from handoff_mpi.results.store import DirectoryStore, MemoryStore

KEY = ("run", 1)


@pytest.fixture
def store(tmp_path):
    return SpillingStore(3, tmp_path / SPILLED / "run-3")


def files(directory):
    return [path.name for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", [np.arange(10_000), {"a": ["text"] * 9000}, "x" * 900, 7], ids=str.__call__)
def test_a_value_that_was_moved_out_can_be_had_as_before(store, value):
    store.put(KEY, encode(value))
    store.spill(KEY, 80_000)
    assert not MemoryStore.has(store, KEY)
    assert store.has(KEY)
    assert np.array_equal(decode(store.get(KEY)), value)
    assert (store.count, store.nbytes) == (1, 80_000)


def test_what_was_moved_out_is_gone_once_it_is_dropped_or_made_again(store, tmp_path):
    store.put(KEY, encode("first" * 1000))
    store.spill(KEY, 5000)
    payload = store.get(KEY)
    store.put(KEY, encode("second" * 1000))
    assert files(tmp_path) == []
    assert decode(payload) == "first" * 1000, "whoever is being sent it still has it"
    assert decode(store.get(KEY)) == "second" * 1000
    store.spill(KEY, 6000)
    store.delete(KEY)
    store.delete(KEY)
    assert not store.has(KEY)
    with pytest.raises(KeyError):
        store.get(KEY)
    assert files(tmp_path) == []


def test_a_value_that_lies_in_a_file_already_is_not_written_again(tmp_path):
    kept = DirectoryStore(tmp_path / "values")
    store = SpillingStore(3, tmp_path / SPILLED, kept)
    kept.put(KEY, encode("kept" * 1000))
    store.put(KEY, encode("kept" * 1000))
    store.spill(KEY, 4000)
    assert len(files(tmp_path)) == 1
    assert decode(store.get(KEY)) == "kept" * 1000
    store.delete(KEY)
    assert kept.has(KEY), "it outlasts the run"


def test_a_value_that_cannot_be_written_stays_in_memory(store, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store.put(KEY, encode("x" * 5000))
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put", fail)
        with pytest.raises(OSError, match="No space left"):
            store.spill(KEY, 5000)
    assert decode(store.get(KEY)) == "x" * 5000
    assert store.count == 0


def test_the_disk_is_not_filled_to_the_last(store, monkeypatch):
    store.put(KEY, encode("x" * 5000))
    usage = shutil.disk_usage(".")._replace(total=100_000, free=9_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda directory: usage)
    store.spill(KEY, 4_000)
    store.put(KEY, encode("y" * 5000))
    with pytest.raises(OSError, match="nearly full"):
        store.spill(KEY, 4_001)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="this system keeps no files in memory")
def test_nothing_is_written_where_files_are_kept_in_memory():
    in_memory = Path("/dev/shm", f"handoff-test-{os.getpid()}")
    store = SpillingStore(3, in_memory)
    store.put(KEY, encode("x" * 5000))
    try:
        with pytest.raises(OSError, match="stays in memory"):
            store.spill(KEY, 5000)
        assert files(in_memory) == []
    finally:
        store.close()


def test_a_rank_that_does_not_see_the_run_dir_takes_a_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = SpillingStore()
    store.put(KEY, encode("x" * 5000))
    store.close()
    store.spill(KEY, 5000)
    assert len(files(tmp_path)) == 1
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_what_ranks_that_died_left_is_cleared(store, tmp_path):
    store.put(KEY, encode("x" * 5000))
    store.spill(KEY, 5000)
    clear_spilled(tmp_path)
    clear_spilled(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        store.get(KEY)
