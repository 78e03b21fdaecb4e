"""Asks the user's resource tracker after each placement, and tells it of each release."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from handoff_mpi.callbacks import CallbackFailed, call, shown
from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources.amounts import plain_number
from handoff_mpi.runtime.pace import clock
from handoff_mpi.scheduler import DISPATCHES, Dispatch, Event, Refused, Transition
from handoff_mpi.speech import say

_SAID_NO = "it said no"


class Tracking:
    """What the tracker has granted.

    Args:
        tracker: an object with ``request(rank, cost)`` and ``release(rank, cost)``.
    """

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._granted: dict[int, tuple[int, dict[str, int | float]]] = {}
        self._told: set[str] = set()

    def request(self, command: Dispatch, specs: Sequence[TaskSpec]) -> list[Event]:
        """Ask for what the placement needs; take out of it what was refused, and return the refusals as events."""
        refused: list[Event] = []
        granted: list[tuple[int, int]] = []
        for task, attempt in command.tasks:
            cost = {name: plain_number(amount) for name, amount in specs[task].cost.items()}
            begun = clock()
            is_granted, trouble = self._ask(command.rank, cost)
            if is_granted:
                self._granted[task] = (command.rank, cost)
                granted.append((task, attempt))
            else:
                refused.append(Refused(task, attempt, trouble or _SAID_NO, bool(trouble), clock() - begun))
        command.tasks = granted
        return refused

    def _ask(self, rank: int, cost: dict[str, int | float]) -> tuple[bool, str]:
        """Return whether the tracker grants ``cost``, and what it did instead of answering."""
        try:
            answer = call(self._tracker.request, rank, dict(cost))
            if is_true(answer):
                return True, ""
            if not call(bool, answer):
                return False, ""
            trouble = f"resource_tracker.request returned {shown(answer)}, which is neither True nor False"
        except CallbackFailed as error:
            trouble = f"resource_tracker.request failed: {error}"
        self._tell(trouble)
        return False, trouble

    def settle(self, log: Iterable[Transition]) -> None:
        """Release what tasks held that are not dispatched any more."""
        for task, _, cause, _, _, _ in log:
            if task >= 0 and cause not in DISPATCHES and task in self._granted:
                rank, cost = self._granted.pop(task)
                try:
                    call(self._tracker.release, rank, cost)
                except CallbackFailed as error:
                    self._tell(f"resource_tracker.release failed: {error}")

    def _tell(self, trouble: str) -> None:
        if trouble not in self._told and len(self._told) < 10:  # once each: there may be very many
            self._told.add(trouble)
            say(trouble)


def is_true(answer: Any) -> bool:
    """Whether a tracker's answer is True: Python's or numpy's own, and no other object that is true."""
    if answer is True:
        return True
    kind = type(answer)
    return kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_") and bool(answer)
