"""The table of ranks: which of them take part in a run, and which are suspect, unreachable, lost, or have left.

Rank 0's job owns the table. During a run the coordinator alone calls the methods that change a state, and between two
runs the job. The loop, the dispatcher and the host monitor read it. The scheduler keeps no list of its own: the table
returns events for it.

======================  ========================  ======================  =======================
state                   change                    state after it          event for the scheduler
======================  ========================  ======================  =======================
ALIVE                   SILENCE                   SUSPECT                 RankSuspected
SUSPECT                 HEARTBEAT                 ALIVE                   RankReturned
SUSPECT                 TIMEOUT                   UNREACHABLE             RankUnreachable
UNREACHABLE             HEARTBEAT                 ALIVE                   RankReturned
UNREACHABLE             END_OF_RUN                LOST
SUSPECT, UNREACHABLE    NEXT_RUN                  ALIVE
LEFT                    NEXT_RUN                  ALIVE
ALIVE, SUSPECT          LOSS                      LOST                    RankLost
UNREACHABLE             LOSS                      LOST                    RankLost
ALIVE                   GOODBYE                   LEFT
LEFT                    LOSS                      LOST                    RankLost
======================  ========================  ======================  =======================

Nothing leaves LOST: rank 0 sends such a rank no messages, and drops those that come late. Every other change is refused
with an AssertionError. A rank that is short of memory or on probation is ALIVE: whether a rank is offered tasks is
another question, which the ledger answers (:meth:`~handoff_mpi.allocation.Ledger.cordon`).

Silence is not death. A rank that has been silent for half the limit is suspect, and the caller checks its process. A
rank whose process lives is busy: its silence counts from that check on. A rank whose process nobody could check is
unreachable at the limit, and may return.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class MemberState(Enum):
    """The state of a rank, as rank 0 knows it."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    UNREACHABLE = "unreachable"
    LOST = "lost"
    LEFT = "left"


class Change(Enum):
    """The cause of a change of state."""

    SILENCE = "it has been silent for half the limit"
    TIMEOUT = "it has been silent for the whole limit"
    HEARTBEAT = "a message has come from it"
    LOSS = "its process or its host no longer exists"
    GOODBYE = "it has ended the run in order"
    END_OF_RUN = "nobody waits for it any more"
    NEXT_RUN = "another run of the job begins"


ALIVE, SUSPECT, UNREACHABLE, LOST, LEFT = MemberState

#: (state, change) to the state that follows. Any other pair is refused.
TRANSITIONS: dict[tuple[MemberState, Change], MemberState] = {
    (ALIVE, Change.SILENCE): SUSPECT,
    (SUSPECT, Change.HEARTBEAT): ALIVE,
    (SUSPECT, Change.TIMEOUT): UNREACHABLE,
    (UNREACHABLE, Change.HEARTBEAT): ALIVE,
    (UNREACHABLE, Change.END_OF_RUN): LOST,
    (SUSPECT, Change.NEXT_RUN): ALIVE,
    (UNREACHABLE, Change.NEXT_RUN): ALIVE,
    (LEFT, Change.NEXT_RUN): ALIVE,
    (ALIVE, Change.LOSS): LOST,
    (SUSPECT, Change.LOSS): LOST,
    (UNREACHABLE, Change.LOSS): LOST,
    (ALIVE, Change.GOODBYE): LEFT,
    (LEFT, Change.LOSS): LOST,
}


# -- events for the scheduler ---------------------------------------------------------------------------------


@dataclass(slots=True)
class RankSuspected:
    """A rank is silent: it gets no tasks until it returns, but what runs there may well be finished."""

    rank: int
    reason: str


@dataclass(slots=True)
class RankUnreachable:
    """A suspect rank stays silent: its work is done elsewhere until it returns, and no function is at fault."""

    rank: int
    reason: str


@dataclass(slots=True)
class RankReturned:
    """A rank that was suspect or unreachable is heard of again."""

    rank: int


@dataclass(slots=True)
class RankLost:
    """A rank is lost for good; if its whole host was lost, no function is at fault."""

    rank: int
    reason: str
    with_its_host: bool = False


class Silence(NamedTuple):
    """The results of a look for silent ranks.

    Attributes:
        events: events for the scheduler, in order.
        unclear: silent ranks whose processes the caller must check.
    """

    events: list[RankSuspected | RankUnreachable]
    unclear: list[int]


class Membership:
    """The table of the ranks of a job; a rank is ALIVE as long as nothing else is known of it.

    Attributes:
        lost: the ranks that are LOST; a live view for those that send or receive messages.
        heard: rank to the time at which rank 0 last received a message from it.
        next_check: the time at which :meth:`look` is due.
    """

    def __init__(self) -> None:
        self.lost: set[int] = set()
        self.heard: dict[int, float] = {}
        self.next_check = 0.0
        self._limit_s = float("inf")
        self._states: dict[int, MemberState] = {}  # of ranks that are not named here, nothing is known
        self._watched: tuple[int, ...] = ()
        self._silent: set[int] = set()  # those that are SUSPECT or UNREACHABLE; mostly empty
        self._found_alive: dict[int, float] = {}  # when the process of a silent rank was last seen alive

    def state(self, rank: int) -> MemberState:
        """Return the state of ``rank``."""
        return self._states.get(rank, ALIVE)

    def awaited(self, ranks: Iterable[int]) -> set[int]:
        """Return those of ``ranks`` that have neither left nor are lost: they may still answer."""
        return {rank for rank in ranks if self.state(rank) not in (LEFT, LOST)}

    # -- changes ------------------------------------------------------------------------------------

    def begin_run(self, ranks: Iterable[int], limit_s: float) -> list[RankLost]:
        """Count the silence of ``ranks``, those that compute in a run that begins.

        Args:
            ranks: in the order in which they are looked at.
            limit_s: seconds of silence after which a rank whose process nobody could check is unreachable.

        Returns:
            An event for each of ``ranks`` that was lost since the run was planned.
        """
        for rank, state in self._states.items():
            if state not in (ALIVE, LOST):
                self.move(rank, Change.NEXT_RUN)
        self.heard, self._found_alive, self.next_check = {}, {}, 0.0
        self._limit_s = limit_s
        self._watched = tuple(ranks)
        return [RankLost(rank, "it was lost before the run began") for rank in self._watched if rank in self.lost]

    def resume(self, now: float) -> None:
        """Rank 0 receives messages again, after a pause in which it took none: silence counts from ``now`` on."""
        self.heard.update(dict.fromkeys(self._watched, now))
        self.next_check = now

    def hear(self, ranks: Collection[int], now: float) -> list[RankReturned]:
        """Note that messages came from ``ranks``, none of which is lost; return an event for each that was silent."""
        for rank in ranks:
            self.heard[rank] = now
        if not self._silent:
            return []
        returned = sorted(self._silent.intersection(ranks))
        for rank in returned:
            self.move(rank, Change.HEARTBEAT)
        return [RankReturned(rank) for rank in returned]

    def find_alive(self, rank: int, now: float) -> None:
        """Note that the process of ``rank`` was found alive: it is busy, so its silence counts from now on."""
        if rank in self._silent:
            self._found_alive[rank] = now

    def look(self, now: float) -> Silence:
        """Find the ranks that have been silent for too long, and those whose processes must be checked."""
        self.next_check = now + self._limit_s / 8
        found = Silence([], [])
        for rank in self._watched:
            if self.state(rank) in (ALIVE, SUSPECT):
                self._look_at(rank, now, found)
        return found

    def _look_at(self, rank: int, now: float, found: Silence) -> None:
        heard = self.heard.setdefault(rank, now)
        if now - heard <= self._limit_s / 2:
            return
        unproven_s = now - max(heard, self._found_alive.get(rank, heard))
        if unproven_s <= self._limit_s / 2:
            return
        reason = f"silent for {now - heard:.0f} s"
        if self.state(rank) == ALIVE:
            self.move(rank, Change.SILENCE)
            found.events.append(RankSuspected(rank, reason))
        if unproven_s > self._limit_s:
            self.move(rank, Change.TIMEOUT)
            found.events.append(RankUnreachable(rank, reason))
        else:
            found.unclear.append(rank)

    def lose(self, rank: int, reason: str, with_its_host: bool = False) -> list[RankLost]:
        """Note that ``rank`` is lost for good; return the event for the scheduler, none if it was known to be lost.

        Args:
            reason: why, in words.
            with_its_host: whether its whole host was lost.
        """
        if rank in self.lost:
            return []
        self.move(rank, Change.LOSS)
        return [RankLost(rank, reason, with_its_host)]

    def leave(self, rank: int) -> None:
        """Note that ``rank`` has said goodbye; one that is lost stays lost."""
        if self.state(rank) not in (LEFT, LOST):
            self.move(rank, Change.GOODBYE)

    def end_run(self) -> None:
        """Give up the ranks that are unreachable: nobody waits for an answer of theirs."""
        for rank in sorted(self._silent):
            if self._states[rank] == UNREACHABLE:
                self.move(rank, Change.END_OF_RUN)

    def move(self, rank: int, change: Change) -> None:
        """Change the state of ``rank`` as the table says.

        Raises:
            AssertionError: the table has no such change.
        """
        before = self.state(rank)
        then = TRANSITIONS.get((before, change))
        if then is None:
            raise AssertionError(f"rank {rank} is {before.value}, which excludes this change: {change.value}")
        self._states[rank] = then
        (self._silent.add if then in (SUSPECT, UNREACHABLE) else self._silent.discard)(rank)
        if then == LOST:
            self.lost.add(rank)
