"""The live view draws a status, and needs nothing else."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from handoff_mpi.visualization.live_view import MAX_ROWS, Painter, plain, rows_for
from tests.visualization.fake_status import NOW, fake_status


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def drawn(status, width=80, height=50, silent_s=0.0):
    return plain(Painter().lines(status, NOW, width, rows_for(height), silent_s)).split("\n")


@pytest.mark.parametrize("width", [20, 40, 50, 70, 80, 110, 200])
@pytest.mark.parametrize("height", [8, 24, 50, 100])
@pytest.mark.parametrize(
    "status", [fake_status(30, hosts=1, gpus=0, names=3), fake_status(names=50, hosts=100, lost=9)]
)
def test_it_fits_terminals_of_any_size(width, height, status):
    lines = drawn(status, width, height)
    assert 3 <= len(lines) <= min(MAX_ROWS, height)
    assert max(map(cell_len, lines)) <= width
    assert "spectra" in lines[0]


@pytest.mark.parametrize("width", [80, 200])
def test_it_shows_counts_names_hosts_calls_and_trouble(width):
    text = "\n".join(drawn(fake_status(), width))
    for part in (
        *("12 min 31 s, about 7 min 13 s left", "50 %", "50,000 done", "64 running", "49,934 waiting", "2 failed"),
        *("3 failures retried", "83/s", "'fit-3' and 1 more: ValueError: bad spectrum", "rank 2: its process was"),
        *("8,333/16,666", "10 running", "15/16 busy", "97 % of 16 cores", "12/64 GB", "1/2 GPUs"),
        *("'fit-0'  running for 11 min 40 s  on rank 0 (n1)", "1.7 s each"),
    ):
        assert part in text, f"{part} is missing:\n{text}"


def test_tables_that_do_not_fit_say_how_many_are_not_shown():
    text = "\n".join(drawn(fake_status(names=50, hosts=100), 200))
    names, hosts = text.count(" each"), text.count(" busy")
    assert names == hosts >= 3
    assert f"and {50 - names} more " in text
    assert f"and {100 - hosts} more " in text


def test_calls_that_run_come_before_names_that_are_done():
    lines = drawn(fake_status())
    rows = [line.split()[0] for line in lines if " each" in line]
    assert rows[0] == "fft"


def test_a_time_left_that_is_unknown_and_a_silent_rank_0_are_told():
    assert "time left unknown" in drawn({**fake_status(), "eta_s": None})[0]
    assert "no news for 20 s" in drawn(fake_status(), silent_s=20.0)[0]


def test_100_percent_means_that_nothing_is_left():
    status = fake_status(1000, failed=0)
    status["counts"].update(done=999)
    assert " 99 %" in drawn(status)[1]
    status["counts"].update(done=1000)
    assert " 100 %" in drawn(status)[1]


def ended(**counts):
    """Return the status of a run that has failed, with two names."""
    status = {**fake_status(8, hosts=1, names=2, failed=1, lost=0), "status": "failed", "exit_code": 1}
    status["counts"] = {"waiting": 1, "running": 0, "done": 5, "failed": 1, "skipped": 1, "retries": 1, **counts}
    status["by_name"] = {
        "load": {"total": 4, "running": 0, "done": 4, "failed": 0, "skipped": 0, "mean_s": 1.0},
        "catalogue": {"total": 4, "running": 0, "done": 1, "failed": 1, "skipped": 1, "mean_s": 1.0},
    }
    return status


@pytest.mark.parametrize("status", [ended(), {**ended(), "exit_code": None}])
def test_no_share_is_shown_of_a_total_that_may_grow(status):
    status["by_name"]["load"]["may_grow"] = True
    text = "\n".join(drawn({**status, "may_grow": True}, 80))
    assert "total unknown" in text
    assert "%" not in text.splitlines()[1]
    assert "4/4+ done" in text
    assert "1/4 done" in text


@pytest.mark.parametrize("width", [80, 200])
def test_a_run_that_has_failed_says_for_each_name_what_is_missing_and_shows_no_load(width):
    text = "\n".join(drawn(ended(), width))
    assert " 62 % done" in text, text
    (row,) = [line for line in text.split("\n") if line.startswith("catalogue")]
    for part in ("1/4 done", "1 failed", "1 skipped", "1 waiting"):
        assert part in row
    for part in ("busy", "97 %", "12/64"):
        assert part not in text, f"{part} is of a moment:\n{text}"
    for part in ("16 slots", "16 cores", "64 GB", "2 GPUs", "was running for"):
        assert part in text, f"{part} is missing:\n{text}"


@pytest.mark.parametrize("lost", [1, 2])
def test_the_lost_ranks_of_a_host_stand_beside_its_slots(lost):
    for status, slots in ((ended(), "16 slots"), (fake_status(8, hosts=1), "15/16 busy")):
        status["hosts"] = {"n1": {**status["hosts"]["n1"], "lost": lost}}
        text = "\n".join(drawn(status, 80))
        assert f"{slots}, {lost} rank{'s' * (lost > 1)} lost" in text, text


def test_what_was_repeated_is_named_by_its_cause():
    status = fake_status()
    status["counts"].update(retries=3, reassigned=2, recomputed=1)
    assert "3 failures retried  2 reassigned  1 recomputed" in drawn(status, 200)[2]


def test_control_characters_and_markup_stay_text():
    status = fake_status()
    status["dag_id"] = "a\x1b[31mb\n[red]c"
    status["longest"][0]["id"] = "\x1b]0;title\x07"
    lines = Painter().lines(status, NOW, 120, 16)
    text = plain(lines)
    assert "a\\x1b[31mb\\n[red]c" in text
    assert "\\x1b]0;title\\x07" in text
    assert "\x07" not in "".join(lines)


def test_without_colours_and_on_a_terminal_without_unicode(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = [line for line in Painter().lines(fake_status(), NOW, 80, 16) if "\x1b[3" in line]
    assert not coloured
    "".join(Painter("latin-1").lines(fake_status(), NOW, 80, 16)).encode("latin-1")


ODD = [None, "text", -1, float("nan"), [], {}, [1], {"a": 1}, {"a": {"total": "x"}}, [{"id": None}], True]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_status_of_another_version_is_drawn_as_far_as_it_is_understood(value):
    usual = fake_status()
    for name in usual:
        assert drawn({**usual, name: value})
    assert drawn({"counts": dict.fromkeys(usual["counts"], value)})
    assert drawn({})
    assert drawn(json.loads(json.dumps(usual)))
