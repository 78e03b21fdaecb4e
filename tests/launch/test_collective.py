"""Launches the collective tests under mpirun, on several numbers of ranks.

Not in tests/mpi: pytest-mpi takes the name of that directory for its mark, and skips all that is in it.
"""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

COLLECTIVE = ROOT / "tests" / "mpi" / "test_collective.py"


@pytest.mark.long
@pytest.mark.sample("3, fault-tolerant")
@pytest.mark.parametrize(("ranks", "ft"), [(2, False), (3, True)], ids=["2, plain", "3, fault-tolerant"])
def test_the_collective_tests_pass_on_every_rank(mpirun, ranks, ft):
    words = ["--with-mpi", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT]
    ended = mpirun(ranks, "-m", "pytest", *words, COLLECTIVE, ft=ft)
    assert ended.rc == 0, ended.out + ended.err
    tests = len(re.findall(r"^def test_", COLLECTIVE.read_text(), re.MULTILINE))
    assert ended.out.count(f"{tests} passed") == ranks, ended.out
