"""A run as a Chrome trace and as a table."""

from __future__ import annotations

import gzip
import json

import pytest

from handoff_mpi import cli
from handoff_mpi.results.story_reader import read_story
from handoff_mpi.verbs import report as verb
from handoff_mpi.visualization.trace import COLUMNS, table_pieces, trace_pieces
from tests.results.made_journal import write_large
from tests.visualization.test_report import HOSTILE, SHOWN, write_small


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("small") / "run"
    write_small(run_dir)
    return read_story(run_dir)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("large") / "run"
    write_large(run_dir, 4000, 6, 3)
    return read_story(run_dir)


def events_of(story):
    trace = json.loads(b"".join(trace_pieces(story)))
    return trace["traceEvents"]


def slices_of(events, category):
    return [each for each in events if each["ph"] == "X" and each["cat"] == category]


def test_each_call_is_a_slice_on_the_thread_of_its_slot(small):
    events = events_of(small)
    names = {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == "thread_name"}
    processes = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    assert processes[1] == "run run"
    assert processes[3].startswith("rank 1 (")
    calls = slices_of(events, "call")
    assert len(calls) == len(small.calls)
    assert {names[each["pid"], each["tid"]] for each in calls} <= {"slot 0", "slot 1"}
    first = calls[0]
    assert (first["name"], first["ts"], first["dur"], first["args"]["id"]) == ("load", 1e6, 2e6, "load")
    outcomes = [each["args"]["outcome"] for each in calls]
    assert sorted(outcomes) == ["cut off", "cut off", "done", "done", "done", "failed", "failed", "rank lost"]
    failed = [each for each in calls if each["args"]["outcome"] == "failed"]
    assert [each["name"] for each in failed] == [SHOWN, SHOWN]
    assert HOSTILE not in str(events)
    assert [(each["name"], each["args"]["verdict"]) for each in slices_of(events, "launch")] == [
        ("launch 1", "died"),
        ("launch 2", "failed"),
    ]
    assert [each["name"] for each in events if each["ph"] == "i"] == ["rank 2 lost"]


def test_arrows_go_from_the_call_that_made_a_value_to_those_that_took_it(small):
    events = events_of(small)
    begins = {each["id"]: each for each in events if each["ph"] == "s"}
    ends = {each["id"]: each for each in events if each["ph"] == "f"}
    assert begins.keys() == ends.keys()
    arrows = {(begins[id]["pid"], ends[id]["pid"]) for id in begins}
    assert (3, 4) in arrows, "from rank 1 to rank 2"


@pytest.mark.parametrize("which", ["small", "large"])
def test_perfetto_can_nest_it(which, request):
    events = events_of(request.getfixturevalue(which))
    for each in events:
        assert isinstance(each["pid"], int)
        assert isinstance(each.get("tid", 0), int)
        assert each.get("dur", 0) >= 0
    ends: dict[tuple[int, int], float] = {}
    for each in sorted((each for each in events if each["ph"] == "X"), key=lambda each: each["ts"]):
        thread = each["pid"], each["tid"]
        assert each["ts"] >= ends.get(thread, -1e18) - 0.11, "slices of a thread do not overlap"
        ends[thread] = each["ts"] + each["dur"]
    calls = {(each["pid"], each["tid"], each["ts"]): each for each in events if each["ph"] == "X"}
    for each in events:
        if each["ph"] == "f":
            assert (each["pid"], each["tid"], each["ts"]) in calls
    opened = [(each["cat"], each["id"]) for each in events if each["ph"] == "b"]
    assert len(set(opened)) == len(opened)
    assert opened == [(each["cat"], each["id"]) for each in events if each["ph"] == "e"]


def test_the_table_has_a_row_a_call_in_columns_of_nextflow(small):
    head, *rows = b"".join(table_pieces(small)).decode().splitlines()
    assert head.split("\t") == list(COLUMNS)
    cells = [dict(zip(COLUMNS, row.split("\t"), strict=True)) for row in rows]
    assert len(cells) == len(small.calls)
    first = cells[0]
    assert (first["name"], first["status"], first["exit"], first["realtime"]) == ("load", "COMPLETED", "0", "2000")
    assert (first["cpus"], first["memory"], first["duration"], first["nbytes"]) == ("1", "-", "2000", "1000000")
    failed = [each for each in cells if each["status"] == "FAILED"]
    assert [(each["name"], each["memory"], each["error_action"]) for each in failed] == [
        (SHOWN, "100000000", "RETRY"),
        (SHOWN, "100000000", "IGNORE"),
    ]
    assert {each["status"] for each in cells} == {"COMPLETED", "FAILED", "ABORTED"}


def test_a_large_trace_is_compressed(tmp_path, monkeypatch, capsys):
    write_large(tmp_path / "run", 400, 2)
    monkeypatch.setattr(verb, "MAX_CALLS", 100)
    assert cli.main(["report", str(tmp_path / "run"), "--trace"]) == 0
    path = tmp_path / "run" / "trace.json.gz"
    assert str(path) in capsys.readouterr().out
    calls = slices_of(json.loads(gzip.decompress(path.read_bytes()))["traceEvents"], "call")
    assert len(calls) == len(read_story(tmp_path / "run").calls)
