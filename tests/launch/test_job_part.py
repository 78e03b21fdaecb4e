"""The parts of a run whose Slurm job is requeued: when a signal counts, and when another part makes sense."""

from __future__ import annotations

import pytest

from handoff_mpi.launch import job_part
from handoff_mpi.launch.deadline import grace_within, is_early
from handoff_mpi.launch.job_part import JobPart


@pytest.mark.parametrize(
    ("asked_s", "left_s", "grace_s"), [(90, 60, 15), (10, 60, 10), (10, 3600, 10), (90, -5, 0), (90, None, 90)]
)
def test_calls_get_at_most_a_quarter_of_the_time_to_end_in(asked_s, left_s, grace_s):
    assert grace_within(asked_s, 1000.0, None if left_s is None else 1000.0 + left_s) == grace_s


@pytest.mark.parametrize(
    ("limit_s", "left_s", "expected"),
    [(60, 50, True), (60, 14, False), (300, 120, True), (300, 70, False), (3600, 3500, False), (None, None, False)],
)
def test_a_signal_at_the_start_of_a_short_job_is_early(limit_s, left_s, expected):
    end = None if limit_s is None else 1000.0 + limit_s
    assert is_early(1000.0 if end is None else end - left_s, 1000.0, end) is expected


def test_slurm_is_asked_once_for_the_end(monkeypatch):
    asked = []
    monkeypatch.setattr(job_part, "resolve_deadline", lambda *given: asked.append(given))
    part = JobPart(0)
    assert not part.is_early_signal() and not part.is_early_signal()
    assert len(asked) == 1


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Play Slurm's command, in a job that was requeued once; return what it was asked for."""
    told = tmp_path / "told"
    text = f'#!/bin/sh\n[ ! -e "{tmp_path}/deny" ] || {{ echo "no such job" >&2; exit 1; }}\necho "$@" > "{told}"\n'
    (tmp_path / "scontrol").write_text(text)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    return told


def part_of(max_requeues, restored):
    part = JobPart(max_requeues)
    part.look({})
    part.look({"restored": restored})
    part.look({"restored": 9})  # of a later launch
    return part


def test_a_part_that_did_something_is_followed_by_another(scontrol, capsys):
    part_of(5, 4).requeue({"done": 5})
    assert scontrol.read_text() == "requeue 7\n"
    assert capsys.readouterr().err == "handoff: the job is requeued (2 of at most 5) and resumes\n"


@pytest.mark.parametrize("status", [{"done": 4}, {}], ids=["as before", "not begun"])
def test_a_part_that_did_nothing_is_the_last(scontrol, capsys, status):
    part_of(5, 4).requeue(status)
    assert not scontrol.exists()
    assert "the job is not requeued: no function was done since it started" in capsys.readouterr().err


def test_a_job_is_not_requeued_without_end(scontrol, capsys):
    part_of(1, 0).requeue({"done": 5})
    assert not scontrol.exists()
    assert "it was 1 times (--max-requeues 1); the same command resumes" in capsys.readouterr().err


def test_a_job_that_slurm_does_not_requeue_is_told_of(scontrol, tmp_path, capsys):
    (tmp_path / "deny").touch()
    part_of(5, 0).requeue({"done": 5})
    assert "the job cannot be requeued: no such job; the same command resumes" in capsys.readouterr().err


@pytest.mark.parametrize("without", ["max_requeues", "SLURM_JOB_ID"])
def test_nothing_is_requeued_that_was_not_asked_for_or_is_no_job(scontrol, monkeypatch, capsys, without):
    monkeypatch.delenv(without, raising=False)
    part_of(0 if without == "max_requeues" else 5, 0).requeue({"done": 5})
    assert not scontrol.exists()
    assert capsys.readouterr().err == ""
