"""A run that an earlier version has written is read and resumed: its run-dir is kept beside this test."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import handoff_mpi as handoff
from tests.conftest import run_process

KEPT = Path(__file__).parent / "kept_run"
#: Values and code are pickled by value, and no other version of Python can be trusted to read that.
PYTHON = (3, 11)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Return a copy of the run-dir; git keeps no modes, and a run-dir that others may write is refused."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # load adds a directory for the missing module of the DAG
    if sys.version_info[:2] != PYTHON:
        pytest.skip(f"Python {PYTHON[0]}.{PYTHON[1]} has written the kept run")
    shutil.copy(KEPT / "dag.py", tmp_path)
    run = shutil.copytree(KEPT / "run", tmp_path / "run")
    for path in [run, *run.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return run


def handoff_mpi(directory, *words):
    return run_process([sys.executable, "-m", "handoff_mpi", *words], directory)


def test_values_of_an_earlier_version_are_read(kept):
    results = handoff.load(kept)
    assert results["large"] == bytes(20_000)
    assert results["names", 1] == ["Point", "bytes", "ValueError", "str"]
    assert results.errors.keys() == {"fails", "waits"}
    with pytest.raises(handoff.TaskError, match="RuntimeError: always"):
        results["fails"]


def test_a_run_of_an_earlier_version_is_resumed(kept):
    kept.with_name("go").touch()
    ended = handoff_mpi(kept.parent, "run", "-n", "2", "--keep", "large", "--run-dir", "run", "dag.py")
    assert ended.rc == 1, ended.err
    assert "6 done, 1 failed, 1 skipped of 8 functions" in ended.err
    events = [json.loads(line) for line in (kept / "events.jsonl").read_text().splitlines()]
    assert [each["restored"] for each in events if each["event"] == "run.start"] == [0, 5]
    assert not kept.with_name("tried").exists(), "a function that was done was called again"
    assert handoff.load(kept)["waits"].x == 3


@pytest.mark.parametrize("words", [("status", "run"), ("explain", "run", "waits"), ("report", "run"), ("graph", "run")])
def test_commands_read_a_run_of_an_earlier_version(kept, words):
    ended = handoff_mpi(kept.parent, *words)
    assert ended.rc == 0, ended.err
    assert "Traceback" not in ended.err
