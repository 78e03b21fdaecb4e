"""``explain`` afterwards: the story of a function from its journal, of own runs and of anybody's."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import handoff_mpi
from handoff_mpi import DAG, Function, cli
from handoff_mpi.arrays.columns import pack
from handoff_mpi.messages import DEATH, DIED, RAISED, RANK_LOSS, VALUE_LOSS
from handoff_mpi.results.journal import Journal
from handoff_mpi.results.run_status import read_any_status
from tests.conftest import run_process
from tests.results.made_journal import T0, about, done, row, turn, write_launch, write_status
from tests.strangers import COLLEAGUE, make_reachable, need_root

FAILING = """
import pathlib
from handoff_mpi import DAG, Function
def load(n):
    print("loading", n)
    return n
def fit(n):
    if n == 2 and not pathlib.Path("fixed").exists():
        raise ValueError("loss is nan")
    return FACTOR * n
def total(*parts):
    return sum(parts)
FACTOR = 2
dag = DAG("explained")
loads = [dag.add_function(Function(f"load-{n}", (), load, [n])) for n in range(3)]
fits = [dag.add_function(Function(("fit", n), (each,), fit, max_retries=1)) for n, each in enumerate(loads)]
total = dag.add_function(Function("total", tuple(fits), total))
dag.add_function(Function("behind", (total,), abs))
"""


@pytest.fixture
def explain(in_process, capsys):
    def call(*words):
        code = cli.main(["explain", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def facts(explain, *words):
    code, out, err = explain(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run of rank 0 and two ranks in which a function has failed twice."""
    directory = tmp_path_factory.mktemp("failed")
    (directory / "dag.py").write_text(FAILING)
    options = ["--run-dir", "run", "--keep", "all", "--output", "capture", "dag.py"]
    assert run_process([sys.executable, "-m", "handoff_mpi", "run", "-n", "3", *options], directory).rc == 1
    return directory


@pytest.fixture
def failed(finished, tmp_path):
    """That run, where the working directory is."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def resume(directory, *words):
    options = ["--run-dir", "run", "--keep", "all", *words, "dag.py"]
    return run_process([sys.executable, "-m", "handoff_mpi", "run", *options], directory)


def test_what_was_done_and_what_failed_and_what_was_skipped(explain, failed):
    code, out, err = explain("run", "load-1")
    assert (code, err) == (0, "")
    assert out.startswith("load-1 is done.\nIt calls load and costs cpu=1. It takes the values of no other function.\n")
    assert "It was called once:\n  launch 1, attempt 1, rank " in out
    assert "It has printed 10 B: `handoff-mpi logs run load-1` shows it." in out
    assert "Its value (8 B) is in the journal." in out
    why = "2 ranks could hold its cost, and the strategy FirstAvailable chose this one"
    assert f"{why}: it takes the first rank, in rank order, that has room." in out

    told = explain("run", "('fit', 2)")[1]
    assert told.startswith("('fit', 2) has failed: ValueError: loss is nan.\n")
    assert told.count("it failed: ValueError: loss is nan") == 2
    assert "and another rank is preferred then" in told
    assert told.endswith("  ValueError: loss is nan\n")
    assert "in fit\n" in told

    for id in ("total", "behind"):
        told = explain("run", id)[1]
        assert told.startswith(f"{id} was skipped, because a function that it depends on has failed.")
        assert "('fit', 2) has failed: ValueError: loss is nan." in told
        assert "It was never called." in told
    assert "  total (skipped) <- ('fit', 2) (failed)" in told


@pytest.mark.long
def test_why_a_resume_ran_it_again_or_not(explain, failed, tmp_path):
    (tmp_path / "fixed").touch()
    assert resume(tmp_path).rc == 0
    assert "Launch 2 took over its value of launch 1." in explain("run", "('fit', 1)")[1]
    why = "Launch 2 ran it: it was not done yet (its last call, of launch 1: failed)."
    assert why in explain("run", "('fit', 2)")[1]
    assert "Launch 2 ran it: no earlier launch had begun it." in explain("run", "total")[1]

    (tmp_path / "dag.py").write_text(FAILING.replace("FACTOR * n", "FACTOR * n + 1"))
    assert resume(tmp_path).rc == 0
    assert "Launch 3 ran it: the code of 'fit' changed." in explain("run", "('fit', 1)")[1]
    assert (
        "Launch 3 ran it: its input ('fit', 0) has changed, and so have 2 more of its inputs."
        in (explain("run", "total")[1])
    )
    assert resume(tmp_path, "--rerun", "load-0").rc == 0
    reasons = {id: facts(explain, "run", id)["again"][-1]["reason"] for id in ("load-0", "('fit', 0)", "load-1")}
    assert reasons == {
        "load-0": "--rerun names it",
        "('fit', 0)": "--rerun names a function that it depends on",
        "load-1": "",
    }


def test_a_value_file_that_was_lost(explain, tmp_path, capsys):
    dag = DAG("large")
    dag.add_function(Function("large", (), bytes, [100_000]))
    for _ in range(2):
        handoff_mpi.execute_local(dag, run_dir=tmp_path / "run", keep="all")
        capsys.readouterr()  # the second launch says what it takes over
        value = facts(explain, "run", "large")["value"]
        assert value["is_there"]
        Path(value["file"]).unlink()
    told = explain("run", "large")[1]
    assert "Launch 2 ran it: the file of its value is missing or damaged." in told
    assert "which is missing" in told


def test_what_rerun_names_runs_again_until_it_is_done(explain, tmp_path):
    tables = ("run", about()), ("tasks", 0, [row("a"), row("b", inputs=[0]), row("c", inputs=[1])])
    replaced = ("again", {"--rerun names it": [0]}), ("replaced", [0, 1, 2], {})
    write_launch(tmp_path / "run", *tables, turn(3, done=[done(task, 1, 1 + task, 1) for task in range(3)]))
    fails = turn(2, done=[done(0, 1, 1, 0.5)], failed=[(1, 1, 1, RAISED, "ValueError", "no", T0 + 1.5, 0.5, -1)])
    write_launch(tmp_path / "run", *tables, *replaced, fails)
    write_launch(tmp_path / "run", *tables, ("restored", [0]), turn(2, done=[done(1, 1, 1, 0.5), done(2, 1, 1.5, 0.5)]))
    assert "Launch 3 took over its value of launch 2." in explain("run", "a")[1]
    why = "it was not done yet (its last call, of launch 2: failed)"
    assert f"Launch 3 ran it: {why}." in explain("run", "b")[1]
    why = "launch 2 was to run it again, by --rerun, and did not"
    assert f"Launch 3 ran it: {why}." in explain("run", "c")[1]


@pytest.mark.parametrize("is_recorded", [True, False])
def test_rerun_of_a_launch_that_did_not_hold_it_is_why_it_ran_again(is_recorded, explain, tmp_path):
    """An earlier version did not record that."""
    whole = ("run", about()), ("tasks", 0, [row("a"), row("b", inputs=[0]), row("c")])
    write_launch(tmp_path / "run", *whole, turn(3, done=[done(task, 1, 1 + task, 1) for task in range(3)]))
    part = ("run", about()), ("tasks", 0, [row("a")]), ("rerun_named", [0]), ("replaced", [0], {})
    write_launch(tmp_path / "run", *part, turn(1, done=[done(0, 1, 1, 1)]))
    why = "--rerun of launch 2 replaced what its value was made of"
    again = [("again", {why: [1]})] if is_recorded else []
    ends = turn(2, done=[done(1, 1, 1, 0.5), done(2, 1, 2, 0.5)])
    write_launch(tmp_path / "run", *whole, *again, ("restored", [0]), ends)
    assert f"Launch 3 ran it: {why}." in explain("run", "b")[1]
    unknown = "Launch 3 ran it: the reason is unknown: its value was lost, or --rerun has replaced it."
    assert unknown in explain("run", "c")[1]


def test_what_rerun_names_is_known_without_a_reason_in_words(explain, tmp_path):
    """An array of which elements are named, say, runs again for another reason too."""
    for mark, replaced in (b"1", []), (b"2", [("rerun_named", [0]), ("replaced", [0], {})]), (b"1", []):
        tables = ("run", about()), ("tasks", 0, [("f", mark, *row("f")[2:])])
        ends = [] if mark == b"2" else [turn(1, done=[done(0, 1, 1, 1)])]
        write_launch(tmp_path / "run", *tables, *replaced, *ends)
    assert "Launch 3 ran it: launch 2 was to run it again, by --rerun, and did not." in explain("run", "f")[1]


def test_a_value_is_taken_over_of_the_launch_that_did_the_function_as_it_is(explain, tmp_path):
    for mark, records in (b"1", [turn(1, done=[done(0, 1, 0.1, 0.1)])]), (b"2", []), (b"1", [("restored", [0])]):
        records = records or [turn(1, done=[done(0, 2, 0.1, 0.1, nbytes=9)])]
        rows = [("f", mark, *row("f")[2:])]
        write_launch(tmp_path / "run", ("run", about()), ("tasks", 0, rows), *records)
    told = explain("run", "f")[1]
    assert "Its value (8 B) is in the journal." in told and "Launch 3 took over its value of launch 1." in told


def test_what_the_newest_launch_does_not_hold_is_told_as_earlier_ones_left_it(explain, tmp_path):
    rows = [row("a"), row("b", inputs=[0]), row("c"), row("xs")]
    elements = ("array", 3, 4, []), ("elements", 3, 1, [(0, 4)], pack([None] * 4), T0 + 1, 0.5)
    ends = turn(3, done=[done(task, 1, 1 + task, 1) for task in range(3)])
    write_launch(tmp_path / "run", ("run", about()), ("tasks", 0, rows), *elements, ends)
    replaced = ("again", {"--rerun names it": [0]}), ("replaced", [0], {})
    write_launch(
        tmp_path / "run", ("run", about()), ("tasks", 0, rows[:1]), *replaced, turn(1, done=[done(0, 1, 1, 1)])
    )
    b, c, xs, one = (explain("run", id)[1].splitlines() for id in ("b", "c", "xs", "xs[1]"))
    why = "--rerun has replaced what its value was made of"
    assert b[0] == f"b was done, and runs again in the next launch that holds it: {why}."
    assert b[1] == "It calls f and costs cpu=1. The DAG of launch 2 does not hold it."
    assert (c[0], xs[0], xs[2]) == ("c is done.", "xs is done.", "The journal has values of 4 of its 4 elements.")
    assert one[0] == "xs[1] is done: computed on rank 1 (node1) in launch 1."


def test_pins_and_groups_tell_why_it_ran_there(explain, tmp_path):
    hosts, offers = about()["hosts"], [({"cpu": 1}, [1]), ({"cpu": 1, "gpu": 2}, [2])]
    rows = [row("pinned"), row("a"), row("b"), row("gpu", cpu=1, gpu=1), row("host")]
    write_launch(
        tmp_path / "run",
        ("run", about(strategy="LoadBalanced", offers=offers)),
        ("tasks", 0, rows),
        ("bound", {1: [0], hosts[2]: [4]}, [[1, 2]]),
        turn(0.1, [(task, 1, 2 - (task == 0)) for task in range(5)]),
        turn(1.0, (), [done(task, 2 - (task == 0), 0.2, 0.5) for task in range(5)]),
        ("end", "done", 0, False),
    )
    write_status(tmp_path / "run", status="done", exit_code=0, launch=1)
    told = {id: explain("run", id)[1].splitlines()[-1] for id in ("pinned", "a", "b", "gpu", "host")}
    at = f"It ran on rank 2 ({hosts[2]})"
    assert told == {
        "pinned": f"It ran on rank 1 ({hosts[1]}) because it is pinned to rank 1.",
        "a": f"{at} because it is collocated with b: the first of them chose the rank.",
        "b": f"{at} because it is collocated with a: the first of them chose the rank.",
        "gpu": f"{at} because no other rank offers what it costs.",
        "host": f"{at} because it is pinned to that host.",
    }


def test_a_rank_whose_process_died_was_lost_and_did_not_only_fail(explain, tmp_path):
    why = "MPI reports that its process died"
    write_launch(
        tmp_path / "run",
        ("run", about()),
        ("tasks", 0, [row("f")]),
        turn(0.1, [(0, 1, 1)]),
        ("rank", 1, "lost", why, T0 + 1),
        turn(1.0, (), (), [(0, 1, 1, DIED, DEATH, why)]),
        turn(1.1, [(0, 2, 2)]),
        turn(2.0, (), [done(0, 2, 1.2, 0.5, attempt=2)]),
        ("end", "done", 0, False),
    )
    write_status(tmp_path / "run", status="done", exit_code=0, launch=1)
    told = explain("run", "f")[1]
    assert f": its process died: {why}\n" in told
    assert "Attempt 2 of launch 1 ran on rank 2 (node2), since attempt 1 was on rank 1 (node1), which was lost." in told


def test_ranks_that_had_been_lost_could_hold_nothing(explain, tmp_path):
    write_launch(
        tmp_path / "run",
        ("run", about(ranks=3, strategy="FirstAvailable", offers=[({"cpu": 1}, [1, 2, 3])])),
        ("tasks", 0, [row("before"), row("after"), row("last")]),
        turn(0.1, [(0, 1, 1)]),
        turn(0.5, (), [done(0, 1, 0.2, 0.1)]),
        ("rank", 1, "lost", "killed", T0 + 1),
        turn(2.0, [(1, 1, 2)]),
        turn(2.5, (), [done(1, 2, 2.1, 0.1)]),
        ("rank", 3, "lost", "killed", T0 + 3),
        turn(4.0, [(2, 1, 2)]),
        turn(4.5, (), [done(2, 2, 4.1, 0.1)]),
        ("end", "done", 0, False),
    )
    write_status(tmp_path / "run", status="done", exit_code=0, launch=1)
    told = {id: explain("run", id)[1].splitlines()[-1] for id in ("before", "after", "last")}
    assert ": 3 ranks could hold its cost, and the strategy FirstAvailable chose this one: it" in told["before"]
    assert ": 2 ranks could hold its cost (1 more had been lost), and the strategy FirstAvailable" in told["after"]
    assert told["last"].endswith("no other rank offers what it costs; 2 ranks that did had been lost.")


def test_inputs_are_named_with_where_they_are_done(explain, tmp_path):
    rows = [*(row(f"in-{number}") for number in range(9)), row("sum", inputs=range(9))]
    write_launch(
        tmp_path / "run",
        ("run", about()),
        ("tasks", 0, rows),
        turn(0.1, [(task, 1, 1) for task in range(7)]),
        turn(1.0, (), [done(task, 1, 0.2, 0.5) for task in range(7)]),
        ("end", "stopped", 75, False),
    )
    write_status(tmp_path / "run", status="stopped", exit_code=75, launch=1)
    told = explain("run", "sum")[1]
    shown = ", ".join(f"in-{number} (done on rank 1 (node1))" for number in range(5))
    assert f"It takes the values of 9 functions; 7 of them are done: {shown} and 2 more.\n" in told
    assert "2 of its inputs are missing: in-7 (waiting), in-8 (waiting).\n" in told


def test_a_journal_of_an_older_version_leaves_it_unknown(explain, tmp_path):
    for launch, fingerprint in enumerate((b"1", b"2"), 1):
        write_launch(
            tmp_path / "run",
            ("run", about(launch=launch, started_s=T0 + launch)),
            ("tasks", 0, [("f", fingerprint, "f", (), {"cpu": 1})]),
            turn(launch + 0.1, [(0, 1, 1)]),
            turn(launch + 0.5, (), [done(0, 1, launch + 0.2, 0.1)]),
            ("end", "done", 0, False),
        )
    write_launch(tmp_path / "run", ("run", about()), ("tasks", 0, [row("other")]), ("end", "done", 0, False))
    told = explain("run", "f")[1]
    assert "Launch 3 had nothing to do with it: its DAG does not hold the function." in told
    assert "Launch 2 ran it: its arguments, its inputs or its code changed." in told
    assert "Attempt 1 of launch 2 ran on rank 1 (node1); the journal does not tell why." in told


def test_a_rank_that_was_lost_with_a_call_and_one_that_was_lost_with_the_value(explain, tmp_path):
    write_launch(
        tmp_path / "run",
        ("run", about()),
        ("tasks", 0, [row("f"), row("g", inputs=[0])]),
        turn(0.1, [(0, 1, 1)]),
        ("rank", 1, "lost", "it was killed by signal 9", T0 + 1),
        turn(1.0, [(0, 2, 2)], (), (), [(0, 1, 1, RANK_LOSS, "it was killed by signal 9")]),
        turn(2.0, (), [(0, 2, 2, T0 + 1, 0.5, 10**6, None, None)]),
        ("rank", 2, "lost", "silent for 60 s", T0 + 3),
        turn(3.0, [(0, 3, 0)], (), (), [(0, 2, -1, VALUE_LOSS, "its value was lost on rank 2")]),
        turn(4.0, (), [done(0, 0, 3.5, 0.25, attempt=3)]),
        ("end", "stopped", 75, False),
    )
    write_status(tmp_path / "run", status="stopped", exit_code=75, launch=1, stopped_because="its time is up")
    lines = explain("run", "f")[1].splitlines()
    assert "attempt 1, rank 1 (node1)" in lines[3]
    assert lines[3].endswith("its rank was lost: it was killed by signal 9")
    assert "Launch 1 lost its value: its value was lost on rank 2." in lines
    assert (
        "Attempt 2 of launch 1 ran on rank 2 (node2), since attempt 1 was on rank 1 (node1), which was lost." in lines
    )
    assert "`handoff-mpi logs" not in explain("run", "f")[1]
    told = explain("run", "g")[1]
    assert told.startswith("g has not run: launch 1 ended (stopped) before it could: its time is up.\n")
    assert "All its inputs are made." in told


def test_unknown_and_missing_ids(explain, failed):
    code, out, err = explain("run", "lod-1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "did you mean load-" in err
    assert "did you mean ('fit', 2)" in explain("run", "(fit, 2)")[2]
    err = explain("run", "2")[2]
    assert "; ids that contain it: load-2, ('fit', 2); `handoff-mpi graph " in err
    assert err.endswith("/run --format json` lists all ids\n")
    assert subprocess.run(
        [sys.executable, "-m", "handoff_mpi", "graph", "run", "--format", "json"],
        capture_output=True,
        cwd=failed.parent,
    ).stdout.count(b'"load-2"')
    assert explain("rum", "total")[0] == 2
    code, _, err = explain("run", "\x1b[31m\0")
    assert (code, "\x1b" in err) == (2, False)


def test_without_an_id_it_tells_what_went_wrong(explain, failed):
    code, out, err = explain("run")
    assert (code, err) == (0, "")
    directory = json.loads((failed / "status.json").read_text())["directory"]
    command = "python -m handoff_mpi run -n 3 --run-dir run --keep all --output capture dag.py"
    assert out.splitlines() == [
        "The run has failed: 5 of 8 functions are done, 1 failed, 2 skipped.",
        "('fit', 2) has failed in 2 calls: ValueError: loss is nan.",
        "  Skipped because of it: total, behind.",
        f"To resume it: {command}   (in {directory})",
        "`handoff-mpi explain run ID` explains one function.",
    ]
    told = facts(explain, "run")
    assert (told["state"], told["counts"]["skipped"], told["lost"]) == ("failed", 2, [])
    assert told["failed"] == [
        {
            "reason": "ValueError: loss is nan",
            "count": 1,
            "ids": ["('fit', 2)"],
            "calls": 2,
            "skipped_count": 2,
            "skipped": ["total", "behind"],
        }
    ]
    (failed.parent / "fixed").touch()
    assert resume(failed.parent).rc == 0
    out = explain("run")[1].splitlines()
    assert out[1] == "It was launched 2 times:"
    assert re.fullmatch(r"  launch 1, from .* for .* s on 3 ranks: it has failed", out[2])
    assert re.fullmatch(r"  launch 2, .* 1 rank: it is done; 5 of 8 functions had been done before", out[3])
    assert out[4] == "No function has failed for good, and no rank was lost."
    assert [(each["state"], each["restored"]) for each in facts(explain, "run")["launches"]] == [
        ("failed", 0),
        ("done", 5),
    ]


def write_many_failures(run_dir):
    """Write a run of nine functions, of which all but the last have failed, and one that takes all their values."""
    failures = [(number, 1, 1, RAISED, "ValueError", "odd", T0 + number, 0.5, -1) for number in range(8)]
    write_launch(
        run_dir,
        ("run", about()),
        ("tasks", 0, [*(row(f"f{number}") for number in range(9)), row("all", inputs=range(9))]),
        turn(0.1, [(number, 1, 1) for number in range(8)]),
        turn(9.0, (), (), failures),
        turn(9.1, (), (), [each[:6] for each in failures]),
        ("rank", 2, "lost", "it was killed", T0 + 9.2),
        ("end", "stopped", 75, False),
    )
    write_status(run_dir, status="stopped", exit_code=75, launch=1)


def test_without_an_id_equal_failures_are_one_and_losses_are_told(explain, tmp_path):
    write_many_failures(tmp_path / "run")
    out = explain("run")[1].splitlines()
    assert out[1] == "f0, f1, f2, f3, f4 and 3 more have failed in 8 calls: ValueError: odd."
    assert out[2] == "  Skipped because of it: all."
    assert out[3].startswith("Rank 2 (node2) was lost at ") and out[3].endswith(": it was killed.")


def test_a_skipped_function_names_what_has_failed_and_not_what_is_still_open(explain, tmp_path):
    write_many_failures(tmp_path / "run")
    out = explain("run", "all")[1]
    assert "f0 has failed: ValueError: odd." in out
    assert "f8" not in out


KILLED = """
import pathlib, time
from handoff_mpi import DAG, Function
def wait():
    while not pathlib.Path("continue").exists():
        time.sleep(0.02)
dag = DAG("killed")
first = dag.add_function(Function("wait", (), wait))
dag.add_function(Function("behind", (first,), print))
"""


@pytest.mark.long
def test_a_run_that_was_killed(explain, tmp_path):
    (tmp_path / "dag.py").write_text(KILLED)
    command = [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "run", "--progress", "lines", "dag.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while "counts" not in read_any_status(tmp_path / "run") and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "it was cut off with the launch" in explain("run", "wait")[1]
    told = explain("run", "behind")[1]
    assert told.startswith("behind has not run: launch 1 ended (died) before it could.\n")
    assert "1 of its inputs is missing: wait (waiting)." in told


@pytest.mark.long
def test_ids_of_own_classes_are_texts(explain, tmp_path):
    (tmp_path / "dag.py").write_text(
        "import dataclasses\nfrom handoff_mpi import DAG, Function\n"
        "@dataclasses.dataclass(frozen=True)\nclass Part:\n    name: str\n"
        "dag = DAG('own')\ndag.add_function(Function(Part('x'), (), abs, [1]))\n"
    )
    subprocess.run(
        [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "run", "dag.py"], cwd=tmp_path, check=True, stderr=-1
    )
    assert explain("run", "Part(name='x')")[1].startswith("Part(name='x') is done.")


# -- anybody's ---------------------------------------------------------------------------------------------


def explain_here(run_dir, id):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.main(["explain", run_dir, id])
    return code, printed.getvalue()


def test_a_colleague_reads_the_story_too(failed):
    need_root()
    make_reachable(failed.parent)
    own = explain_here(str(failed), "('fit', 2)")  # imports what a colleague may not read
    assert own[0] == 0
    assert own[1].startswith("('fit', 2) has failed: ValueError: loss is nan.")
    assert COLLEAGUE.does(explain_here, str(failed), "('fit', 2)") == own


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


HOSTILE = [
    [("run", {"hosts": {1: "\x1b[31m"}, "slots": {1: 10**12}}), ("tasks", 0, [row("f")]), turn(0.1, [(0, 1, 1)])],
    [("run", []), ("tasks", 0, [row("f")])],
    [("run", about()), ("tasks", 0, [row("f", inputs=[7])])],
    [("run", about()), ("tasks", 0, [row("f")]), ("turn", 1, 2, 3, 4)],
    [("run", about()), ("tasks", 0, [row("f")]), turn(0.1, [(99, 1, 1)]), turn(1, (), [done(99, 1, 0, 1)])],
    [("run", about()), ("tasks", 0, [("f", b"", ["no text"], (), {})]), ("end", "\x1b[2J", 0, False)],
    [("run", about(started_s=1e300)), ("tasks", 0, [row("f")]), ("bound", [], 3), ("again", {1: 2})],
    [("run", about(offers=[3], strategy=["\x1b"])), ("tasks", 0, [row("f")])],
    [(), ("unknown",), ("run", about()), ("tasks", 0, [row("f")]), ("traceback", 0, 3)],
]


@pytest.mark.parametrize("records", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_journal_costs_a_line_at_most(explain, tmp_path, records):
    write_launch(tmp_path / "run", *records)
    write_status(tmp_path / "run", status="stopped", exit_code=75, launch=1)
    (tmp_path / "run").chmod(0o777)  # so it may be anybody's
    code, out, err = explain("run", "f")
    assert code in (0, 1, 2)
    assert err.count("\n") == (0 if code == 0 else 1)
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err


def test_nothing_in_a_journal_is_called(explain, tmp_path):
    made = tmp_path / "made"
    (tmp_path / "run").mkdir(mode=0o755)
    with Journal(tmp_path / "run") as journal:
        journal.append(("run", about()))
        journal.append(("tasks", 0, [row("f"), row(("g", Bomb(str(made))))]))
        journal.append(("bomb", pickle.dumps(1), Bomb(str(made))))
        journal.commit()
    for mode in (0o755, 0o777):
        (tmp_path / "run").chmod(mode)
        assert explain("run", "f")[0] == 0
    assert not made.exists()
