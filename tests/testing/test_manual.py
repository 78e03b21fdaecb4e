"""The examples of the manual's page about tests are run as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import handoff_mpi

PAGE = Path(handoff_mpi.__file__).parent / "manual" / "testing.md"
FILES = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def written(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_example_names_its_file():
    assert PAGE.read_text().count("```python") == len(FILES) == 8


@pytest.mark.long
def test_the_examples_of_one_process(written):
    words = ["-q", "-p", "no:cacheprovider", "--ignore", "test_mpi.py"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=written, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tests = sum(len(re.findall(r"^def test_", text, re.MULTILINE)) for text in FILES.values()) - 1
    assert int(re.search(r"(\d+) passed", ended.stdout).group(1)) > tests + 15, ended.stdout
    assert "skipped" not in ended.stdout
    assert not (written / "handoff-runs").exists()


@pytest.mark.long
def test_the_example_of_real_ranks(written, mpirun):
    line = re.search(r"^mpirun -n (\d) python (.*)$", PAGE.read_text(), re.MULTILINE)
    ranks, words = int(line.group(1)), line.group(2).split()
    ended = mpirun(ranks, *words, "-p", "no:cacheprovider", "-q")
    assert ended.rc == 0, ended.out + ended.err
    assert ended.out.count("1 passed") == ranks
