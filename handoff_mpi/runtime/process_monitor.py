"""Looking at the processes of the other ranks of this host, from outside their interpreters.

MPI does not report every death (a rank that leaves with ``exit(1)`` is never mentioned), and nobody reports a
rank that was stopped. Each rank therefore looks now and then at the next living rank of its host, in a ring, and
at any rank that rank 0 asks about. It reports a rank that no longer exists. It *fences* one that was stopped for
long, that is, it kills it, so that it can never come back and disturb what others have taken over. One that lives is
left alone, without an exception.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from handoff_mpi.descendants import kill_left_by
from handoff_mpi.runtime import presence

#: Seconds between two looks at the next rank of the ring.
PROCESS_CHECK_INTERVAL_S = 1.0
#: A rank found stopped at every look for this long is fenced. A signal that suspends a whole job suspends these looks.
STOPPED_S = 20.0

#: A process that was killed has ended after this long, but for one that hangs in the kernel.
_PROCESS_END_TIMEOUT_S = 0.05
#: A process in this state was stopped by a signal. One that a debugger holds ("t") is the debugger's business.
_IS_STOPPED = "T"

GONE = "gone"
STOPPED = "stopped"
LIVES = "lives"
UNSEEN = "unseen"


class Stops:
    """How long processes have been found stopped, at looks that are close enough to tell."""

    def __init__(self, limit_s: float = STOPPED_S) -> None:
        self.limit_s = limit_s
        self._spans: dict[int, tuple[float, float]] = {}  # pid: (stopped since, last looked at)

    def look(self, pid: int, state: str, now: float) -> float | None:
        """Take in a process's state letter; return for how many seconds it has been stopped, None if it is not."""
        if state != _IS_STOPPED:
            self._spans.pop(pid, None)
            return None
        since, looked_at = self._spans.get(pid, (now, now))
        # Looks that are far apart tell that this process was suspended as well: then it counts from zero again.
        since = now if now - looked_at > 5 * PROCESS_CHECK_INTERVAL_S else since
        self._spans[pid] = (since, now)
        return now - since


class ProcessMonitor:
    """The other ranks of this host.

    Args:
        rank: this one.
        pids: rank to process id, of all ranks of this host that run in our process namespace.

    Attributes:
        next_look: when :meth:`look_around` should be called again.
    """

    def __init__(self, rank: int, pids: Mapping[int, int], stopped_s: float = STOPPED_S) -> None:
        self._rank = rank
        self._stops = Stops(stopped_s)
        self._pids = {other: pid for other, pid in pids.items() if other != rank}
        # Process ids are used again: what started later is somebody else. A rank that cannot be seen at the start
        # (another namespace has other numbers) is none of ours to judge.
        self._born = {other: born for other, pid in self._pids.items() if (born := look_at(pid)[1]) is not None}
        self._shown = {other for other in self._born if presence.is_shown(self._pids[other])}
        self._hidden_since: dict[int, float] = {}
        self.next_look = 0.0

    def forget(self, rank: int) -> None:
        """``rank`` is lost; the rank before it in the ring ends what it has left running."""
        is_next = rank == self._next()
        born = self._born.pop(rank, None)
        if born is not None and is_next and _has_died(self._pids[rank], born):
            kill_left_by(self._pids[rank], int(born))

    def _next(self) -> int | None:
        """Return the next living rank of the ring."""
        higher = [rank for rank in self._born if rank > self._rank]
        return min(higher or self._born, default=None)

    def look_around(self, now: float) -> tuple[int, str] | None:
        """Look at the next rank of the ring if it is time to; return it and why it is lost, if it is."""
        if now < self.next_look:
            return None
        self.next_look = now + PROCESS_CHECK_INTERVAL_S
        rank = self._next()
        if rank is None:
            return None
        state, reason = self.examine(rank, now)
        if state not in (GONE, STOPPED):
            return None
        self.forget(rank)  # the next one is looked at from now on: rank 0, who would say so, may be lost as well
        return rank, reason

    def is_lost(self, rank: int, now: float) -> str:
        """Return why ``rank`` is lost, an empty text if it is not; one that was stopped for long is killed."""
        state, reason = self.examine(rank, now)
        return reason if state in (GONE, STOPPED) else ""

    def examine(self, rank: int, now: float) -> tuple[str, str]:
        """Return how ``rank`` is, and why that is said: GONE, STOPPED (and so fenced), LIVES or UNSEEN."""
        born = self._born.get(rank)
        if born is None:
            return UNSEEN, "its process cannot be seen from here"
        state, since = look_at(self._pids[rank])
        if since != born or state in ("Z", "X"):
            return GONE, "its process no longer exists"
        stopped_s = self._stops.look(self._pids[rank], state, now)
        if stopped_s is None:
            if self._has_hidden(rank, now):
                self.fence(rank)
                return STOPPED, "its process ran another program, or had lost its descriptors, and was ended"
            return LIVES, f"its process is alive (state {state})"
        if stopped_s < self._stops.limit_s:
            return LIVES, f"its process has been stopped for {stopped_s:.0f} s"
        self.fence(rank)
        return STOPPED, f"its process had been stopped for {stopped_s:.0f} s and was ended"

    def _has_hidden(self, rank: int, now: float) -> bool:
        """Whether a rank that has shown itself no longer does, at two looks: one could meet the end of its process."""
        if rank not in self._shown or presence.is_shown(self._pids[rank]):
            self._hidden_since.pop(rank, None)
            return False
        return now - self._hidden_since.setdefault(rank, now) >= PROCESS_CHECK_INTERVAL_S / 2

    def lives(self, rank: int) -> bool | None:
        """Whether the process of ``rank`` is there, stopped or not; None if it cannot be seen from here."""
        born = self._born.get(rank)
        if born is None:
            return None
        state, since = look_at(self._pids[rank])
        return since == born and state not in ("Z", "X")

    def fence(self, rank: int) -> bool:
        """End the process of ``rank``; return whether it is one that can be seen from here, and was there still."""
        pid = self._pids.get(rank)
        if pid is None or rank not in self._born or look_at(pid)[1] != self._born[rank]:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            return False
        return True


def _has_died(pid: int, born: str) -> bool:
    """Whether a process has ended, or ends in a moment, as one that was killed does."""
    end = time.monotonic() + _PROCESS_END_TIMEOUT_S
    while True:
        state, since = look_at(pid)
        if since != born or state in ("Z", "X"):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(_PROCESS_END_TIMEOUT_S / 10)


def look_at(pid: int) -> tuple[str, str | None]:
    """Return a process's state letter and when it started; ("", None) if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], fields[19]
