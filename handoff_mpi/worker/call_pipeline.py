"""Which calls one child was sent, in its order: the running one first, behind it those sent ahead of their turn.

Short calls follow one another in a child without its rank if it has the next when one ends. A call that was sent ahead
needs a token to begin. The child takes one, or the rank takes it back: then it is certain that the call will never
begin, and it can be given away or sent again. A call that came to its turn and could not begin (no token, or the value
it was to take from the call before is not there) is void, and so is all that was sent ahead behind it until a call
arrives that needs no token: the order in which the rank takes calls to run is that in which they do. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from handoff_mpi.worker.events import QueuedCall

#: The most calls that a child has been sent and not answered.
MAX_SENT = 64
#: Further ones are sent once it has no more than this many.
FEW_SENT = MAX_SENT // 2
#: Larger calls are not sent ahead: the socket must hold the calls sent ahead while the child does not read.
AHEAD_NBYTES = 1024


class SentCalls(deque["QueuedCall | None"]):
    """The calls that one child was sent and has not answered; None stands for a void one, whose answer is ignored."""

    @property
    def running(self) -> QueuedCall | None:
        """The call that runs, or is the next to: all before it have been answered or are void."""
        return next((work for work in self if work is not None), None)

    @property
    def has_void(self) -> bool:
        """Whether nothing may be sent ahead: it could take the token of what is void."""
        return None in self

    def sent(self, works: Iterable[QueuedCall]) -> None:
        """The child was sent ``works``, which it answers in this order."""
        self.extend(works)

    def ended(self) -> QueuedCall | None:
        """The child has answered that a call ended; return which."""
        return self.popleft()

    def voided(self) -> list[QueuedCall]:
        """The child has answered that a call is void; return all that are, and were not known to be."""
        is_news = self[0] is not None
        void = self._forget(len(self)) if is_news else []
        self.popleft()
        return void

    def taken_back(self, count: int) -> list[QueuedCall]:
        """The tokens of ``count`` calls were taken back; return these calls."""
        return self._forget(count)

    def lost(self) -> list[QueuedCall]:
        """The child has ended; return its calls."""
        void = self._forget(len(self))
        self.clear()
        return void

    def _forget(self, count: int) -> list[QueuedCall]:
        """Make the last ``count`` calls void."""
        void: list[QueuedCall] = []
        for number in range(len(self) - count, len(self)):
            work = self[number]
            if work is not None:
                work.is_ahead = False
                void.append(work)
                self[number] = None
        return void
