"""``sbatch`` and ``submit``: the script that is shipped, and how a DAG gets to Slurm by it."""

from __future__ import annotations

import sys

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.verbs.batch_script import batch_script
from handoff_mpi.verbs.submit import split_at_file, with_python
from tests.conftest import ROOT

SCRIPT = ROOT / "slurm" / "run.sbatch"
#: Keeps what it is given, with the script.
SBATCH = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; [ -f "$word" ] && /bin/cp "$word" script; done > words
echo "7;cluster"
"""
SCONTROL = "#!/bin/sh\nprintf '   StdErr=/a\\n   StdOut=/where/%s.out\\n' \"$3\"\n"


@pytest.fixture
def tools(tmp_path):
    """Commands that play Slurm's, and a DAG's file."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "dag.py").write_text("dag = None\n")
    return {"PATH": str(tmp_path / "bin")}


def test_the_script_that_is_shipped_is_that_of_the_sources():
    assert batch_script() == SCRIPT.read_text()


@pytest.mark.long
def test_sbatch_prints_it(handoff):
    assert handoff("sbatch").out == SCRIPT.read_text()
    printed = handoff("sbatch", "--requeue").out
    assert "HANDOFF_MAX_REQUEUES:-100}" in printed
    assert [line for line in printed.splitlines() if line not in SCRIPT.read_text().splitlines()] == [
        "export HANDOFF_MAX_REQUEUES=${HANDOFF_MAX_REQUEUES:-100}"
    ]


@pytest.mark.long
def test_submit_passes_flags_to_sbatch_and_to_the_run(handoff, tools, tmp_path):
    ended = handoff("submit", "-n", "64", "-t", "8:00:00", "dag.py:dag", "--max-retries", "1", "--", "-x", env=tools)
    assert ended.rc == 0, ended.err
    assert ended.out == "submitted as job 7\noutput: /where/7.out\nfiles: handoff-runs/7\n"
    words = (tmp_path / "words").read_text().splitlines()
    (at,) = (at for at, word in enumerate(words) if word.endswith("handoff.sbatch"))
    assert words[:at] == ["--parsable", "-n", "64", "-t", "8:00:00"]
    assert words[at + 1 :] == ["dag.py:dag", "--max-retries", "1", "--", "-x"]
    assert (tmp_path / "script").read_text() == with_python(SCRIPT.read_text(), sys.executable)


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["-a", "1-3", "dag.py"], "handoff-runs/7_INDEX"),
        (["dag.py", "--run-dir", "mine"], "mine"),
        (["dag.py", "--run-dir=mine"], "mine"),
    ],
)
def test_submit_tells_where_the_files_will_be(handoff, tools, words, files):
    assert handoff("submit", *words, env=tools).out.splitlines()[-1] == f"files: {files}"


@pytest.mark.long
def test_what_sbatch_refuses_is_said_in_a_line(handoff, tools, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid\nqos' >&2\nexit 1\n")
    ended = handoff("submit", "dag.py", env=tools)
    assert (ended.rc, ended.err) == (2, "handoff: submit: sbatch: error: Invalid qos\n")
    (tmp_path / "bin" / "sbatch").unlink()
    ended = handoff("submit", "dag.py", env=tools)
    assert (ended.rc, ended.err) == (
        2,
        "handoff: submit: there is no sbatch on PATH; call it where Slurm's commands are\n",
    )


@pytest.mark.parametrize("words", [[], ["-n", "4"], ["-n", "4", "nowhere.py"]])
def test_a_file_must_be_named_and_be_there(words):
    with pytest.raises(UsageError, match=r"submit: .*as in `handoff-mpi submit"):
        split_at_file(words)


def test_the_python_is_a_default_of_the_script():
    script = with_python(batch_script(), "/a b/python3")
    assert "\nPYTHON=${PYTHON:-'/a b/python3'}\n\nrefuse() {" in script
    assert script.replace("PYTHON=${PYTHON:-'/a b/python3'}\n\n", "", 1) == batch_script()
