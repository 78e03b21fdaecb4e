"""The user's resource tracker: asked after each placement, told of each release."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources.amounts import plain_number
from handoff_mpi.scheduler import DISPATCHES, Dispatch, Event, Refused, Transition


class Tracking:
    """What the tracker has granted.

    Args:
        tracker: an object with ``request(rank, cost)`` and ``release(rank, cost)``.
    """

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._granted: dict[int, tuple[int, dict[str, int | float]]] = {}

    def request(self, command: Dispatch, specs: Sequence[TaskSpec]) -> list[Event]:
        """Ask for what the placement needs; take out of it what was refused, and return the refusals as events."""
        refused: list[Event] = []
        granted: list[tuple[int, int]] = []
        for task, attempt in command.tasks:
            cost = {name: plain_number(amount) for name, amount in specs[task].cost.items()}
            try:
                answer, why = self._tracker.request(command.rank, cost), "it said no"
            except Exception as error:
                answer, why = False, f"{type(error).__name__}: {error}"
            if answer is False:
                refused.append(Refused(task, attempt, why))
            else:
                self._granted[task] = (command.rank, cost)
                granted.append((task, attempt))
        command.tasks = granted
        return refused

    def settle(self, log: Iterable[Transition]) -> None:
        """Release what tasks held that are not dispatched any more."""
        for task, _, cause, _, _, _ in log:
            if task >= 0 and cause not in DISPATCHES and task in self._granted:
                rank, cost = self._granted.pop(task)
                try:
                    self._tracker.release(rank, cost)
                except Exception as error:
                    text = f"handoff: resource_tracker.release failed: {type(error).__name__}: {error}"
                    print(text, file=sys.stderr, flush=True)
