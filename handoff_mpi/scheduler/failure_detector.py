"""Knows which ranks have been silent for too long. Silence is not death: see :class:`FailureDetector`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class FailureDetector:
    """Tells silent ranks from others.

    A rank that has been silent for half the limit is *suspect*, and its process is looked at. Found alive it is
    busy, and excused: its silence counts from then on. One that nobody could look at is lost at the limit, and
    taken in again should it be heard of after all.

    Attributes:
        limit_s: seconds of silence.
        suspects: ranks that are suspect now, those lost to silence among them.
        silent: ranks that were lost because they were silent.
        next_check: when :meth:`look` should be called again.
        heard: rank to when it was last heard of.
    """

    limit_s: float
    suspects: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    next_check: float = 0.0
    heard: dict[int, float] = field(default_factory=dict)
    _excused: dict[int, float] = field(default_factory=dict)

    def hear(self, ranks: Iterable[int], now: float) -> list[int]:
        """Note a sign of life of ``ranks``; return those that were suspect."""
        for rank in ranks:
            self.heard[rank] = now
        if not self.suspects:
            return []
        returned = sorted(self.suspects.intersection(ranks))
        self.suspects.difference_update(returned)
        return returned

    def excuse(self, rank: int, now: float) -> None:
        """``rank`` was found alive and busy."""
        self._excused[rank] = now

    def forget(self, rank: int) -> None:
        """``rank`` is lost for good."""
        self.suspects.discard(rank)
        self.silent.discard(rank)

    def look(self, ranks: Iterable[int], now: float) -> list[tuple[int, float, bool]]:
        """Return ``(rank, seconds of silence, whether it exceeds the limit)`` of ``ranks`` to be looked at now."""
        self.next_check = now + self.limit_s / 8
        found = []
        for rank in ranks:
            heard = self.heard.setdefault(rank, now)
            if now - heard <= self.limit_s / 2:
                continue
            since_alive = now - max(heard, self._excused.get(rank, heard))
            if since_alive > self.limit_s / 2:
                found.append((rank, now - heard, since_alive > self.limit_s))
        return found
