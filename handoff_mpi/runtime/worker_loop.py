"""The loop of a computing rank: poll, let its machine handle the messages, run a call; until the run is over.

The thread that polls runs the short calls itself. While one lasts, a second thread (the progress thread) takes over
the communicator after some milliseconds, so that its rank receives messages during a long call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from handoff_mpi import messages
from handoff_mpi.comm import Envelope, RankFailed, Transport
from handoff_mpi.coroutines import running_loop_hidden
from handoff_mpi.messages import ASKED, DECODE, SETUP, SHUTDOWN, START
from handoff_mpi.process_context import this_process
from handoff_mpi.runtime.backoff import Backoff, clock
from handoff_mpi.runtime.callback_watch import watched
from handoff_mpi.runtime.host_probe import LIVES, NOT_ASKED, from_environment
from handoff_mpi.runtime.progress_thread import ProgressThread
from handoff_mpi.runtime.rank0_monitor import Rank0Monitor
from handoff_mpi.runtime.resource_updates import UpdateTarget
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.serialization import decode_writable
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.child_process import no_launcher_in_environment
from handoff_mpi.worker.silence_timer import SilenceTimer

#: Seconds between two looks at whether the launcher and rank 0 are still there.
WORKER_CHECK_INTERVAL_S = 0.02
#: Messages that no run's machine handles.
_BETWEEN_RUNS = frozenset({START, SETUP, DECODE, SHUTDOWN})


def serve_run(
    transport: Transport,
    setup: RunSetup,
    pending: Sequence[Envelope],
    is_threaded: bool,
    leave: Callable[[], object] | None = None,
    end: Callable[[BaseException], object] | None = None,
    child_pool: ChildPool | None = None,
    rank0_monitor: Rank0Monitor | None = None,
) -> tuple[object, list[Envelope]]:
    """Take part in one run as a worker until rank 0 ends it.

    Args:
        pending: what arrived with the start of the run.
        is_threaded: whether a second thread may use the communicator.
        leave: ends this process, at once, when the job is over while a call runs whose outcome nobody wants.
        end: the same when this rank cannot continue, which is otherwise raised once the call has ended.
        child_pool: see :class:`~handoff_mpi.runtime.worker_driver.WorkerDriver`.
        rank0_monitor: looks after a rank 0 that is silent for long with good reason; None where it is not.

    Returns:
        What rank 0 shares with all ranks, and messages that are not of this run: a call that outlasted its run
        was left to end, and rank 0 continued meanwhile.

    Raises:
        ConnectionError: rank 0 was lost, or this rank's host was cut off from it.
    """
    driver = WorkerDriver(transport, setup, child_pool, only_calls=True)
    own_calls = driver.own_calls
    backoff = Backoff(transport.doorbell)
    poller = _Poller(driver, leave, rank0_monitor)
    poll = poller.poll
    progress_thread = ProgressThread(own_calls, transport, poll, end) if is_threaded else None
    own_calls.progress_thread = progress_thread
    has_store = setup.store_factory is not None
    if progress_thread is not None:
        progress_thread.start()
    try:
        with (
            this_process.of(UpdateTarget).taking(driver),
            no_launcher_in_environment(),
            running_loop_hidden(),
            watched(has_store, f"rank {transport.rank}", "no function runs there"),
        ):
            with driver.lock:
                poll(pending)
            while not driver.has_left:
                with driver.lock:
                    was_busy = poll()
                if progress_thread is not None and progress_thread.error is not None:
                    raise progress_thread.error
                if own_calls:
                    driver.run_own_calls()
                    backoff.was_busy()
                    continue
                if not backoff.spin(was_busy, transport.is_transferring or driver.is_hasty):
                    backoff.sleep(driver.machine.next_wakeup(), driver.sockets(), transport.all_rings)
    finally:
        if progress_thread is not None:
            progress_thread.close()
        driver.close()
    results = driver.reactor.results
    return None if results is None else decode_writable(results), poller.later


class _Poller:
    """Messages that arrive at a worker, for its run or for later; and signs that it cannot continue.

    Attributes:
        later: messages that are not of the run.
    """

    def __init__(
        self, driver: WorkerDriver, leave: Callable[[], object] | None, rank0_monitor: Rank0Monitor | None = None
    ) -> None:
        self._rank0_monitor = rank0_monitor
        self.later: list[Envelope] = []
        self._driver = driver
        self._leave = leave
        self._launcher = os.getppid()
        self._next_look = 0.0
        self._has_heard = False
        self._silence_timer = SilenceTimer(driver.setup.silence_timeout_s, clock())

    def poll(self, first: Sequence[Envelope] = ()) -> bool:
        """Take in what has arrived; return whether anything was done.

        Raises:
            ConnectionError: rank 0 or the launcher has ended.
        """
        driver = self._driver
        of_run = []
        for each in (*first, *driver.transport.poll()):
            if isinstance(each, RankFailed):
                if each.rank == 0:
                    raise ConnectionError(f"rank 0 was lost: {each.reason}")
                continue
            self._has_heard |= each.source == 0
            if each.kind in _BETWEEN_RUNS:
                self._keep_for_later(each)
            elif each.kind == ASKED and self._rank0_monitor is not None:
                (answer,) = each.fields
                self._rank0_monitor.take(answer, clock())
            else:
                of_run.append(each)
        now = clock()
        if now >= self._next_look:
            self._look_around(now)
        return driver.turn(of_run)

    def _look_around(self, now: float) -> None:
        self._next_look = now + WORKER_CHECK_INTERVAL_S
        if os.getppid() != self._launcher:
            raise ConnectionError("the launcher has ended")
        has_heard, self._has_heard = self._has_heard, False
        if self._rank0_monitor is not None:
            self._rank0_monitor.look(has_heard, now)
        silence_timeout_s = self._driver.setup.silence_timeout_s
        # Once the run is over rank 0 may be silent for good reason, while a call of it still runs here.
        if silence_timeout_s and not self._driver.has_left and self._silence_timer.has_ended(has_heard, now):
            _look_at_rank_0(self._driver.setup, self._silence_timer)

    def _keep_for_later(self, each: Envelope) -> None:
        self.later.append(each)
        if each.kind == SHUTDOWN and self._leave is not None:
            shut_down_workers(self._driver.transport)
            self._leave()


def shut_down_workers(transport: Transport) -> None:
    """Tell rank 0 that this rank leaves the job."""
    transport.send(0, messages.bye())
    transport.flush(5.0)


def _look_at_rank_0(setup: RunSetup, silence_timer: SilenceTimer) -> None:
    """Rank 0 is silent: if it lives it is busy, and waited for; if not, or its host does not answer, this rank ends.

    Raises:
        ConnectionError: it is to end.
    """
    host_probe = from_environment()
    host = None if host_probe is None else host_probe.name_of(setup.rank0[0])
    if host_probe is not None and host is not None:
        answer = host_probe.ask(host, setup.rank0[1])
        if answer == LIVES:
            silence_timer.restart()
            return
    else:
        answer = NOT_ASKED
    if answer == NOT_ASKED and silence_timer.silence_s < 2 * setup.silence_timeout_s:
        return
    raise ConnectionError(f"rank 0 has been silent for {silence_timer.silence_s:.0f} s, and does not live or answer")
