"""Tasks that wait for the user's resource tracker: held by what they ask for, and offered again a few at a time.

A tracker answers by rank and cost. Once it has refused a cost, all ready tasks of that cost are *held*: they wait here,
and not in the queues. At growing intervals the tracker is asked again for the oldest of them, on several ranks in turn,
since it may grant on one what it refuses on another. Each grant doubles how many are offered next, so that a licence
server that has room again is used at once, and one that has none is asked a bounded number of times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handoff_mpi.dag import TaskSpec
from handoff_mpi.scheduler.events import Refused
from handoff_mpi.scheduler.lifecycle import DISPATCHED, DONE, FAILED, READY
from handoff_mpi.scheduler.queues import hold_key
from handoff_mpi.scheduler.ready import ReadyTasks

#: Seconds until a tracker that has refused is asked again: they double from the first to the second.
MIN_POLL_S = 0.05
MAX_POLL_S = 2.0
#: So many ranks are asked for, at most, each time.
MAX_ASKED = 8
#: So many tasks are offered at once, at most.
MAX_OFFERED = 64
#: A tracker that fails so often in a row, where it should answer, fails what waits for it.
MAX_TRACKER_ERRORS = 5
#: Tasks that have waited for this long are reported.
REPORT_AFTER_S = 5.0
#: A tracker that takes long is asked for one rank only, and spends at most this share of the time in its answers.
_SLOW_S = 0.05
_BUSY_SHARE = 0.1

#: What becomes of a task that was granted; it may have ended by the time that this is looked at.
_RAN = (DISPATCHED, DONE, FAILED)

#: Returns the ranks on which a task may be placed now, beginning behind a rank.
RanksBehind: TypeAlias = Callable[[int, int], Iterator[int]]


@dataclass(slots=True)
class Hold:
    """The state of a cost that the tracker refused.

    Attributes:
        since: when it was refused first.
        until: when it is offered again.
        delay: seconds between the last two times.
        count: how many tasks are offered at once.
        left: how many ranks may still be asked for at this time.
        tried: the ranks that were asked for at this time.
        offered: tasks whose answer is awaited.
        errors: how often in a row the tracker failed.
        rank, reason: of the last refusal.
        seconds: how long the tracker took for it.
        is_reported: whether the user has read that tasks wait.
    """

    since: float
    until: float = 0.0
    delay: float = MIN_POLL_S / 2
    count: int = 1
    left: int = MAX_ASKED
    tried: set[int] = field(default_factory=set)
    offered: set[int] = field(default_factory=set)
    errors: int = 0
    rank: int = -1
    reason: str = ""
    seconds: float = 0.0
    is_reported: bool = False


class Refusals:
    """The tasks that wait for the tracker.

    Args:
        ready: whose tasks they are.
        specs, state: of all tasks, by number.
        timeout_s: how long a task waits at most; None sets no limit.
        ranks_behind: see there; None where the strategy alone decides on ranks.

    Attributes:
        holds: what waits, by what it asks for.
    """

    def __init__(
        self,
        ready: ReadyTasks,
        specs: Sequence[TaskSpec],
        state: bytearray,
        timeout_s: float | None,
        ranks_behind: RanksBehind | None,
    ) -> None:
        self._ready = ready
        self._specs = specs
        self._state = state
        self._timeout_s = timeout_s
        self._ranks_behind = ranks_behind
        self.holds: dict[Any, Hold] = {}
        self._since: dict[int, float] = {}

    @property
    def next_due(self) -> float:
        """When :meth:`offer_due` has something to do, if nothing happens until then."""
        due = float("inf")
        for hold in self.holds.values():
            if not hold.offered:
                due = min(due, hold.until)
            elif any(self._state[task] == DISPATCHED for task in hold.offered):
                return 0.0  # granted, so that the next ones can be offered
        return due

    def refuse(self, task: int, event: Refused, rank: int, now: float) -> None:
        """The tracker refused a task, READY again, on ``rank``: hold it, and all that ask for the same."""
        key = hold_key(self._specs[task])
        hold = self.holds.get(key)
        if hold is None:
            hold = self.holds[key] = Hold(now)
            self._ready.hold(key)
        self._take_passed_on(hold)
        hold.offered.discard(task)
        self._ready.take_in_again(task)
        self._since.setdefault(task, now)
        hold.rank, hold.reason, hold.seconds = rank, event.reason, event.seconds
        hold.errors = hold.errors + 1 if event.is_error else 0
        hold.count = 1
        hold.tried.add(rank)
        hold.left -= 1
        if hold.left <= 0 or event.is_error or event.seconds > _SLOW_S:
            self._wait(hold, now)

    def _wait(self, hold: Hold, now: float) -> None:
        """All that could be asked has been, so ask again later."""
        hold.delay = min(2 * hold.delay, MAX_POLL_S)
        hold.until = now + max(hold.delay, hold.seconds / _BUSY_SHARE)
        hold.left = MAX_ASKED
        hold.tried.clear()
        if self._timeout_s is not None and self._since:
            hold.until = max(now, min(hold.until, min(self._since.values()) + self._timeout_s))

    def offer_due(self, now: float) -> None:
        """Offer what is due, and end the holds for which nothing waits now."""
        for key, hold in list(self.holds.items()):
            self._note_granted(hold)
            if hold.offered:
                continue
            if not self._ready.held[key]:
                self._ready.end_hold(key)
                del self.holds[key]
            elif now >= hold.until:
                self._offer(self._ready.held[key], hold, now)
        if not self.holds:
            self._since.clear()

    def _take_passed_on(self, hold: Hold) -> None:
        """Of arrays that were offered, the answer is that on the lease of their elements."""
        for array in self._ready.passed_on.keys() & hold.offered:
            hold.offered.discard(array)
            hold.offered.add(self._ready.passed_on.pop(array))

    def _note_granted(self, hold: Hold) -> None:
        """A task that was offered and is no longer READY was granted, or no longer needs the tracker.

        One that is READY and not offered any more is held again: an array that has moved to the head of what waits.
        """
        self._take_passed_on(hold)
        for task in [each for each in hold.offered if self._state[each] != READY or each not in self._ready.offered]:
            hold.offered.discard(task)
            self._ready.offered.discard(task)
            self._since.pop(task, None)
            if self._state[task] in _RAN:
                hold.count = min(2 * hold.count, MAX_OFFERED)
                hold.delay, hold.left, hold.errors, hold.until = MIN_POLL_S / 2, MAX_ASKED, 0, 0.0
                hold.tried.clear()

    def _offer(self, waiting: deque[int], hold: Hold, now: float) -> None:
        rank = self._next_rank(waiting[0], hold) if hold.count == 1 else None
        if rank is None and hold.tried:  # all ranks that have room were asked for
            self._wait(hold, now)
            return
        for _ in range(min(hold.count, len(waiting))):
            hold.offered.add(waiting[0])
            self._ready.offer(waiting.popleft(), rank)

    def _next_rank(self, task: int, hold: Hold) -> int | None:
        spec = self._specs[task]
        if self._ranks_behind is None or spec.pin is not None or spec.group is not None:
            return None
        return next((rank for rank in self._ranks_behind(task, hold.rank) if rank not in hold.tried), None)

    def expired(self, now: float) -> list[tuple[int, str]]:
        """Take out the tasks that have waited longer than they may, or whose tracker is broken; return why."""
        found = []
        for key, hold in self.holds.items():
            is_broken = hold.errors >= MAX_TRACKER_ERRORS
            if not is_broken and (self._timeout_s is None or now < hold.until):
                continue
            waiting = self._ready.held[key]
            for task in waiting:
                waited_s = now - self._since.setdefault(task, now)
                if is_broken:
                    how = f"the resource tracker failed {hold.errors} times in a row"
                elif self._timeout_s is not None and waited_s >= self._timeout_s:
                    how = f"the resource tracker has refused it for {waited_s:.1f} s (tracker_timeout)"
                else:
                    continue
                found.append((task, f"{how}, last on rank {hold.rank}: {hold.reason}"))
            gone = {task for task, _ in found}
            kept = [task for task in waiting if task not in gone]
            waiting.clear()
            waiting.extend(kept)
            for task in gone:
                self._since.pop(task, None)
        return found

    def unreported(self, now: float) -> Iterator[tuple[int, int, int, str]]:
        """Yield the first task, how many wait, the rank and the reason, once for each hold that lasts."""
        for key, hold in self.holds.items():
            waiting = self._ready.held[key]
            if not hold.is_reported and waiting and now - hold.since >= REPORT_AFTER_S:
                hold.is_reported = True
                yield waiting[0], len(waiting), hold.rank, hold.reason
