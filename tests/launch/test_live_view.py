"""The live view of real runs in real terminals: what a person sees, what is printed above it, and how it ends."""

from __future__ import annotations

import os
import signal
import sys

import psutil
import pytest

from tests.processes import command_line
from tests.terminal import terminal  # noqa: F401

#: Functions print when they are asked to, and end when the test lets them, so that no test waits for a moment.
DAG = """
import os, pathlib, time
from handoff_mpi import DAG, Function

def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.02)

def talk(number):
    print("printed by", number, flush=True)
    os.write(1, b"bytes \\xff\\x00 end\\n") if number == 0 else None
    wait_for("continue")
    if number == 1:
        raise ValueError("as asked")
    return number

dag = DAG("talking")
for number in range(4):
    dag.add_function(Function(number, (), talk, [number], cost={"cpu": 0}, max_retries=0))
"""
ASKING = """
from handoff_mpi import DAG, Function

def ask():
    name = input("name? ")
    breakpoint()
    print("hello", name)
    return name

dag = DAG("asking")
dag.add_function(Function("ask", (), ask))
"""


@pytest.fixture
def run(terminal, tmp_path):  # noqa: F811
    def start(*words, text=DAG, **options):
        (tmp_path / "dag.py").write_text(text)
        return terminal("-m", "handoff_mpi", "run", "--run-dir", "run", *words, "dag.py", **options)

    return start


def viewers_of(pid):
    """Return the processes that draw for ``pid``."""
    children = psutil.Process(pid).children()
    return [each for each in children if "visualization.viewer" in command_line(each)]


def go_on(tmp_path):
    (tmp_path / "continue").touch()


@pytest.mark.long
@pytest.mark.sample("80")
@pytest.mark.parametrize("columns", [80, 200])
def test_a_launch_draws_at_the_bottom_and_output_scrolls_above(run, tmp_path, columns):
    shown = run("-n", "2", "--slots", "4", columns=columns)
    shown.until(lambda: "0 done  4 running" in shown.text and "printed by 3" in shown.text)
    shown.resize(columns - 10, 40)
    shown.until(lambda: shown.lines[24:].count("") < 16 and any("── talking ─" in line for line in shown.lines[24:]))
    assert shown.text.count("── talking ─") == 1
    go_on(tmp_path)
    assert shown.end() == 1
    assert shown.is_given_back
    assert "── talking" not in shown.text
    for part in (
        "4 functions on 2 ranks",
        "to resume: python -m handoff_mpi run --run-dir run -n 2",
        "printed by 0",
        "function 1 failed",
        "DAG 'talking' failed",
        "files: ",
    ):
        assert part in shown.text
    assert shown.text.index("function 1 failed") < shown.text.index("DAG 'talking' failed")


@pytest.mark.long
def test_a_run_that_is_stopped_gives_the_terminal_back(run):
    shown = run("-n", "2", "--slots", "4", "--grace-period", "0", columns=200)
    shown.until(lambda: "── talking ─" in shown.text)
    shown.send("\x03")
    assert shown.end() == 75
    assert "handoff: interrupted" in shown.text
    assert "0 of 4 functions were done" in shown.text
    assert shown.is_given_back
    assert "── talking" not in shown.text


@pytest.mark.long
def test_the_terminal_is_given_back_when_any_process_is_killed(run, tmp_path):
    shown = run("-n", "2", "--slots", "4")
    shown.until(lambda: "── talking ─" in shown.text)
    (viewer,) = viewers_of(shown.pid)
    os.kill(shown.pid, signal.SIGKILL)
    shown.until(lambda: shown.is_given_back)
    go_on(tmp_path)
    assert shown.end() == -signal.SIGKILL
    viewer.wait(10)
    assert "── talking" not in shown.text


@pytest.mark.long
def test_a_viewer_that_is_killed_leaves_the_run_alone(run, tmp_path):
    shown = run("--slots", "1")
    shown.until(lambda: "── talking ─" in shown.text)
    (viewer,) = viewers_of(shown.pid)
    viewer.kill()
    viewer.wait(10) if viewer.ppid() != shown.pid else None
    go_on(tmp_path)
    assert shown.end() == 1
    assert shown.is_given_back
    assert "DAG 'talking' failed" in shown.text


def test_standard_output_is_what_functions_print_byte_for_byte(terminal, tmp_path):  # noqa: F811
    (tmp_path / "dag.py").write_text(DAG)
    go_on(tmp_path)
    script = "import subprocess, sys; out = open('out', 'wb'); sys.exit(subprocess.call(sys.argv[1:], stdout=out))"
    words = ("-m", "handoff_mpi", "run", "-n", "2", "--slots", "1", "dag.py")
    shown = terminal("-c", script, sys.executable, *words)
    assert shown.end() == 1
    assert sorted((tmp_path / "out").read_bytes().splitlines()) == [
        *[b"bytes \xff\x00 end", b"printed by 0", b"printed by 1", b"printed by 2", b"printed by 3"],
    ]
    assert [line.strip() for line in shown.lines if "printed by" in line] == ["printed by 1"]  # with its failure
    assert "DAG 'talking' failed" in shown.text


@pytest.mark.long
def test_a_function_can_ask_and_be_debugged_in_one_process(run):
    shown = run(text=ASKING)
    shown.until(lambda: "── asking ─" in shown.text and "name?" in shown.text)
    shown.send("Ada\n")
    shown.until(lambda: "(Pdb)" in shown.text)
    assert "── asking ─" in shown.text
    shown.send("p name * 2\n")
    shown.until(lambda: "'AdaAda'" in shown.text)
    shown.send("c\n")
    assert shown.end() == 0
    assert "hello Ada" in shown.text
    assert "name? Ada" in shown.text
    assert shown.is_given_back


SCRIPT = """
import pathlib, time, handoff_mpi as handoff
from handoff_mpi import DAG, Function

def wait():
    while not pathlib.Path("continue").exists():
        time.sleep(0.02)

dag = DAG("in a script")
dag.add_function(Function("wait", (), wait))
handoff.execute(dag, **OPTIONS)
print("the script continues")
"""


@pytest.mark.long
def test_a_script_has_its_run_drawn_without_start_lines(terminal, tmp_path):  # noqa: F811
    shown = terminal("-c", SCRIPT.replace("OPTIONS", "{}"))
    shown.until(lambda: "── in a script ─" in shown.text)
    go_on(tmp_path)
    assert shown.end() == 0
    assert shown.text.strip() == "the script continues"
    assert shown.is_given_back


OTHERWISE = ["progress='none'", "progress='lines', run_dir=False"]


@pytest.mark.parametrize("options", ["quiet=True", *[pytest.param(each, marks=pytest.mark.long) for each in OTHERWISE]])
def test_a_script_can_have_it_otherwise(terminal, tmp_path, options):  # noqa: F811
    go_on(tmp_path)
    shown = terminal("-c", SCRIPT.replace("OPTIONS", f"dict({options})"))
    assert shown.end() == 0
    assert ("files: none" in shown.text) == ("lines" in options)
    assert b"\x1b" not in shown.raw


def test_a_terminal_that_obeys_nothing_gets_lines(run, tmp_path):
    go_on(tmp_path)
    shown = run(env={"TERM": "dumb"})
    assert shown.end() == 1
    assert b"\x1b" not in shown.raw.replace(b"\x1b]", b"")
