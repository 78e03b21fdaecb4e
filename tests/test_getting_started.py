"""The first page of the manual: a newcomer who types it at a terminal sees what it shows."""

from __future__ import annotations

import re
import sys

import pytest

from tests.conftest import DEVELOPMENT, ROOT, run_process
from tests.processes import without_failed_starts
from tests.sessions import read_sessions, shape, type_in

PAGE = ROOT / "handoff_mpi" / "manual" / "getting-started.md"
DIRECTORY = "/home/ann/spectra"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def spectra(tmp_path):
    """A directory with the DAG of the page."""
    (tmp_path / "spectra.py").write_text(BLOCKS[0])
    return tmp_path


@pytest.mark.long
def test_a_newcomer_sees_what_the_page_shows(spectra):
    sessions = read_sessions(PAGE)
    assert len(sessions) == 6
    for command, printed in sessions:
        assert shape(type_in(command, spectra, DIRECTORY, PAGE)) == shape(printed), command


@pytest.mark.long
def test_the_other_blocks_build_and_run_the_same(spectra):
    _, functions, script = BLOCKS
    (spectra / "stations.txt").write_text("alpha beta gamma delta")
    named = "from spectra import record, strongest\n" + functions
    (spectra / "functions.py").write_text(named + "dag.validate()\n")
    (spectra / "script.py").write_text("from spectra import dag\n" + script)
    for name in ("functions.py", "script.py"):
        ended = run_process([sys.executable, name], spectra, env={**DEVELOPMENT, "PYTHONPATH": str(ROOT)})
        assert ended.rc == 0, ended.err
    assert "delta" in ended.out


def test_only_a_start_that_failed_for_a_reason_of_the_launcher_is_left_out_of_a_session():
    again = "handoff: the job has died before the run ended; it is launched again (1 of at most 3)"
    complaint = "PMIX ERROR: no\n---\nThe PMIx server's listener thread failed to start. We cannot\ncontinue.\n---\n"
    rest = "handoff: files: r\ndone\n"
    assert without_failed_starts(f"handoff: a note\n{complaint}{again}\n{rest}") == f"handoff: a note\n{rest}"
    for text in (rest, f"killed\n{again}\n{rest}", f"{complaint}{again} and resumes\n{rest}", complaint, ""):
        assert without_failed_starts(text) == text
