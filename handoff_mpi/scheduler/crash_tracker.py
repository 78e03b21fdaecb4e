"""Tracks the tasks that are blamed for deaths of processes, and decides which of them may be tried again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class CrashTracker:
    """The deaths that tasks are blamed for.

    Only tasks to which something happened are in here.

    Args:
        limit: a task whose process died this often is not tried again.

    Attributes:
        deaths: task to how often its process died for certain.
        suspects: tasks that must run in a child process, each alone: they were there when one died.
    """

    def __init__(self, limit: int) -> None:
        self.deaths: dict[int, int] = {}
        self.suspects: set[int] = set()
        self._limit = limit

    def inherit(self, suspects: Iterable[int], deaths: Mapping[int, int]) -> None:
        """Take in what launches before this one know."""
        self.suspects.update(suspects, deaths)
        self.deaths.update(deaths)

    def died(self, task: int) -> bool:
        """The process that ran ``task`` died; return whether the task may be tried again."""
        self.suspects.add(task)
        self.deaths[task] = self.deaths.get(task, 0) + 1
        return self.may_retry(task)

    def may_retry(self, task: int) -> bool:
        """Whether its deaths leave ``task`` another try."""
        return self.deaths.get(task, 0) < self._limit

    def forgive(self, task: int, deaths: int) -> None:
        """So many deaths were not the fault of ``task``."""
        left = self.deaths.pop(task, 0) - deaths
        if left > 0:
            self.deaths[task] = left

    def copy(self, task: int, other: int) -> None:
        """``other`` is a part of ``task``."""
        if task in self.suspects:
            self.suspects.add(other)
        if task in self.deaths:
            self.deaths[other] = self.deaths[task]

    def forget(self, task: int) -> None:
        """Nothing is known of ``task`` any more."""
        self.suspects.discard(task)
        self.deaths.pop(task, None)

    def tell(self, task: int, last: str) -> str:
        """Return in words how often its process died, the last time ``last``."""
        deaths = self.deaths[task]
        times = "once" if deaths == 1 else f"{deaths} times"
        return f"its process died {times} (crash_limit is {self._limit}), last {last}"
