"""Lines of progress: when they are printed, and what they say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import handoff_mpi
from handoff_mpi import DAG, Function
from handoff_mpi.formatting import duration_text, rate_text
from handoff_mpi.runtime import progress_lines
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.progress_lines import ProgressLines, ProgressThread, progress_line

COUNTS = {"waiting": 60, "ready": 8, "running": 3, "done": 28, "failed": 1, "skipped": 0, "retries": 4}
STATUS = {"functions": 100, "counts": COUNTS, "rate_per_s": 2.5, "eta_s": 27.0, "longest": [], "lost_ranks": {}}
NOW = 1_770_000_000.0


def test_lines_come_after_10_s_and_then_at_growing_intervals():
    said = []
    lines = ProgressLines(said.append, NOW)
    printed_at = []
    for second in range(2000):
        lines.look(STATUS, NOW + second)
        if len(said) > len(printed_at):
            printed_at.append(second)
    assert printed_at == [10, 30, 70, 150, 310, 610, 910, 1210, 1510, 1810]


def test_a_line_tells_counts_rate_and_time_left():
    line = progress_line(STATUS, NOW).partition(" ")[2].partition(" ")[2]
    what = "28 of 100 functions done, 3 running, 68 waiting, 1 failed, 4 failures retried; 2.5/s, about 27 s left"
    assert line == what
    assert "28 of 100 calls done" in progress_line({**STATUS, "arrays": 1}, NOW), "elements are counted"
    growing = progress_line({**STATUS, "arrays": 1, "may_grow": True}, NOW)
    assert "28 of 100+ calls done" in growing, "more elements may come"


def test_a_time_left_that_nobody_knows_is_unknown():
    assert progress_line({**STATUS, "eta_s": None, "rate_per_s": 0.0}, NOW).endswith("retried; time left unknown")
    least = {"eta_s": None, "eta_at_least_s": 90.0, "rate_per_s": 0.0}
    assert progress_line({**STATUS, **least}, NOW).endswith("; at least 1 min 30 s left")
    rows = {
        "load": {"total": 9, "done": 8, "mean_s": 90.0},
        "fit": {"total": 9, "done": 0, "skipped": 1, "mean_s": None},
        "odd": "?",
        "odder": {"total": "x", "mean_s": None},
    }
    told = progress_line({**STATUS, **least, "by_name": rows}, NOW)
    assert told.endswith("; at least 1 min 30 s left, and 8 functions of unknown duration")
    assert progress_line({**STATUS, **least, "by_name": rows, "arrays": 2}, NOW).endswith("8 calls of unknown duration")
    for odd in (float("nan"), -1.0, 1e300, "soon", None):
        assert progress_line({**STATUS, "eta_s": odd, "rate_per_s": 0.0}, NOW).endswith("time left unknown")


def test_a_long_call_and_places_in_trouble_are_named():
    call = {"id": "'fit'", "rank": 3, "host": "n1", "attempt": 1, "started_s": NOW - 751}
    lost = {"2": "killed", "5": "killed", "7": "", "8": "", "9": ""}
    line = progress_line({**STATUS, "longest": [call], "lost_ranks": lost, "probation": {"n\x1b3": "fails"}}, NOW)
    assert "; longest call: 'fit' on rank 3 (n1) for 12 min 31 s; " in line
    assert line.endswith("; ranks 2, 5, 7 and 2 more lost; n\\x1b3 on probation")
    assert line.isprintable()
    assert "longest" not in progress_line({**STATUS, "longest": [{**call, "started_s": NOW - 5}]}, NOW)


def wait_for(path):
    end = time.monotonic() + 20
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("run_dir", [False, "run"])
def test_a_line_is_printed_while_a_function_runs_in_one_process(run_dir, monkeypatch, tmp_path):
    said = []

    def say(line):
        said.append(line)
        if "running" in line:
            (tmp_path / "said").touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress_lines, "FIRST_INTERVAL_S", 0.1)
    monkeypatch.setattr(progress_lines, "PROGRESS_CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr("handoff_mpi.launch.run_reporter._MIN_REPORTED_RUN_S", 0.05)
    monkeypatch.setattr("handoff_mpi.launch.run_reporter.print_message", say)
    dag = DAG("long")
    dag.add_function(Function("wait", (), wait_for, [str(tmp_path / "said")]))
    handoff_mpi.execute_local(dag, progress="lines", run_dir=run_dir)
    assert any("0 of 1 functions done, 1 running; time left unknown" in line for line in said)


def test_a_table_that_changes_while_a_line_is_made_is_read_again(monkeypatch):
    said, tables = [], iter([{**STATUS, "functions": 1}, RuntimeError("dictionary changed size during iteration")])

    def status():
        found = next(tables, STATUS)
        if isinstance(found, RuntimeError):
            raise found
        return found

    lines = ProgressLines(said.append, clock() - 11)
    next(tables)
    monkeypatch.setattr(progress_lines, "PROGRESS_CHECK_INTERVAL_S", 0.01)
    thread = ProgressThread(lambda now: lines.look(status(), now))
    thread.start()
    end = time.monotonic() + 20
    while not said and time.monotonic() < end:
        time.sleep(0.01)
    thread.close()
    assert not thread.is_alive()
    assert len(said) == 1


def test_a_status_without_counts_makes_a_line_too():
    assert "0 of 7 functions done; time left unknown" in progress_line({"functions": 7}, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min")],
        *[(200, "3 min 20 s"), (3599.7, "1 h"), (18120, "5 h 2 min"), (86400 * 3 + 14400, "3 d 4 h"), (-1, "0.0 s")],
    ],
)
def test_durations_are_shown_in_their_two_largest_units(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("per_s", "text"), [(1234, "1,234/s"), (2.5, "2.5/s"), (0.5, "30/min"), (0.01, "36/h")])
def test_rates_have_the_unit_that_gives_a_readable_number(per_s, text):
    assert rate_text(per_s) == text
