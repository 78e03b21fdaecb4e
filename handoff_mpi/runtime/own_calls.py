"""The calls that a rank runs itself, in the thread that polls, one after the other.

Looking for messages costs more than a short call: between calls, for a moment, only the machine is asked.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.call_io import CallIO
from handoff_mpi.runtime.worker_reactor import WorkerReactor
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.elements import NOTHING_ENDED, ElementLoop
from handoff_mpi.worker.events import PartEnded, QueuedCall, Serve

#: Calls follow one another for this long before messages are looked for.
_BURST_S = 0.0005


class WatcherPort(Protocol):
    """Looks after messages while a call runs; see :class:`~handoff_mpi.runtime.progress_thread.ProgressThread`."""

    @property
    def is_parked(self) -> bool:
        """Whether it sleeps until it is woken."""
        ...

    def wake(self) -> None:
        """A call has begun."""
        ...


class OwnCalls:
    """Calls, and encodings of values, that wait to run in this very thread.

    Args:
        rank: its own.
        caller: calls functions, and encodes values.
        call_io: gathers inputs, and takes results.
        has_user_store: whether values are in a store of the user's, which is called between two calls.

    Attributes:
        lock: a thread holds it while it lets the machine decide, and never while it runs code of the user.
        is_calling: whether code of the user runs in this thread now.
        call_serial: how often it has begun to.
        work: the call that runs, or ran last; None where it is an encoding.
        progress_thread: looks after messages while a call runs; None if there is none.
    """

    def __init__(self, rank: int, caller: CallRunner, call_io: CallIO, has_user_store: bool) -> None:
        self.lock = threading.Lock()
        self.is_calling = False
        self.call_serial = 0
        self.work: QueuedCall | None = None
        self.progress_thread: WatcherPort | None = None
        self._rank = rank
        self._caller = caller
        self._call_io = call_io
        self._has_user_store = has_user_store
        self._calls: deque[QueuedCall] = deque()
        self._encodings: deque[Serve] = deque()

    def __bool__(self) -> bool:
        """Whether anything waits to run."""
        return bool(self._calls or self._encodings)

    def call(self, work: QueuedCall) -> None:
        """Have ``work`` run when those before it have."""
        if work.elements is not None:
            work.loop = ElementLoop(work.elements)
        self._calls.append(work)

    def take_part(self, work: QueuedCall) -> None:
        """Have the machine learn what has ended of a lease that runs; from any thread that holds ``lock``."""
        part = None if work.loop is None else work.loop.take()
        if part is not None:
            self._call_io.note(PartEnded(work, part))

    def stop(self, work: QueuedCall) -> None:
        """Have no further element of a lease begin; from any thread that holds ``lock``."""
        loop = work.loop
        if loop is not None:
            left = loop.stop()
            self._call_io.note(PartEnded(work, (loop.take() or NOTHING_ENDED)._replace(left=left)))

    def encode(self, command: Serve) -> None:
        """Have a value encoded: user code runs where calls run, never beside one."""
        self._encodings.append(command)

    def running(self) -> list[tuple[int, int, int, float]]:
        """Return (task, attempt, rank, start) of the call that runs now; from any thread."""
        work = self.work
        if work is None or not self.is_calling:
            return []
        return [(work.task, work.attempt, self._rank, work.started)]

    def run(self, reactor: WorkerReactor) -> bool:
        """Run some of what waits; return whether there was any. Not under ``lock``."""
        if self._encodings:
            self._encode(self._encodings.popleft())
            return True
        if not self._calls:
            return False
        if self._has_user_store:
            self._run_burst(reactor)
            return True
        self._caller.begin()
        try:
            self._run_burst(reactor)
        finally:
            self._caller.finish()
        return True

    def _run_burst(self, reactor: WorkerReactor) -> None:
        started = clock()
        end = started + _BURST_S
        while self._calls and started < end:
            work = self._calls.popleft()
            outcome = self._call(work)
            with self.lock:
                if work.elements is not None:
                    work.loop = None
                if outcome is not None:
                    self._call_io.end(work, outcome, started)
                reactor.ready(clock)
            started = reactor.now  # a clock that is asked again says hardly more

    def _call(self, work: QueuedCall) -> Outcome | None:
        """Run a call; None if an input is unavailable."""
        self.work = work
        self._begin_calling()
        try:
            if not self._call_io.gather(work):
                return None
            return self._caller.call(work)
        finally:
            self.is_calling = False
            if work.sources:
                work.values = ()

    def _begin_calling(self) -> None:
        """Code of the user runs in this thread from now on, for any time: a progress thread looks after messages."""
        self.call_serial += 1
        self.is_calling = True
        if self.progress_thread is not None and self.progress_thread.is_parked:
            self.progress_thread.wake()

    def _encode(self, command: Serve) -> None:
        with self.lock:
            payload = self._call_io.value(command.task)
        outcome = None
        if payload is not None:
            self._caller.learn(command.codes, None)
            self.work = None
            self._begin_calling()
            try:
                outcome = self._caller.encode(payload, command.codec, command.dest)
            finally:
                self.is_calling = False
        with self.lock:
            self._call_io.answer(command, outcome)
