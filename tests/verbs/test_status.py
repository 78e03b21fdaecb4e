"""``status``, ``runs`` and ``clean``: reading and removing what runs have left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import handoff_mpi
from handoff_mpi import DAG, Function, execute_local
from handoff_mpi.cli import main
from handoff_mpi.formatting import moment_text
from handoff_mpi.results import run_status
from handoff_mpi.results.run_status import find_states
from handoff_mpi.verbs.clean import choose, why_kept
from handoff_mpi.verbs.runs import Run, find_runs
from handoff_mpi.verbs.status_lines import status_lines
from tests.terminal import terminal  # noqa: F401

LONG = """
import pathlib, time
from handoff_mpi import DAG, Function
def wait():
    while not pathlib.Path("continue").exists():
        time.sleep(0.02)
dag = DAG("long")
dag.add_function(Function("wait", (), wait))
dag.add_function(Function("done", (), abs, [-1]))
"""


def finished(run_dir, count=3, failing=False):
    dag = DAG("short")
    for number in range(count):
        dag.add_function(Function(number, (), int, ["x" if failing and not number else "7"]))
    handoff_mpi.execute_local(dag, run_dir=run_dir, check=False)
    return run_dir


def write(run_dir, **fields):
    """Make a run-dir with a status of a run on another host."""
    run_dir.mkdir(parents=True, exist_ok=True)
    usual = {"status": "running", "exit_code": None, "host": "elsewhere", "pid": 1, "started_s": 1.0, "beat": 1}
    (run_dir / "status.json").write_text(json.dumps({**usual, **fields}))
    return run_dir


@pytest.fixture
def live(tmp_path):
    """A run that is running, in one process."""
    (tmp_path / "dag.py").write_text(LONG)
    command = [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "live", "--progress", "lines", "dag.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while "counts" not in run_status.read_any_status(tmp_path / "live") and time.monotonic() < end:
        time.sleep(0.05)
    yield tmp_path / "live", process
    (tmp_path / "continue").touch()
    process.kill()
    process.wait()


@pytest.mark.long
def test_a_run_that_is_running_one_that_died_and_one_that_ended(live, capsys):
    run_dir, process = live
    assert main(["status", str(run_dir)]) == 0
    told = capsys.readouterr().out
    assert "1 running" in told
    assert f"running: rank 0 is process {process.pid}" in told
    assert "'wait'" in told or "wait" in told
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["status", str(run_dir)]) == 0
    told = capsys.readouterr().out
    assert f"rank 0 (process {process.pid} on {socket.gethostname()}) has died" in told
    assert "1 running" not in told and "1 waiting" in told, "nothing runs any more"
    assert "--run-dir live" in told  # the command that resumes
    (run_dir.parent / "continue").touch()
    subprocess.run(
        [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "live", "dag.py"], cwd=run_dir.parent, check=True
    )
    assert main(["status", "--json", str(run_dir)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["exit_code"], told["done"]) == ("done", 0, 2)
    assert [(each["launch"], each["status"]) for each in told["launches_before"]] == [(1, "died")]


def test_a_short_run_that_has_failed_tells_as_much_as_a_long_one(in_process, tmp_path, capsys):
    dag = DAG("broken")
    fails = dag.add_function(Function("fails", (), lambda: time.sleep(0.02) or 1 / 0, max_retries=0))
    dag.add_function(Function("behind", (dag.add_function(Function("next", (fails,), abs)),), abs))
    execute_local(dag, run_dir=tmp_path / "run", check=False)
    assert main(["status", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "failed    fails: ZeroDivisionError" in told
    assert "skipped   next, behind: they depend on functions that have failed" in told
    assert "slowest   fails took " in told and ", and failed" in told
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["counts"]["failed"] == 1 and status["by_name"]["abs"]["skipped"] == 2


NOW = 1_770_000_100.0
LOSS = {"rank": 2, "host": "n1", "time_s": NOW - 29, "reason": "killed by SIGKILL", "returned_s": None}
LOSS |= {"reassigned": 2, "recomputed": 1, "first_reassigned": ["a", "b"], "first_recomputed": ["c"]}
TROUBLED = {
    "host": "elsewhere",
    "pid": 7,
    "functions": 9,
    "started_s": NOW - 100,
    "time_s": NOW,
    "eta_s": 80.0,
    "counts": {"done": 6, "running": 1, "waiting": 2, "retries": 1, "reassigned": 2, "recomputed": 1},
    "by_name": {"fit": {"total": 9, "done": 6, "running": 1, "failed": 0, "skipped": 0, "mean_s": 5.0}},
    "failures": [{"what": f"Error{n}", "message": "no", "count": n, "first": f"f{n}"} for n in (1, 3)],
    "lost_ranks": {"2": "killed by SIGKILL"},
    "losses": [LOSS],
    "probation": {"host n3": "calls fail there"},
    "slowest": [{"id": "a", "name": "fit", "rank": 1, "host": "n1", "duration_s": 42.0, "failed": True}],
}


def lines_of(state, **fields):
    return list(status_lines(Path("run"), state, {**TROUBLED, **fields}))


@pytest.mark.parametrize(
    ("names", "count", "told"),
    [
        (["c"], 1, "c: it depends on functions that have failed"),
        (["c", "d"], 2, "c, d: they depend on functions that have failed"),
        (["post"], 4, "post: it depends on functions that have failed"),  # an array with four elements
        ([*"abcdefgh", "z"], 40, "a, b, c, d, ... and z: they depend on functions that have failed"),
        ([], 3, None),
        ("x", 3, None),
        (["x"], 0, "x: it depends on functions that have failed"),  # a fold of which no block has come
    ],
)
def test_what_was_skipped_is_named(names, count, told):
    found = lines_of("failed", skipped_ids=names, counts={"skipped": count})
    lines = [text for name, text in found if name == "skipped"]
    assert lines == ([] if told is None else [told])


def test_each_question_has_a_line():
    when = moment_text
    assert lines_of("running") == [
        ("state", "running: rank 0 is process 7 on elsewhere"),
        ("end", f"in about 1 min 20 s, at {when(NOW + 80)}"),
        ("failed", "f1: Error1: no"),
        ("failed", "f3 and 2 more: Error3: no"),
        (
            "lost",
            f"rank 2 (n1) at {when(NOW - 29)}, 1 min 11 s after the start: killed by SIGKILL; "
            "2 calls reassigned to other ranks (a, b); 1 value computed again (c)",
        ),
        ("probation", "host n3: calls fail there"),
        ("slowest", "a took 42 s on rank 1 (n1), and failed"),
        ("files", "run"),
    ]
    told = dict(lines_of("died", resume="again", directory="/home"))
    died = "rank 0 (process 7 on elsewhere) has died before the run ended"
    assert told["state"] == f"{died}; its last report is of {when(NOW)}"
    assert "end" not in told and told["resume"] == "again   (in /home)"


def test_a_loss_by_which_nothing_runs_again_and_a_rank_that_returned():
    quiet = {**LOSS, "reassigned": 0, "recomputed": 0, "returned_s": NOW}
    told = dict(lines_of("running", losses=[quiet]))["lost"]
    assert told.endswith(f"killed by SIGKILL; nothing runs again; it returned at {moment_text(NOW)}")
    assert dict(lines_of("running", losses=None))["lost"] == "rank 2: killed by SIGKILL", "as older versions tell it"


def test_what_earlier_launches_lost_follows():
    told = [text for name, text in lines_of("done", lost_ranks_before={"1": {"3": "killed"}}) if name == "lost"]
    assert told[1:] == ["rank 3 in launch 1: killed"]
    for value in ODD:
        assert lines_of("done", lost_ranks_before=value)
        assert lines_of("done", lost_ranks_before={"1": value})


def test_earlier_launches_are_listed_with_how_they_ended(tmp_path):
    before = [
        {"launch": 1, "status": "died", "started_s": NOW - 60},
        {"launch": 2, "status": "failed", "started_s": None},
    ]
    told = [text for name, text in lines_of("done", launches_before=before) if name == "earlier"]
    assert told == [f"launch 1, begun at {moment_text(NOW - 60)}: died before it ended", "launch 2: failed"]
    before = [{"launch": number, "status": "failed"} for number in range(3, 8)]
    told = [text for name, text in lines_of("done", launches_before=before) if name == "earlier"]
    assert told[0] == "launch 3: failed" and told[5:] == ["and 2 earlier ones"]
    for value in ODD:
        assert lines_of("done", launches_before=value)
        assert lines_of("done", launches_before=[{"launch": value, "status": value, "started_s": value}])


def test_an_end_that_is_unknown_says_what_is_not_measured():
    rows = {f"f{n}": {"total": 2, "done": 0, "mean_s": None} for n in range(5)}
    told = dict(lines_of("running", eta_s=None, by_name=rows))["end"]
    assert told == "unknown, since no call of f0, f1, f2 and 2 more has ended yet"
    told = dict(lines_of("running", eta_s=None, eta_at_least_s=5.0, by_name={"f0": rows["f0"]}))["end"]
    assert told == f"in at least 5.0 s, at {moment_text(NOW + 5)} or later; no call of f0 has ended yet"
    assert dict(lines_of("running", eta_s=None, by_name={}))["end"] == "unknown yet"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_loss_is_shown_once_and_lines_fit_the_terminal(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    run_dir = write(tmp_path / "run", **TROUBLED, status="failed", exit_code=1)
    assert main(["status", str(run_dir)]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= columns
    assert " ".join(told.split()).count("killed by SIGKILL") == 1
    assert "busy" not in told


@pytest.mark.long
def test_watching_shows_all_answers_on_a_small_terminal(terminal, tmp_path):  # noqa: F811
    rows = {f"f{number}": {"total": 2, "done": 1, "running": 1, "mean_s": 1.0} for number in range(40)}
    counts = {**TROUBLED["counts"], "failed": 1, "skipped": 1}  # so many that they take two rows
    host = {"host": socket.gethostname(), "pid": os.getpid(), "started_s": time.time()}
    write(tmp_path / "run", **{**TROUBLED, **host, "by_name": rows, "counts": counts})
    shown = terminal("-m", "handoff_mpi", "status", "--watch", "run", columns=80, lines=24)
    shown.until(lambda: "files" in shown.text)
    lines = shown.text.split("\n")
    words = {line.split(" ")[0] for line in lines}
    assert words >= {"end", "lost", "slowest", "files", "6"}, shown.text
    assert any(each.startswith("and ") and each.endswith("more") for each in map(str.rstrip, lines))
    write(tmp_path / "run", **TROUBLED, status="done", exit_code=0)
    assert shown.end() == 0


ODD = [None, "text", -1, float("nan"), float("inf"), 1e300, [], {}, [1], {"a": 1}, {"a": {"total": "x"}}, [{}], True]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_lines_of_a_status_that_holds_anything(value):
    for name in (*TROUBLED, "stopped_because", "exit_code"):
        for state in ("running", "died", "failed"):
            assert all("\n" not in text for _, text in lines_of(state, **{name: value}))
    for name in LOSS:
        assert dict(lines_of("running", losses=[{**LOSS, name: value}]))["lost"]
    for name in ("id", "rank", "host", "duration_s"):
        assert dict(lines_of("done", slowest=[{name: value}]))["slowest"]


def test_watching_ends_with_the_run(live):
    run_dir, _ = live
    command = [sys.executable, "-m", "handoff_mpi", "status", "--watch", str(run_dir)]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watch.poll() is None
    (run_dir.parent / "continue").touch()
    out, _ = watch.communicate(timeout=30)
    assert watch.returncode == 0
    assert "done, exit code 0" in out


def test_of_another_host_a_run_lives_while_its_counter_goes_up(tmp_path):
    run_dirs = [write(tmp_path / name, beat=5) for name in ("alive", "dead", "ends", "torn")]
    looks = iter(range(1000))

    def sleep(seconds):
        look = next(looks)
        if look == 2:
            write(tmp_path / "alive", beat=6)
            write(tmp_path / "ends", beat=6, status="failed", exit_code=1)
            (tmp_path / "torn" / "status.json").write_text('{"sta')
        time.sleep(0.001)

    states = {path.name: state for path, (state, _) in find_states(run_dirs, 0.3, sleep).items()}
    assert states == {"alive": "running", "dead": "died", "ends": "failed", "torn": "died"}


DAMAGED = [
    *("", "[1]", '{"status": 7', "null"),
    '{"counts": [], "lost_ranks": 5, "by_name": "x", "hosts": {"h": 3}, "exit_code": 1}',
    '{"exit_code": {}, "started_s": "soon", "longest": [[], {"id": 1, "started_s": "x"}], "functions": -1e999}',
    '{"status": "\\u001b[31mred", "exit_code": 0, "dag_id": "\\u0000\\u202e", "resume": 7, "directory": []}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_status_costs_a_line(tmp_path, capsys, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text(text)
    code = main(["status", str(tmp_path / "run")])
    told = capsys.readouterr()
    assert code in (0, 2)
    assert "Traceback" not in told.err
    assert "\x1b" not in told.out + told.err
    assert main(["runs", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_runs_are_listed_the_newest_first_with_what_resumes_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "handoff-runs" / "one")
    finished(tmp_path / "handoff-runs" / "two", failing=True)
    (tmp_path / "handoff-runs" / "other").mkdir()
    (tmp_path / "handoff-runs" / "link").symlink_to(tmp_path / "handoff-runs" / "one")
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "handoff-runs/two", "to", "handoff-runs/one"]
    assert "failed" in lines[1]
    assert "2/3" in lines[1]
    assert "run_dir='handoff-runs/two'" in lines[2]
    assert main(["runs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(run["state"], run["functions"]) for run in told] == [("failed", 3), ("done", 3)]
    finished(tmp_path / "three")
    assert main(["runs"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:2]] == ["run", "three"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.startswith("there are no runs in handoff-runs and in the current directory; ")


def run(name, began_s, **about):
    usual = {"state": "done", "status": {}, "nbytes": 1, "is_own": True}
    return Run(Path(name), began_s=began_s, **{**usual, **about})


def test_only_ended_runs_of_the_user_are_chosen():
    runs = [
        run("refused", 95.0, state="refused"),
        run("newest", 90.0),
        run("live", 80.0, state="running"),
        run("foreign", 70.0, is_own=False),
        run("closed", 60.0, state="unreadable"),
        run("died", 50.0, state="died"),
        run("old", 10.0),
    ]
    assert [each.path.name for each in choose(runs, 0, None, 100.0)] == ["refused", "newest", "died", "old"]
    assert [each.path.name for each in choose(runs, 1, None, 100.0)] == ["refused", "died", "old"]
    assert [each.path.name for each in choose(runs, None, 50.0, 100.0)] == ["died", "old"]
    assert [each.path.name for each in choose(runs, 5, 50.0, 100.0)] == ["old"]
    others = "1 run is running, 1 run is not yours, 1 run is unreadable"
    assert why_kept(runs, 0, None, 100.0) == others
    told = "2 runs are younger than --older says, 1 run is running, 1 run is not yours, 1 run is unreadable"
    assert why_kept(runs, None, 50.0, 100.0) == told
    assert why_kept(runs[1:3], 2, None, 100.0) == "1 run is among the newest ones, which --keep keeps, 1 run is running"
    assert why_kept([], 0, None, 100.0) == ""


def test_what_is_removed_is_shown_first_and_needs_a_yes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    above = tmp_path / "handoff-runs"
    for name in ("one", "two", "three"):
        finished(above / name)
    status = json.loads((above / "two" / "status.json").read_text())
    (above / "two" / "status.json").write_text(json.dumps({**status, "arrays": 1}))
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115, PTH123
    assert main(["clean", "--keep", "1"]) == 2
    told = capsys.readouterr()
    assert "one  done, 3/3 functions done" in told.out and "two  done, 3/3 calls done" in told.out
    assert "use --yes" in told.err
    assert main(["clean", "--older", "1d", "--yes"]) == 0
    assert capsys.readouterr().out == "no run is to be removed: 3 runs are younger than --older says\n"
    assert main(["clean", "--keep", "1", "--yes"]) == 0
    assert [path.name for path in above.iterdir()] == ["three"]


def test_other_files_and_links_are_left_alone(tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    finished(tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "mine" / "thesis.tex").touch()
    finished(tmp_path / "runs" / "linked")
    (tmp_path / "runs" / "linked" / "values").rename(tmp_path / "values")
    (tmp_path / "runs" / "linked" / "values").symlink_to(outside)
    assert main(["clean", str(tmp_path / "runs"), "--keep", "0", "--yes"]) == 1
    told = capsys.readouterr()
    assert "mine is kept: it holds other files (thesis.tex)" in told.err
    assert "1 run was removed, 1 is kept" in told.out
    assert (tmp_path / "runs" / "mine" / "journal").exists()
    assert (outside / "precious").exists()


@pytest.mark.long
def test_a_live_run_is_never_removed(live, capsys):
    run_dir, _ = live
    assert main(["clean", str(run_dir.parent), "--keep", "0", "--yes"]) == 0
    assert capsys.readouterr().out == "no run is to be removed: 1 run is running\n"
    assert find_runs(str(run_dir.parent))[0].is_live


@pytest.mark.parametrize("words", ["clean", "clean --older soon", "clean --keep -1", "runs nowhere"])
def test_wrong_usage_is_told_in_a_line(words, capsys):
    assert main(words.split()) == 2
    assert capsys.readouterr().err.count("\n") == 1
