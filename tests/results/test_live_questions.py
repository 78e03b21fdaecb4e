"""Questions to a run that is running: what lies there by whom, and how the run answers."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest

from handoff_mpi.errors import UntrustedFile
from handoff_mpi.results import live_questions
from handoff_mpi.results.live_questions import ANSWER_LIFETIME_S, MAX_ANSWERS, MAX_TRIES, QUESTIONS, QuestionBox, ask
from handoff_mpi.results.secure_files import open_directory

NAME = "0123456789abcdef"


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    return tmp_path / "run"


@pytest.fixture
def box(run_dir):
    with open_directory(run_dir) as directory:
        yield QuestionBox(directory)


def put(run_dir, content=b'{"task": 1}', name=f"{NAME}.question"):
    (run_dir / QUESTIONS).mkdir(mode=0o700, exist_ok=True)
    (run_dir / QUESTIONS / name).write_bytes(content)


def left(run_dir):
    return sorted(each.name for each in (run_dir / QUESTIONS).iterdir())


def echo(question):
    return {"asked": question}


def test_a_question_is_answered_and_removed(run_dir, box):
    modes = []

    def answering(question):
        modes.extend(
            stat.S_IMODE(each.stat().st_mode) for each in [run_dir / QUESTIONS, *(run_dir / QUESTIONS).iterdir()]
        )
        return echo(question)

    def run():
        while not over.wait(0.01):
            box.look(answering, 0.0)

    over = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ask(run_dir, {"task": 3, "id": "ä\x1b"}) == {"asked": {"task": 3, "id": "ä\x1b"}}
    finally:
        over.set()
        thread.join()
    assert modes == [0o700, 0o600]
    box.look(echo, 1.0)
    assert not (run_dir / QUESTIONS).exists()


def test_a_run_that_does_not_answer(run_dir):
    assert ask(run_dir, {}, timeout_s=0.1) is None
    assert left(run_dir) == []


def test_while_nobody_asks_there_is_no_directory(run_dir, box):
    box.look(echo, 0.0)
    box.clear()
    assert list(run_dir.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 4000, b'{"a": ' + b"9" * 5000, b" " * 10_000, b'{"task": 1e999}'],
)
def test_garbage_costs_an_answer_at_most(run_dir, box, content):
    put(run_dir, content)
    box.look(echo, 0.0)
    assert left(run_dir) == [f"{NAME}.answer"]
    assert isinstance(json.loads((run_dir / QUESTIONS / f"{NAME}.answer").read_text()), dict)


def test_what_is_no_file_is_not_read(run_dir, box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"secret": 1}')
    (run_dir / QUESTIONS).mkdir(mode=0o700)
    names = [f"{digit * 16}.question" for digit in "0123"]
    (run_dir / QUESTIONS / names[0]).symlink_to(secret)
    os.mkfifo(run_dir / QUESTIONS / names[1])
    (run_dir / QUESTIONS / names[2]).mkdir()
    put(run_dir, name=names[3])
    asked = []
    for now in range(3):
        box.look(lambda question: asked.append(question) or {}, float(now))
    assert asked == [{"task": 1}]
    assert secret.read_text() == '{"secret": 1}'
    assert [name for name in left(run_dir) if name.endswith(".question")] == [names[2]]


def test_what_others_could_have_written_is_not_read(run_dir, box):
    put(run_dir)
    (run_dir / QUESTIONS / f"{NAME}.question").chmod(0o666)
    asked = []
    box.look(lambda question: asked.append(question) or {}, 0.0)
    assert asked == []
    put(run_dir, name=f"{NAME[::-1]}.question")
    (run_dir / QUESTIONS).chmod(0o777)
    box.look(lambda question: asked.append(question) or {}, 1.0)
    assert asked == []
    with pytest.raises(UntrustedFile):
        ask(run_dir, {})


def test_the_directory_is_somebody_elses_link(run_dir, box, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run_dir / QUESTIONS).symlink_to(tmp_path / "elsewhere")
    put(run_dir)
    box.look(echo, 0.0)
    assert left(run_dir) == [f"{NAME}.question"]
    with pytest.raises(OSError, match="Not a directory"):
        ask(run_dir, {})


def test_a_few_questions_are_answered_at_a_time(run_dir, box):
    for number in range(3 * MAX_ANSWERS):
        put(run_dir, name=f"{number:016x}.question")
    counts = []
    for now in range(3):
        box.look(echo, float(now))
        counts.append(sum(name.endswith(".answer") for name in left(run_dir)))
    assert counts == [MAX_ANSWERS, 2 * MAX_ANSWERS, 3 * MAX_ANSWERS]


def test_what_nobody_takes_is_removed(run_dir, box):
    put(run_dir)
    put(run_dir, name=f"{NAME}.partial")
    put(run_dir, name="mine.txt")
    box.look(echo, 0.0)
    for now in (1.0, ANSWER_LIFETIME_S - 1.0):
        box.look(echo, now)
        assert left(run_dir) == [f"{NAME}.answer", f"{NAME}.partial", "mine.txt"]
    box.look(echo, ANSWER_LIFETIME_S + 1.0)
    assert left(run_dir) == ["mine.txt"]
    box.clear()
    assert not (run_dir / QUESTIONS).exists()


def test_an_answer_that_fails(run_dir, box):
    tries = []

    def changes(question):
        tries.append(1)
        raise RuntimeError("dictionary changed size during iteration")

    put(run_dir)
    for now in range(MAX_TRIES + 2):
        box.look(changes, float(now))
    assert len(tries) == MAX_TRIES
    assert "dictionary changed" in (run_dir / QUESTIONS / f"{NAME}.answer").read_text()
    put(run_dir)
    box.look(lambda question: {"a": {1, 2}}, 9.0)
    assert "TypeError" in (run_dir / QUESTIONS / f"{NAME}.answer").read_text()


def test_a_directory_that_the_run_removes_meanwhile_is_made_again(run_dir, monkeypatch):
    write, removed = live_questions._write, []

    def writes(directory, name, content):
        if not removed:
            removed.append((run_dir / QUESTIONS).rmdir())
        write(directory, name, content)

    monkeypatch.setattr(live_questions, "_write", writes)
    assert ask(run_dir, {}, timeout_s=0.0) is None
    assert removed == [None]
