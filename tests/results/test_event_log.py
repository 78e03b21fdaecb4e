"""events.jsonl: whole lines after any failure, few of what is alike, and a table of all there is."""

from __future__ import annotations

import errno
import json
import os
import re
import threading

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.results import event_log
from handoff_mpi.results.event_log import EVENT_FIELDS, MAX_ALIKE, EventLog, clear_events
from handoff_mpi.results.secure_files import open_directory
from handoff_mpi.results.usage_samples import read_usage
from tests.conftest import ROOT

NOW = 1_790_000_000.1234


@pytest.fixture
def run_dir(tmp_path):
    with open_directory(tmp_path / "run", makes=True) as directory:
        yield directory


def lines(run_dir):
    return [json.loads(line) for line in run_dir.read("events.jsonl").decode().splitlines()]


def test_each_event_is_a_line(run_dir):
    log = EventLog(run_dir, 3)
    log.add("rank.lost", NOW, rank=1, host="n1", reason="killed\nby\x1b[31m SIGKILL")
    log.add("function.failed", NOW, id=("fit", 2), traceback="a\nb", reason="x" * 10_000)
    log.flush()
    lost, failed = lines(run_dir)
    assert lost["event"] == "rank.lost" and lost["launch"] == 3 and lost["time_s"] == 1_790_000_000.123
    assert "\n" not in lost["reason"] and "\x1b" not in lost["reason"]
    assert failed["id"] == "('fit', 2)" and failed["traceback"] == "a\nb" and len(failed["reason"]) <= 500
    log.close(NOW)


def test_nothing_is_written_before_there_is_something(run_dir):
    log = EventLog(run_dir, 1)
    log.flush()
    log.close(NOW)
    assert run_dir.status("events.jsonl") is None


def test_a_line_that_an_earlier_launch_did_not_finish_is_ended(run_dir):
    run_dir.write("events.jsonl", b'{"event": "run.start"}\n{"event": "rank.l')
    log = EventLog(run_dir, 2)
    log.add("run.start", NOW)
    log.close(NOW)
    first, torn, last = run_dir.read("events.jsonl").decode().splitlines()
    assert json.loads(first) and json.loads(last)["launch"] == 2 and torn == '{"event": "rank.l'


def test_of_what_is_alike_some_are_written_and_the_rest_are_counted(run_dir):
    log = EventLog(run_dir, 1)
    for number in range(1000):
        log.add("function.failed", NOW, ("ValueError", "dag.py:3"), id=number)
    log.add("function.failed", NOW, ("KeyError", "dag.py:3"), id="other")
    log.close(NOW)
    told = lines(run_dir)
    assert [each["event"] for each in told] == ["function.failed"] * (MAX_ALIKE + 1) + ["events.omitted"]
    assert told[-1]["of"] == "function.failed" and told[-1]["count"] == 1000 - MAX_ALIKE


def test_the_file_is_bounded(run_dir, monkeypatch):
    monkeypatch.setattr(event_log, "MAX_NBYTES", 1000)
    log = EventLog(run_dir, 1)
    for number in range(1000):
        log.add("rank.suspect", NOW, rank=number)
    log.close(NOW)
    told = lines(run_dir)
    assert told[-1]["event"] == "events.full" and len(run_dir.read("events.jsonl")) < 1200


def test_samples_leave_room_for_events(run_dir, monkeypatch):
    monkeypatch.setattr(event_log, "MAX_USAGE_NBYTES", 500)
    log = EventLog(run_dir, 1)
    for second in range(100):
        log.add("host.usage", NOW + second, host="n1", cores=4, cpu_percent=50.0, memory_used_mb=100.0)
    log.add("run.stop", NOW)
    log.close(NOW)
    assert lines(run_dir)[-1]["event"] == "run.stop" and len(lines(run_dir)) < 10
    samples = read_usage(run_dir.path)[1, "n1"]
    assert samples.cpu[0] == 2.0 and samples.memory[0] == 100.0


def test_a_full_disk_is_said_once_and_leaves_whole_lines(run_dir, monkeypatch, capsys):
    log, real = EventLog(run_dir, 1), os.write
    log.add("rank.lost", NOW, rank=1)
    log.flush()

    def write(fd, content):
        if len(content) > 20:
            return real(fd, content[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    for rank in (2, 3):
        log.add("rank.lost", NOW, rank=rank)
        log.flush()
    monkeypatch.setattr(os, "write", real)
    log.add("rank.lost", NOW, rank=4)
    log.close(NOW)
    assert [each["rank"] for each in lines(run_dir)] == [1, 2, 3, 4]
    assert capsys.readouterr().err.count("events.jsonl cannot be written: No space left on device") == 1


def test_what_cannot_be_removed_is_said(run_dir):
    (run_dir.path / "events.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"cannot remove .*events\.jsonl: Is a directory; remove it"):
        clear_events(run_dir)


def test_no_line_is_lost_between_threads(run_dir):
    log = EventLog(run_dir, 1)

    def add():
        for number in range(2000):
            log.add("host.usage", NOW, cores=number)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log.flush()
    log.close(NOW)
    assert len(lines(run_dir)) == 6000


def test_a_link_in_its_place_is_not_followed(run_dir, tmp_path, capsys):
    (tmp_path / "victim").write_text("mine\n")
    (run_dir.path / "events.jsonl").symlink_to(tmp_path / "victim")
    log = EventLog(run_dir, 1)
    log.add("run.start", NOW)
    log.close(NOW)
    assert (tmp_path / "victim").read_text() == "mine\n"
    assert "events.jsonl" in capsys.readouterr().err


def test_lines_about_single_functions_can_be_left_out(run_dir):
    log = EventLog(run_dir, 1, has_functions=False)
    log.add("function.retry", NOW, id=1)
    log.add("rank.lost", NOW, rank=1)
    log.close(NOW)
    assert [each["event"] for each in lines(run_dir)] == ["rank.lost"]
    clear_events(run_dir)
    assert run_dir.status("events.jsonl") is None


def test_the_manual_has_a_row_for_each_event():
    text = (ROOT / "handoff_mpi" / "manual" / "telemetry.md").read_text()
    rows = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|[^|]*\| (.*) \|$", text, re.M)
    assert {name: tuple(re.findall(r"`(\w+)`", fields)) for name, fields in rows} == EVENT_FIELDS
