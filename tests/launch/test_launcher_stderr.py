"""The NUL byte that an mpirun leaves behind its last message."""

from __future__ import annotations

import os

import pytest

from handoff_mpi.launch.launcher_stderr import remove_last_nul


@pytest.mark.parametrize("flags", [os.O_APPEND, 0], ids=["appended", "written"])
@pytest.mark.parametrize(("said", "left"), [(b"lost\n\0", b"lost\n"), (b"a\0b", b"a\0b"), (b"\0", b""), (b"", b"")])
def test_it_is_removed_from_a_file(tmp_path, flags, said, left):
    fd = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT | flags)
    os.write(fd, said)
    remove_last_nul(fd)
    os.write(fd, b"handoff: ...\n")
    os.close(fd)
    assert (tmp_path / "err").read_bytes() == left + b"handoff: ...\n"


def test_pipes_and_what_is_closed_are_left_alone():
    read, write = os.pipe()
    os.write(write, b"lost\0")
    remove_last_nul(write)
    assert os.read(read, 100) == b"lost\0"
    os.close(read)
    os.close(write)
    remove_last_nul(write)
