"""The indices of a job array do not share a run-dir."""

from __future__ import annotations

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.results.array_index import claim_for_index, refuse_other_index
from handoff_mpi.results.secure_files import open_directory

DAG_FILE = "from handoff_mpi import DAG, Function\ndag = DAG('d')\ndag.add_function(Function('one', (), abs, [-1]))\n"


def index(number, array="7"):
    return {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": str(number)}


@pytest.fixture
def directory(tmp_path):
    with open_directory(tmp_path) as directory:
        yield directory


def test_an_index_is_refused_where_another_one_was(directory):
    claim_for_index(directory, index(1))
    claim_for_index(directory, index(1))  # it resumes
    for claim in (refuse_other_index, claim_for_index):
        with pytest.raises(UsageError, match=r"index 2 of the job array 7 cannot use the run-dir .*: index 1 does"):
            claim(directory, index(2))


def test_another_array_may_resume_and_what_is_no_array_may_look(directory):
    claim_for_index(directory, index(1))
    claim_for_index(directory, {})
    claim_for_index(directory, index(2, array="8"))
    with pytest.raises(UsageError):
        refuse_other_index(directory, index(1, array="8"))


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["-n", "1"]], ids=["one process", "launched"])
def test_the_command_refuses_it_also_when_the_run_is_done(handoff, tmp_path, words):
    (tmp_path / "ok.py").write_text(DAG_FILE)
    assert handoff("run", *words, "--run-dir", "run", "ok.py", env=index(1)).rc == 0
    ended = handoff("run", *words, "--run-dir", "run", "ok.py", env=index(2))
    assert (ended.rc, ended.err.count("\n")) == (2, 1), ended.err
    assert "give each index a run-dir of its own" in ended.err
    assert handoff("run", *words, "--run-dir", "run", "ok.py", env=index(1)).rc == 0
