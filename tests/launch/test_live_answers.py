"""The answers of rank 0 to questions of ``explain``, and the questions that are about another run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from handoff_mpi.launch.live_answers import answer

PLAN = SimpleNamespace(ids=["load", ("fit", 1)])
QUESTION = {"task": 1, "id": "('fit', 1)", "launch": 3}


class Scheduler:
    def explain(self, task, label):
        return {"state": "waiting", "label": label(task)}


def test_the_answer_has_its_launch_and_time_and_what_the_scheduler_explains():
    told = answer(QUESTION, 3, PLAN, Scheduler(), 5.0)
    assert told == {"launch": 3, "time_s": 5.0, "state": "waiting", "label": "('fit', 1)"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"launch": 2}, "another launch"),
        ({"launch": None}, "another launch"),
        *[({"task": task}, "no such function") for task in (0, 2, -1, True, "1", None)],
        *[({"id": id}, "no such function") for id in ("load", None, ("fit", 1))],
    ],
)
def test_questions_about_what_is_not_there_are_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        answer({**QUESTION, **change}, 3, PLAN, Scheduler(), 5.0)
