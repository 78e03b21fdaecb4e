"""When the running calls of a rank are looked at: long ones are reported, those that have used up their time are ended.

The timeout of an array is that of each element. Which element runs is known to the process that computes the lease, so
the driver reports it where there is a timeout. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from handoff_mpi import messages
from handoff_mpi.messages import DIED, TIMED_OUT, TIMEOUT, ErrorReport
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.events import Begun, ElementBegun, Kill, QueuedCall, TakePart
from handoff_mpi.worker.outbox import Outbox

#: Calls that run longer than this are reported while they run, and so are parts of leases, this often.
LONG_CALL_S = 0.1


class CallClock:
    """The times of the running calls.

    Args:
        run: number of the run, part of every message.
        outbox: takes the commands.
        running: the call that runs in each slot, or None.

    Attributes:
        next_look: nothing is to be reported or ended before this.
    """

    def __init__(self, run: int, outbox: Outbox, running: Sequence[QueuedCall | None]) -> None:
        self.next_look = math.inf
        self._run = run
        self._outbox = outbox
        self._running = running

    def begins(self, work: QueuedCall) -> None:
        """A call is about to begin."""
        now = work.started = self._outbox.now
        timeout_s = work.timeout_s
        due = now + (LONG_CALL_S if timeout_s is None or timeout_s > LONG_CALL_S else timeout_s)
        if due < self.next_look:
            self.next_look = due

    def on_begun(self, event: Begun) -> None:
        """The timeout counts from here on, without earlier waits."""
        event.work.started = self._outbox.now
        event.work.is_overdue = False
        self.next_look = self._outbox.now

    def on_element_begun(self, event: ElementBegun) -> None:
        """The timeout counts from here on again."""
        work = event.work
        work.element, work.element_started, work.is_overdue = event.index, event.started, False
        self.next_look = self._outbox.now

    def look(self) -> None:
        """Report calls that last, end those that have used up their time, and note when to look again."""
        started, now, self.next_look = [], self._outbox.now, math.inf
        for slot, work in enumerate(self._running):
            if work is None:
                continue
            if now - work.started >= LONG_CALL_S and not work.is_reported:
                work.is_reported = True
                started.append((work.task, work.attempt, work.started))
            if not work.is_reported:
                self.next_look = min(self.next_look, work.started + LONG_CALL_S)
            elif work.elements is not None:
                self._look_at_part(work)
            if work.timeout_s is not None and not work.is_overdue:
                self._look_at_timeout(slot, work, work.timeout_s)
        if started:
            self._outbox.tell(messages.heartbeat(self._run, started))

    def _look_at_part(self, work: QueuedCall) -> None:
        """Have reported what has ended of a lease that lasts."""
        now = self._outbox.now
        if now >= work.part_due:
            work.part_due = now + LONG_CALL_S
            self._outbox.commands.append(TakePart(work))
        self.next_look = min(self.next_look, work.part_due)

    def _look_at_timeout(self, slot: int, work: QueuedCall, timeout_s: float) -> None:
        since = work.element_started or work.started
        if self._outbox.now - since >= timeout_s:
            work.is_overdue = True
            self._outbox.commands.append(Kill(slot))
        else:
            self.next_look = min(self.next_look, since + timeout_s)


def failure_of(work: QueuedCall, outcome: Outcome) -> tuple[int, ErrorReport | None]:
    """Return the status and the error of a call that has failed: one that was ended for its timeout has timed out."""
    error = outcome.error
    if not work.is_overdue or outcome.status != DIED:
        return outcome.status, error
    why = f"took longer than its timeout of {work.timeout_s:g} s"
    output = "" if error is None else ErrorReport(*error).output
    return TIMED_OUT, ErrorReport(TIMEOUT, why, output=output, element=work.element)
