"""Looking at the processes of the other ranks of this host, from outside their interpreters.

MPI does not report every death (a rank that leaves with ``exit(1)`` is never mentioned), and nobody reports a
rank that was stopped. Each rank therefore looks now and then at the next living rank of its host, in a ring, and
at any rank that rank 0 asks about. One that is gone is reported; one that was stopped for long is *fenced*, that
is killed, so that it can never come back and disturb what others have taken over; one that lives is left alone,
whatever it does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

#: Seconds between two looks at the next rank of the ring.
LOOK_S = 1.0
#: A rank found stopped at every look for this long is fenced. Whoever suspends a whole job suspends the looking too.
STOPPED_S = 20.0

GONE = "gone"
STOPPED = "stopped"
LIVES = "lives"
UNSEEN = "unseen"


class Neighbours:
    """The other ranks of this host.

    Args:
        rank: this one.
        pids: rank to process id, of all ranks of this host that run in our process namespace.
    """

    def __init__(self, rank: int, pids: Mapping[int, int], stopped_s: float = STOPPED_S) -> None:
        self._rank = rank
        self._stopped_s = stopped_s
        self._pids = {other: pid for other, pid in pids.items() if other != rank}
        # Process ids are used again: what started later is somebody else. A rank that cannot be seen at the start
        # (another namespace has other numbers) is none of ours to judge.
        self._born = {other: born for other, pid in self._pids.items() if (born := _look(pid)[1]) is not None}
        self._next_look = 0.0
        self._stopped_since: dict[int, float] = {}
        self._looked_at = 0.0

    def forget(self, rank: int) -> None:
        """``rank`` is known to be gone."""
        self._born.pop(rank, None)

    def look_around(self, now: float) -> tuple[int, str] | None:
        """Look at the next rank of the ring if it is time to; return it and why it is lost, if it is."""
        if now < self._next_look:
            return None
        self._next_look = now + LOOK_S
        higher = [rank for rank in self._born if rank > self._rank]
        if not self._born:
            return None
        rank = min(higher or self._born)
        state, reason = self.examine(rank, now)
        return (rank, reason) if state in (GONE, STOPPED) else None

    def examine(self, rank: int, now: float) -> tuple[str, str]:
        """Return how ``rank`` is, and why that is said: GONE, STOPPED (and so fenced), LIVES or UNSEEN."""
        born = self._born.get(rank)
        if born is None:
            return UNSEEN, "its process cannot be seen from here"
        state, since = _look(self._pids[rank])
        if since != born or state in ("Z", "X"):
            return GONE, "its process is gone"
        if state not in ("T", "t"):
            self._stopped_since.pop(rank, None)
            return LIVES, f"its process is alive (state {state})"
        return self._judge_stopped(rank, now)

    def _judge_stopped(self, rank: int, now: float) -> tuple[str, str]:
        # Looks that are far apart tell that this process was suspended as well: then counting starts anew.
        if now - self._looked_at > 5 * LOOK_S:
            self._stopped_since.pop(rank, None)
        self._looked_at = now
        stopped_s = now - self._stopped_since.setdefault(rank, now)
        if stopped_s < self._stopped_s:
            return LIVES, f"its process has been stopped for {stopped_s:.0f} s"
        try:
            os.kill(self._pids[rank], signal.SIGKILL)
        except OSError:
            pass  # it is gone by now
        return STOPPED, f"its process had been stopped for {stopped_s:.0f} s and was ended"


def _look(pid: int) -> tuple[str, str | None]:
    """Return a process's state letter and when it started; ("", None) if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], fields[19]
