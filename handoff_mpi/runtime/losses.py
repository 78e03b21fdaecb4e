"""The ranks that a run has lost: when and why, and which functions run again because of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

#: So many losses are kept, the newest ones, and of each so many functions are named.
MAX_LOSSES, MAX_NAMED = 100, 5


@dataclass(slots=True)
class Repeated:
    """Functions, and elements of arrays, that run again for one reason: how many, and the first of them."""

    count: int = 0
    first: list[Hashable] = field(default_factory=list)

    def add(self, id: Hashable, count: int) -> None:
        """Add a function, or ``count`` elements that one id names."""
        self.count += count
        if len(self.first) < MAX_NAMED:
            self.first.append(id)


@dataclass(slots=True)
class Loss:
    """One loss of a rank.

    Attributes:
        time_s: when rank 0 gave the rank up, in seconds since the epoch.
        returned_s: when the rank was heard of again; None if it was not.
        reassigned: functions whose calls were on the rank.
        recomputed: functions whose values were there alone.
    """

    rank: int
    time_s: float = 0.0
    reason: str = ""
    returned_s: float | None = None
    reassigned: Repeated = field(default_factory=Repeated)
    recomputed: Repeated = field(default_factory=Repeated)

    def to_json(self, host: str, label: Callable[[Hashable], str]) -> dict[str, object]:
        """Return the loss for ``status.json``.

        Args:
            label: returns how an id is written there.
        """
        return {
            "rank": self.rank,
            "host": host,
            "time_s": self.time_s,
            "reason": self.reason,
            "returned_s": self.returned_s,
            "reassigned": self.reassigned.count,
            "recomputed": self.recomputed.count,
            "first_reassigned": [label(id) for id in self.reassigned.first],
            "first_recomputed": [label(id) for id in self.recomputed.first],
        }


class Losses:
    """Gathers the losses of a launch.

    Attributes:
        newest: the losses, in order.
        reassigned, recomputed: how many functions, and elements of arrays, were repeated in all; also values that were
            lost without a rank.
    """

    def __init__(self) -> None:
        self.newest: deque[Loss] = deque(maxlen=MAX_LOSSES)
        self.reassigned = self.recomputed = 0
        self._of_rank: dict[int, Loss] = {}
        self._unexplained: dict[int, Loss] = {}  # what is repeated may be reported before the loss of its rank

    def lost(self, rank: int, reason: str, now: float) -> None:
        """Note that ``rank`` is lost."""
        loss = self._unexplained.pop(rank, None) or Loss(rank)
        loss.time_s, loss.reason = now, reason
        self._of_rank[rank] = loss
        self.newest.append(loss)

    def returned(self, rank: int, now: float) -> bool:
        """Note that ``rank`` was heard of again; return whether it was lost."""
        loss = self._of_rank.pop(rank, None)
        if loss is not None:
            loss.returned_s = now
        return loss is not None

    def is_lost(self, rank: int) -> bool:
        """Whether ``rank`` is lost, and has not returned."""
        return rank in self._of_rank

    def reasons(self) -> dict[int, str]:
        """Return why each rank was lost that has not returned."""
        return {rank: loss.reason for rank, loss in self._of_rank.items()}

    def reassign(self, id: Hashable, count: int, rank: int) -> None:
        """Note that ``count`` calls were on ``rank``, and are made elsewhere."""
        self.reassigned += count
        self._of(rank).reassigned.add(id, count)

    def recompute(self, id: Hashable, count: int, rank: int) -> None:
        """Note that ``count`` values were on ``rank``, and are computed again."""
        self.recomputed += count
        self._of(rank).recomputed.add(id, count)

    def end_turn(self) -> None:
        """Forget what was repeated though its rank is not lost: a loss is reported in the same turn."""
        self._unexplained.clear()

    def _of(self, rank: int) -> Loss:
        known = self._of_rank.get(rank)
        return self._unexplained.setdefault(rank, Loss(rank)) if known is None else known
