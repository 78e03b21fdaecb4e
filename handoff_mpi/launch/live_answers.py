"""Answers the questions that ``explain`` asks a run that is running."""

from __future__ import annotations

from handoff_mpi.dag import Plan
from handoff_mpi.formatting import id_text, one_line
from handoff_mpi.scheduler import Scheduler

_MAX_ID_CHARS = 200


def answer(question: dict[str, object], launch: int, plan: Plan, scheduler: Scheduler, now: float) -> dict[str, object]:
    """Return why a function is not running.

    Args:
        question: its number (``task``) and text (``id``) as the journal of the ``launch`` tells them.
        launch: this one.
        now: seconds since the epoch.

    Raises:
        ValueError: it is about another launch, or no question.
    """
    task, ids = question.get("task"), plan.ids
    if question.get("launch") != launch:
        raise ValueError("another launch is running by now")
    if type(task) is not int or not 0 <= task < len(ids) or id_text(ids[task]) != question.get("id"):
        raise ValueError("this run has no such function")
    told = scheduler.explain(task, lambda each: one_line(id_text(ids[each]), _MAX_ID_CHARS))
    return {"launch": launch, "time_s": now, **told}
