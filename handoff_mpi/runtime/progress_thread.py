"""The second thread of a rank: looks after the communicator while the first is in a long call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from handoff_mpi.callbacks import shown
from handoff_mpi.comm import Transport
from handoff_mpi.comm.collectives import WHY_IN_VAIN, find_collective
from handoff_mpi.console import print_message
from handoff_mpi.runtime.backoff import MAX_SLEEP_S, wait_for
from handoff_mpi.runtime.own_calls import OwnCalls

#: The progress thread looks after a call that lasts longer than this.
ATTEND_S = 0.005
#: It looks this soon again after something came, and while large buffers are on their way.
_BUSY_S = 0.001
#: A call that has lasted so long is looked at, again and again: whether it waits for other ranks in vain.
_COLLECTIVE_S = 5.0


class ProgressThread(threading.Thread):
    """Looks after the communicator while the main thread is in a long call.

    Args:
        calls: those of the main thread.
        transport: of the rank.
        poll: takes in messages, under the lock of ``calls``; returns whether anything was done.
        end: ends this process, from this thread: when rank 0 was lost nobody wants the outcome of the call, which may
            last for hours. Where it is None, ``error`` is there for the main thread once the call has ended.
    """

    def __init__(
        self,
        calls: OwnCalls,
        transport: Transport,
        poll: Callable[[], bool],
        end: Callable[[BaseException], object] | None = None,
    ) -> None:
        super().__init__(name="handoff-progress_thread", daemon=True)
        self._calls = calls
        self._transport = transport
        self._poll = poll
        self._end = end
        self._wake = threading.Event()
        self.is_parked = False
        self.is_closed = False
        self.error: BaseException | None = None
        self._next_look = 0.0

    def run(self) -> None:
        calls = self._calls
        while not self.is_closed:
            serial = calls.call_serial
            if not calls.is_calling:
                self._linger()
                if not calls.is_calling and calls.call_serial == serial:
                    self._park()
                continue
            self._next_look = time.monotonic() + _COLLECTIVE_S
            self._pause(ATTEND_S)
            while calls.is_calling and calls.call_serial == serial and not self.is_closed:
                with calls.lock:
                    if calls.is_calling:
                        self._attend()
                        self._look_at_call()
                self._pause(_BUSY_S if self._busy or self._transport.is_transferring else MAX_SLEEP_S)

    _busy = _is_rung = False

    def _look_at_call(self) -> None:
        """Say once of a call that it waits in a collective operation: no other rank will come."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _COLLECTIVE_S
        where = find_collective()
        if where:
            self._next_look = float("inf")
            work = self._calls.work
            what = "a serialize" if work is None else f"function {shown(work.id)}"
            print_message(f"{what} waits on rank {self._transport.rank} in {where}: {WHY_IN_VAIN}")

    def _attend(self) -> None:
        doorbell = self._transport.doorbell
        if doorbell is not None and self._is_rung:
            doorbell.clear()
        try:
            self._busy = self._poll()
        except BaseException as error:
            self.error = error
            self.is_closed = True
            if self._end is not None:
                self._end(error)

    def _pause(self, seconds: float) -> None:
        doorbell = self._transport.doorbell
        if doorbell is None:
            time.sleep(seconds)
        else:
            self._is_rung = bool(wait_for([doorbell], seconds))

    def _linger(self) -> None:
        """Sleep a little before the next look: to be woken for each of many short calls would cost more than they."""
        self._wake.clear()
        if not self.is_closed:
            self._wake.wait(ATTEND_S)

    def _park(self) -> None:
        self._wake.clear()
        self.is_parked = True
        if not self._calls.is_calling and not self.is_closed:
            self._wake.wait(1.0)
        self.is_parked = False

    def wake(self) -> None:
        """Called when a call begins; once is enough, so the next calls need not do it again before it has come to."""
        self.is_parked = False
        self._wake.set()

    def close(self) -> None:
        self.is_closed = True
        self._wake.set()
        self.join(5.0)
