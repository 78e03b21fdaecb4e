"""The start lines of a run, the command in them that resumes it, and --quiet."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from handoff_mpi.launch.progress_mode import Shown, mode_of_command, shown_by_run
from handoff_mpi.launch.start_line import start_lines
from handoff_mpi.resume_command import resume_command
from handoff_mpi.runtime.options import RunOptions

DAG = """
from handoff_mpi import DAG, Function

def fail_once(number):
    import pathlib
    if number == 3 and not pathlib.Path("mark").exists():
        pathlib.Path("mark").touch()
        raise OSError("as asked")

dag = DAG("four")
for number in range(4):
    dag.add_function(Function(number, (), fail_once, [number], max_retries=0))
"""


def test_start_lines_tell_what_runs_where_and_how_it_is_resumed():
    capacity = {"cpu": 24.0, "memory": 64_500.0, "gpu": 2.0, "license": 5.0}
    first, *rest = start_lines(
        1234, ["n1", "n1", "n2"], 3, capacity, 1.77e9, "runs/a b", lambda path, is_later: f"do {path!r}"
    )
    what = "1,234 functions on 3 ranks of 2 hosts: 24 cores, 64.5 GB, 2 GPUs"
    assert re.fullmatch(r"2026-02-0\d \d\d:\d\d:\d\d " + what, first)
    assert rest == ["files: runs/a b", "to resume: do 'runs/a b'"]


def test_start_lines_of_scripts_and_of_runs_without_files():
    assert start_lines(1, ["n1"], 1, {"cpu": 1.0}, 0, None, None)[1] == "files: none, so the run cannot be resumed"
    assert start_lines(1, ["n1"], 1, {"cpu": 1.0}, 0, "r", None)[2] == "to resume: execute(..., run_dir='r')"
    assert start_lines(1, ["n1"], 1, {"cpu": 1.0}, 0, "r", None)[0].endswith("1 function on 1 rank of 1 host: 1 core")


@pytest.mark.parametrize(
    ("words", "args", "command"),
    [
        (["run", "-n", "4", "dag.py"], [], "run --run-dir 'a b' -n 4 dag.py"),
        (
            ["run", "dag.py", "--fresh", "--rerun", "x", "--rerun=y", "--accept-changes", "x", "--accept-changes=y"],
            ["--rerun", "z"],
            "run --run-dir 'a b' dag.py -- --rerun z",
        ),
        (["run", "--run-dir=mine", "dag.py"], ["a", "$b"], "run --run-dir=mine dag.py -- a '$b'"),
    ],
)
def test_the_command_that_resumes_is_the_one_that_began_with_its_run_dir(words, args, command):
    assert resume_command(words, args)("a b").endswith(f" {command}") or resume_command(words, args)("a b") == command


def test_of_a_bare_launcher_the_command_is_unknown():
    assert resume_command(["run", "dag.py"], [], True)("a b") == "the same command with --run-dir 'a b'"
    assert resume_command(["run", "--run-dir", "r", "dag.py"], [], True)("r") == "the same command"
    once, without = ["run", "dag.py", "--fresh", "--accept-changes", "x"], "without --fresh and --accept-changes"
    assert resume_command(once, [], True)("a") == f"the same command with --run-dir a and {without}"
    assert resume_command([*once, "--run-dir=a"], [], True)("a") == f"the same command {without}"
    later = resume_command(["run", "--run-dir", "r", "dag.py"], ["x y"], True)("r", is_later=True)
    assert later == "the same mpirun or srun of handoff-mpi run --run-dir r dag.py -- 'x y'"


@pytest.mark.long
def test_the_command_that_is_printed_resumes(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG)
    ended = handoff("run", "dag.py")
    assert ended.rc == 1
    (command,) = re.findall("handoff: to resume: python -m (.*)", ended.err)
    assert re.findall("^  to resume: python -m (.*)", ended.err, re.MULTILINE) == [command], "the end tells it too"
    again = subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "3 of 4 functions are done" in again.stderr
    assert again.stderr.count("to resume:") == 1, "a run that is done has nothing left"


@pytest.mark.long
def test_a_quiet_run_prints_failures_alone(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG)
    ended = handoff("run", "--quiet", "dag.py")
    assert ended.rc == 1
    assert "function 3 failed" in ended.err
    assert "files: " not in ended.err
    assert "DAG 'four'" not in ended.err
    assert handoff("run", "dag.py", "--run-dir", "again", env={"HANDOFF_QUIET": "yes"}).err == ""


QUIET, LIBRARY, LINES = RunOptions(quiet=True, progress="live"), RunOptions(), RunOptions(progress="lines")


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("owns_terminal", [True, False])
def test_what_a_run_shows(monkeypatch, is_terminal, owns_terminal):
    monkeypatch.setattr("handoff_mpi.launch.progress_mode.terminal_of_stderr", lambda: 2 if is_terminal else None)
    can_draw = is_terminal and owns_terminal
    assert mode_of_command(QUIET, owns_terminal) == "none"
    assert mode_of_command(LINES, owns_terminal) == "lines"
    assert mode_of_command(RunOptions(), owns_terminal) == ("live" if can_draw else "lines")
    assert mode_of_command(RunOptions(run_dir=False), owns_terminal) == "lines"
    assert shown_by_run(QUIET, owns_terminal, False) == Shown(False)
    assert shown_by_run(LIBRARY, owns_terminal, False) == Shown(False, False, can_draw)
    assert shown_by_run(LINES, owns_terminal, False) == Shown(True, True, False)
    assert shown_by_run(RunOptions(progress="live"), owns_terminal, False) == Shown(True, not can_draw, can_draw)
    if not owns_terminal:
        assert shown_by_run(RunOptions(progress="live"), owns_terminal, True) == Shown(True, False, False)
