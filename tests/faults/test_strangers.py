"""Another user of the host may ring the doorbells of a run, and do nothing else to it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import handoff_mpi
from tests.faults.strangers import ALL, try_all
from tests.strangers import need_root


@pytest.mark.long
def test_a_stranger_gets_nothing_of_a_run_but_its_doorbells():
    need_root()
    with tempfile.TemporaryDirectory() as place:  # which a stranger can reach, as tmp_path is not
        got, code, text = try_all(Path(place), 0.5)
        assert code == 0, text
        assert handoff_mpi.load(Path(place, "run"))["all"] == ALL
    nothing = {"PermissionError", "FileNotFoundError", "ProcessLookupError", "ConnectionRefusedError"}
    nothing |= {"connected, closed", "connected, no answer"}  # the launcher's ports, told rubbish
    may = {("ring a doorbell", "got it"), ("ring a doorbell", "BlockingIOError")}
    assert [each for each in got if each not in may and each[1] not in nothing] == []
    doors = {door for door, _ in got}
    assert doors >= {"signal a process", "read /proc/PID/mem", "write to run-dir", "ring a doorbell"}
    assert got["ring a doorbell", "got it"] > 0, "there were some"
