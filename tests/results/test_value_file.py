"""The files of values: nothing but what was written under a key is ever read under it."""

from __future__ import annotations

import io
import os
import shutil

import numpy as np
import pytest

from handoff_mpi.errors import ValueDamaged
from handoff_mpi.results import DirectoryStore
from handoff_mpi.results.value_file import DamagedValue, find_parts, read_value, write_value
from handoff_mpi.serialization import decode, encode

KEY = b"('run', 7)"
VALUES = {
    "plain": 7,
    "text": "x" * 100,
    "pickle": {"a": list(range(500))},
    "array": [np.arange(5000), "between", np.ones(3000, "f4")],
}


def written(value, key=KEY) -> bytes:
    file = io.BytesIO()
    assert write_value(file.write, key, encode(value)) == len(file.getvalue())
    return file.getvalue()


@pytest.fixture(params=VALUES)
def value(request):
    return VALUES[request.param]


def test_what_was_written_is_read(value):
    found = decode(read_value(written(value), KEY))
    if isinstance(value, list):
        assert all(map(np.array_equal, found, value))
    else:
        assert found == value


def test_a_flipped_bit_anywhere_is_found(value):
    data = bytearray(written(value))
    # All of head, key, pickle and checksum; of large buffers some bytes.
    places = {*range(min(1500, len(data))), *range(0, len(data), 97), *range(len(data) - 40, len(data))}
    for place in places:
        for bit in {place % 8, 7}:
            data[place] ^= 1 << bit
            with pytest.raises(DamagedValue):
                read_value(bytes(data), KEY)
            data[place] ^= 1 << bit
    read_value(bytes(data), KEY)


def test_a_file_cut_anywhere_is_refused_by_its_head_alone(value):
    data = written(value)
    for end in [*range(min(len(data), 300)), len(data) - 1]:
        with pytest.raises(DamagedValue):
            find_parts(data[:end], KEY)
    with pytest.raises(DamagedValue, match=f"has {len(data) + 1} bytes instead of {len(data)}"):
        find_parts(data + b"\0", KEY)


@pytest.mark.parametrize("key", [b"('run', 8)", b"('run', 77)", b"", KEY * 9])
def test_another_values_file_is_refused_by_its_head_alone(key):
    with pytest.raises(DamagedValue, match="does not carry the key"):
        find_parts(written("theirs", key), KEY)


def test_sizes_that_are_too_large_cost_no_memory():
    data = bytearray(written(VALUES["array"]))
    data[10:14] = b"\xff" * 4
    with pytest.raises(DamagedValue):
        find_parts(bytes(data), KEY)


def test_a_file_of_an_older_version_is_told_from_damage():
    with pytest.raises(DamagedValue, match="older version of handoff_mpi"):
        find_parts(b"HMPV1\n" + bytes(100), KEY)


def test_buffers_are_aligned_and_not_copied():
    data = np.frombuffer(written(VALUES["array"]), "u1")
    payload = read_value(memoryview(data), KEY)
    for part in payload[2:]:
        address = np.frombuffer(part, "u1").ctypes.data
        assert (address - data.ctypes.data) % 64 == 0
        assert data.ctypes.data <= address < data.ctypes.data + data.nbytes


# -- in their directory --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    store = DirectoryStore(tmp_path / "values")
    store.put(("run", 1), encode(np.arange(9000)))
    store.put(("run", 2), encode(np.arange(9000)[::-1].copy()))
    return store


def test_files_that_have_changed_places_are_refused(store):
    shutil.copy(store.path(("run", 2)), store.path(("run", 1)))
    with pytest.raises(ValueDamaged, match="does not carry the key of this one"):
        store.get(("run", 1))
    assert not store.is_intact(("run", 1))
    assert store.is_intact(("run", 2))


def test_the_head_is_checked_without_reading_the_rest(store):
    path = store.path(("run", 1))
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    assert store.is_intact(("run", 1)), "its reader compares the checksum"
    with pytest.raises(ValueDamaged, match="checksum"):
        store.get(("run", 1))


@pytest.mark.parametrize("kind", ["empty", "garbage", "directory", "fifo", "link", "device"])
def test_what_is_no_value_is_refused_and_nothing_hangs(store, tmp_path, kind):
    path = store.path(("run", 1))
    moved = path.rename(tmp_path / "moved")
    makes = {
        "empty": path.touch,
        "garbage": lambda: path.write_bytes(b"\x80\x05N." * 99),
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(moved),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    makes[kind]()
    with pytest.raises(ValueDamaged, match=str(path)):
        store.get(("run", 1))
    assert not store.is_intact(("run", 1))


def test_a_file_that_the_group_may_write_to_counts_as_damaged(store):
    store.path(("run", 1)).chmod(0o664)
    with pytest.raises(ValueDamaged, match="can be written to by the group"):
        store.get(("run", 1))


def test_a_directory_that_the_group_may_write_to_is_not_used(tmp_path, store):
    (tmp_path / "values").chmod(0o775)
    other = DirectoryStore(tmp_path / "values")
    with pytest.raises(ValueDamaged, match="can be written to by the group"):
        other.get(("run", 1))
    with pytest.raises(OSError, match="can be written to by the group"):
        other.put(("run", 3), encode(1))


def test_a_directory_that_vanished_is_made_again(store, tmp_path):
    shutil.rmtree(tmp_path / "values")
    with pytest.raises(KeyError):
        store.get(("run", 1))
    store.put(("run", 1), encode("again"))
    assert decode(store.get(("run", 1))) == "again"
    shutil.rmtree(tmp_path / "values")
    store.put(("run", 1), encode("and again"))
    assert decode(DirectoryStore(tmp_path / "values").get(("run", 1))) == "and again"


def test_a_write_that_fails_leaves_no_file(store, tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    before = sorted((tmp_path / "values").iterdir())
    with pytest.raises(OSError, match="No space"):
        store.put(("run", 3), encode("x" * 5000))
    assert sorted((tmp_path / "values").iterdir()) == before
