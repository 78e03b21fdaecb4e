"""Values that were moved out of memory: had as before, gone when they should be, and refused where it does not help."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from handoff_mpi.results.spilling import SPILLED, SpillingStore, clear_spilled
from handoff_mpi.results.store import DirectoryStore, MemoryStore
from handoff_mpi.serialization import decode, encode

KEY = ("run", 1)
OTHER = ("run", 2)


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
    assert decode(payload) == "first" * 1000, "the reader that is being sent it still has it"
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
    store.close()
    store.put(KEY, encode("x" * 5000))
    store.spill(KEY, 5000)
    assert len(files(tmp_path)) == 1
    store.close()
    assert list(tmp_path.iterdir()) == []
    assert not store.has(KEY)


@pytest.mark.parametrize("moment", ["before the next value", "while one is written"])
def test_a_directory_that_vanished_is_made_again(store, tmp_path, monkeypatch, moment):
    store.put(KEY, encode("x" * 5000))
    store.spill(KEY, 5000)
    store.put(OTHER, encode("y" * 5000))
    if moment == "while one is written":
        monkeypatch.setattr(DirectoryStore, "put", vanishing(DirectoryStore.put, tmp_path))
    else:
        clear_spilled(tmp_path)
    store.spill(OTHER, 5000)
    assert decode(store.get(OTHER)) == "y" * 5000
    with pytest.raises(KeyError):
        store.get(KEY)
    store.delete(KEY)
    store.close()
    assert not files(tmp_path)


def vanishing(does, run_dir):
    """The first operation finds that the directory was removed just before."""
    times = []

    def do(*args):
        times.append(1)
        if len(times) == 1:
            clear_spilled(run_dir)
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return does(*args)

    return do


def test_a_temporary_directory_is_made_again_under_another_name(tmp_path, monkeypatch):
    """Anybody may have made one of the old name meanwhile, and what is read from there is unpickled."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = SpillingStore()
    for key in (KEY, OTHER):
        store.put(key, encode("x" * 5000))
    store.spill(KEY, 5000)
    (before,) = tmp_path.iterdir()
    shutil.rmtree(before)
    store.spill(OTHER, 5000)
    (after,) = tmp_path.iterdir()
    assert after != before
    assert after.stat().st_mode & 0o777 == 0o700
    assert decode(store.get(OTHER)) == "x" * 5000


def test_a_directory_that_cannot_be_made_again_is_told_of(store, tmp_path):
    for key in (KEY, OTHER):
        store.put(key, encode("x" * 5000))
    store.spill(KEY, 5000)
    clear_spilled(tmp_path)
    (tmp_path / SPILLED).touch()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        store.spill(OTHER, 5000)
    assert decode(store.get(OTHER)) == "x" * 5000


def test_a_file_that_cannot_be_removed_costs_nothing(store, monkeypatch):
    def fail(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    store.put(KEY, encode("x" * 5000))
    store.spill(KEY, 5000)
    monkeypatch.setattr(DirectoryStore, "delete", fail)
    store.delete(KEY)
    assert not store.has(KEY)


def test_what_ranks_that_died_left_is_cleared(store, tmp_path):
    store.put(KEY, encode("x" * 5000))
    store.spill(KEY, 5000)
    clear_spilled(tmp_path)
    clear_spilled(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        store.get(KEY)
