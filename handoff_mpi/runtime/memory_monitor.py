"""How short of memory a rank is, looked at now and then; and the telling when its values cannot be moved out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from handoff_mpi.console import print_message
from handoff_mpi.linux import give_back_freed_memory
from handoff_mpi.messages import CRITICAL, HIGH, NORMAL
from handoff_mpi.resources.memory import Gauge, Usage
from handoff_mpi.worker.budget import UNLIMITED_NBYTES
from handoff_mpi.worker.events import Pressed

#: Seconds between two looks. Each takes a tenth of a millisecond.
MEMORY_CHECK_INTERVAL_S = 0.25
#: A look comes sooner once this share of what was left at the last has come in.
_SOONER_SHARE = 0.25

#: Another rank takes at most this much between two looks.
_TAKEN_MEANWHILE_NBYTES = 256 * 1024 * 1024

#: From this share of a limit on values are moved out: the rest is for what calls make and what arrives meanwhile.
HIGH_FROM = 0.75
#: From here on no new tasks are taken: what runs needs the rest. The kernel kills at 1.
CRITICAL_FROM = 0.90
#: The shares are of this much a rank where a limit is higher: what others use of a large machine stops nobody.
SCALE_NBYTES = 32 * 1024**3
#: A level ends well below where it begins, or each value that comes and goes would change it. Down to the lower mark
#: values are moved out.
HIGH_UNTIL = 0.65
CRITICAL_UNTIL = 0.80


class MemoryMonitor:
    """Measures a rank's memory, and says how short it is.

    Args:
        gauge: measures.
        ranks: how many ranks share each limit.
        children: returns the processes that count as the rank's own.
        shared_nbytes: returns how much memory the rank and its children share.
        can_spill: whether values can be moved out of memory.

    Attributes:
        next_look: when :meth:`look` should be called again.
        level: NORMAL, HIGH or CRITICAL.
        can_spill: whether values can (still) be moved out.
        room_nbytes: how much may come into memory until the next look.
    """

    def __init__(
        self,
        gauge: Gauge,
        ranks: int,
        children: Callable[[], Iterable[int]],
        shared_nbytes: Callable[[], int],
        can_spill: bool,
    ) -> None:
        self.next_look = 0.0
        self.level = NORMAL
        self.can_spill = can_spill
        self.room_nbytes = UNLIMITED_NBYTES
        self._gauge = gauge
        self._ranks = max(1, ranks)
        self._children = children
        self._shared_nbytes = shared_nbytes
        self._allowance = 0.0  # what may come in before the next look

    def came_in(self, nbytes: int) -> None:
        """A value of ``nbytes`` bytes is in memory now."""
        self._allowance -= nbytes
        if self._allowance < 0:
            self.next_look = 0.0

    def look(self, now: float) -> Pressed | None:
        """Measure, if it is time to; return what the machine must know, if anything."""
        if now < self.next_look:
            return None
        self.next_look = now + MEMORY_CHECK_INTERVAL_S
        if self.level != NORMAL:
            give_back_freed_memory()
        usages = self._gauge.measure(self._children(), self._shared_nbytes())
        if not usages:
            return None
        self._allowance = _SOONER_SHARE * min(usage.left for usage in usages) / self._ranks
        self.room_nbytes = int(min(map(self._room, usages)))
        worst = max(usages, key=self._share)
        before, self.level = self.level, next_level(self.level, self._share(worst))
        if before == self.level == NORMAL:
            return None
        excess = max((self._share(usage) - HIGH_UNTIL) * self._scale(usage) for usage in usages)
        return Pressed(self.level, max(0, int(excess)), self.can_spill, str(worst))

    def _room(self, usage: Usage) -> float:
        """Return how much may come here before values must leave, if other ranks take their part of it meanwhile."""
        room = (HIGH_FROM - self._share(usage)) * self._scale(usage)
        if usage.is_own:
            return room
        return max(room / self._ranks, room - (self._ranks - 1) * _TAKEN_MEANWHILE_NBYTES)

    def _share(self, usage: Usage) -> float:
        return 1 - usage.left / self._scale(usage)

    def _scale(self, usage: Usage) -> int:
        return min(usage.limit, SCALE_NBYTES * self._ranks)

    def spilled(self) -> None:
        """A value was moved out: the next look tells whether that is enough."""
        self.next_look = 0.0

    def give_up_spilling(self, error: OSError) -> None:
        """No more values are moved out: it cannot be done, and is tried once."""
        if self.can_spill:
            self.can_spill = False
            print_message(f"memory is short, and values cannot be moved out of it: {error}")


def next_level(level: int, share: float) -> int:
    """Return the level that follows ``level`` when this share of a limit is in use."""
    if share >= (CRITICAL_UNTIL if level == CRITICAL else CRITICAL_FROM):
        return CRITICAL
    return HIGH if share >= (HIGH_FROM if level == NORMAL else HIGH_UNTIL) else NORMAL
