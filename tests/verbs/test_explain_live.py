"""``explain`` asks runs that are running: in one process, on ranks, and those that do not answer."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time

import pytest

from handoff_mpi import cli
from handoff_mpi.results import run_status
from handoff_mpi.verbs import explain as verb
from tests.conftest import mpirun_command
from tests.strangers import COLLEAGUE, make_reachable, need_root

RUNNING = """
import pathlib, time
from handoff_mpi import DAG, Function
def wait():
    while not pathlib.Path("continue").exists():
        time.sleep(0.02)
def add(*parts):
    return 1
dag = DAG("running")
first = dag.add_function(Function("first", (), wait))
second = dag.add_function(Function("second", (), wait))
middle = dag.add_function(Function("middle", (first,), add))
dag.add_function(Function("end", (middle, second), add))
dag.add_function(Function(("third", 3), (), add))
"""


@contextlib.contextmanager
def running(directory, *words, dag=RUNNING):
    """A run in ``directory`` whose first functions run."""
    (directory / "dag.py").write_text(dag)
    command = [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "run", *words, "dag.py"]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    process = subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 60
    while not (run_status.read_any_status(directory / "run") and list((directory / "run" / "journal").iterdir())):
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    try:
        yield process
    finally:
        (directory / "continue").touch()
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()


@pytest.fixture
def explain(in_process, capsys):
    def call(*words):
        code = cli.main(["explain", *map(str, words)])
        told = capsys.readouterr()
        assert (code, told.err) == (0, "")
        return told.out

    return call


def explain_soon(explain, state, *words):
    """Explain until the run has come so far."""
    end = time.monotonic() + 60
    while True:
        told = json.loads(explain(*words, "--json"))
        if told["state"] == state or time.monotonic() > end:
            assert told["live"] is not None, told["notes"]
            return told
        time.sleep(0.05)


@pytest.mark.long
def test_a_run_in_one_process_answers(explain, tmp_path):
    with running(tmp_path, "--slots", "1", "--progress", "lines") as process:
        explain_soon(explain, "running", "run", "first")
        assert explain("run", "first").startswith("first is running on rank 0 (")
        told = explain("run", "('third', 3)")
        assert told.startswith("('third', 3) is ready, and waits for a rank.\n")
        assert "slot: 1 wanted, the only one is claimed by first." in told
        assert "1 ready function comes before it and needs the same." in told
        told = explain("run", "end")
        assert told.startswith("end waits for its inputs.\n")
        assert "3 functions upstream are open; 2 of them wait for no input:" in told
        assert "  middle (waiting) <- first (running on rank 0 (" in told
        assert "  second: No ready function comes before it." in told
        (tmp_path / "continue").touch()
        assert process.wait(60) == 0
    assert explain("run", "end").startswith("end is done.\n")
    assert not (tmp_path / "run" / "questions").exists()


@pytest.mark.long
def test_a_run_on_ranks_answers(explain, tmp_path):
    mpirun_command(3)  # skips where there is none
    with running(tmp_path, "-n", "3", "--slots", "1"):
        explain_soon(explain, "running", "run", "second")
        told = explain_soon(explain, "ready", "run", "('third', 3)")
        causes = [each["cause"] for each in told["live"]["reasons"]]
        assert causes == ["places", "queue"]
        names = {each["id"] for each in told["live"]["reasons"][0]["places"][0]["missing"][-1]["claims"]}
        assert names == {"first", "second"}
        assert "first (running on rank " in explain("run", "middle")


RETRYING = """
import pathlib, time
from handoff_mpi import DAG
def wait(index):
    if index == 3 and not pathlib.Path("continue").exists():
        raise OSError("star")
    while index == 4 and not pathlib.Path("continue").exists():
        time.sleep(0.02)
dag = DAG("retrying")
dag.map(wait, range(8), id="sweep", retry_delay=1)
"""


@pytest.mark.long
def test_a_run_tells_which_element_waits_for_its_retry(explain, tmp_path):
    with running(tmp_path, "--slots", "2", "--progress", "none", dag=RETRYING):
        end = time.monotonic() + 60
        while "attempt 1 failed (OSError: star).\n" not in (told := explain("run", "sweep[3]")):
            assert time.monotonic() < end, told
        assert told.startswith("sweep[3] ") and "for attempt 2" in told.partition(":")[0]
        assert "1 element needs another attempt: 3.\n" in told


def explain_here(run_dir, id):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.main(["explain", run_dir, id])
    return code, printed.getvalue()


@pytest.mark.long
def test_who_cannot_ask_and_a_run_that_does_not_answer(explain, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "ANSWER_TIMEOUT_S", 0.2)
    with running(tmp_path, "--slots", "1", "--progress", "none"):
        told = explain("run", "end")
        assert told.startswith("end has not started.\n")
        assert "  middle (waiting) <- first (running on rank 0 (" in told
        assert told.endswith("Note: the run did not answer within 0.2 s; this answer is from its journal\n")
        assert list((tmp_path / "run" / "questions").iterdir()) == []
        (tmp_path / "run" / "questions").rmdir()
        (tmp_path / "run" / "questions").write_text("in the way")
        assert "Note: the run cannot be asked: " in explain("run", "end")
        (tmp_path / "run" / "questions").unlink()
        need_root()
        make_reachable(tmp_path)
        code, told = COLLEAGUE.does(explain_here, str(tmp_path / "run"), "end")
        assert code == 0
        assert told.startswith("end has not started.\n")
        assert told.endswith("Note: only the owner of the run can ask it; this answer is from its journal\n")


@pytest.mark.long
def test_answers_of_another_shape(explain, tmp_path, monkeypatch):
    with running(tmp_path, "--slots", "1", "--progress", "none"):
        for answer in ({"error": "\x1b[31mno"}, {"state": "ready"}, {"state": "ready", "reasons": 7, "time_s": None}):
            monkeypatch.setattr(verb, "ask", lambda run_dir, question, timeout_s=0, answer=answer: answer)
            told = explain("run", "end")
            assert "\x1b" not in told
            assert "Note: " in told
