"""The examples, run for real and compared with independent computations."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing, run_process

EXAMPLES = ROOT / "examples"


def test_quickstart_counts_what_is_there(handoff):
    ended = handoff("run", "-n", "4", EXAMPLES / "quickstart.py", "--", "json", "asyncio")
    assert ended.rc == 0, ended.err
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for name in ("json", "asyncio") for file in (root / name).rglob("*.py")]
    texts = [file.read_text(errors="replace") for file in files]
    words = Counter(word for text in texts for word in re.findall(r"[A-Za-z_][A-Za-z_0-9]{2,}", text))
    nbytes = sum(len(text.encode()) for text in texts)
    assert f"{len(files)} files" in ended.out
    assert f"{nbytes} bytes, {len(words)} different words" in ended.out
    word, count = min(words.items(), key=lambda item: (-item[1], item[0]))
    assert f"{count:9d}  {word}" in ended.out


@pytest.mark.parametrize("words", [[], ["-n", "4"], ["-n", "3", "--allocation-strategy", "cost_optimized"]])
def test_cholesky_agrees_with_numpy(handoff, words):
    ended = handoff("run", *words, EXAMPLES / "cholesky.py")
    assert ended.rc == 0, ended.err
    assert "384 x 384 in 6 x 6 tiles agrees with numpy" in ended.out


def test_cholesky_under_a_bare_mpirun(mpirun):
    ended = mpirun(4, "-m", "handoff_mpi", "run", EXAMPLES / "cholesky.py", "--", "--tiles", "5", "--size", "80")
    assert ended.rc == 0, ended.err
    assert "400 x 400 in 5 x 5 tiles agrees with numpy" in ended.out


def test_cholesky_under_mpich(tmp_path):
    mpiexec = os.environ.get("HANDOFF_TEST_MPICH")
    if not mpiexec:
        missing("MPICH in another environment, its mpiexec named by HANDOFF_TEST_MPICH,")
    python = Path(mpiexec).parent / "python"
    command = [mpiexec, "-n", "4", python, "-m", "handoff_mpi", "run", EXAMPLES / "cholesky.py"]
    ended = run_process(command, tmp_path, 90)
    assert ended.rc == 0, ended.err
    assert "384 x 384 in 6 x 6 tiles agrees with numpy" in ended.out


@pytest.mark.parametrize("ranks", [1, 4])
def test_script(mpirun, tmp_path, ranks):
    script = EXAMPLES / "script.py"
    ended = run_process([sys.executable, script], tmp_path) if ranks == 1 else mpirun(ranks, script)
    assert ended.rc == 0, ended.err
    assert "sum of squares: 328350" in ended.out
