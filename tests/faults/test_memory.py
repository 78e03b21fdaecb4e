"""Runs whose values do not fit in memory end well, and by moving values out of it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, mpirun_command
from tests.faults.launching import launch, memory_cgroup

WORDS = [sys.executable, "-m", "tests.faults.memory"]
MB = 10**6


def told(launched):
    """How many values each rank moved out; the run must have ended well, and have left no file."""
    assert launched.wait(90) == 0, launched.text()
    lines = [line.split(" ", 1) for line in launched.text().splitlines()]
    (right,) = [rest for what, rest in lines if what == "right"]
    counts = dict(map(int, rest.split()) for what, rest in lines if what == "spilled")
    return right, counts


@pytest.mark.long
def test_values_that_exceed_a_declared_limit_are_moved_out(tmp_path):
    environment = {"HANDOFF_MEMORY": "300MB", "PYTHONPATH": str(ROOT)}
    right, counts = told(launch([*mpirun_command(3), *WORDS, "40", "10"], tmp_path, environment))
    assert right == "81 {}"
    # Of 100 MB each, a worker takes some 40 itself, so it keeps at most six of its twenty values.
    assert counts[1] >= 10
    assert counts[2] >= 10
    assert not (tmp_path / "run" / "spilled").exists()


@pytest.mark.long
def test_values_that_exceed_a_control_group_are_moved_out(tmp_path):
    with memory_cgroup(300 * MB) as cgroup:
        if cgroup is None:
            pytest.skip("no control group for memory may be made here")
        words = " ".join(map(str, [*mpirun_command(3), *WORDS, "60", "10"]))
        inside = ["bash", "-c", f"echo $$ > {cgroup}/cgroup.procs && exec {words}"]
        right, counts = told(launch(inside, tmp_path, {"PYTHONPATH": str(ROOT)}))
    assert right == "121 {}"
    assert sum(counts.values()) >= 30, "half of the values do not fit"


@pytest.fixture
def in_memory():
    """A directory whose files are kept in memory."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("this system keeps no files in memory")
    with tempfile.TemporaryDirectory(prefix="handoff-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.long
def test_a_run_whose_ranks_are_always_short_and_cannot_help_it_comes_to_its_end(in_memory):
    environment = {"HANDOFF_MEMORY": "3MB", "PYTHONPATH": str(ROOT)}
    launched = launch([*mpirun_command(3), *WORDS, "4", "1"], in_memory, environment)
    right, counts = told(launched)
    assert right == "9 {}"
    assert set(counts.values()) == {0}
    text = launched.text()
    assert text.count("all ranks that could continue are short of memory: it continues with one call at a time") == 1
    assert text.count("values cannot be moved out of it: [Errno 19] what is written there stays in memory") in (1, 2)
