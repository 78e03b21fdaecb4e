"""The interface of a user's resource tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

#: Resource names to amounts as users write them: cores, MB, devices.
PlainAmounts: TypeAlias = "Mapping[str, int | float]"


@runtime_checkable
class ResourceTracker(Protocol):
    """Decides beside the scheduler whether a function may start: a licence server, say, or a quota.

    Rank 0 alone calls it, in the thread that schedules. Each call that it granted is released exactly once.
    """

    def register(self, rank: int, capabilities: PlainAmounts, /) -> object:
        """Take in what ``rank`` offers: before a run for each rank, and in it whenever that has changed.

        What it returns is ignored. If it raises before the run, the run is refused.
        """
        ...

    def request(self, rank: int, cost: PlainAmounts, /) -> bool:
        """Return whether a function of this cost may start on ``rank`` now; False makes it wait, and ask again."""
        ...

    def release(self, rank: int, cost: PlainAmounts, /) -> object:
        """Take back what :meth:`request` granted: the call has ended, or its rank was lost."""
        ...
