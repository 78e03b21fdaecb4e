"""The driver of a worker's reactor in a real run: it gathers facts, and gives the reactor its ports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from handoff_mpi.comm import Envelope, Transport, fresh_memory
from handoff_mpi.resources.memory import Gauge
from handoff_mpi.results.store import ResultStore
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.call_io import CallIO
from handoff_mpi.runtime.host_usage import HostUsage, interval_s
from handoff_mpi.runtime.memory_monitor import MemoryMonitor
from handoff_mpi.runtime.process_monitor import LIVES, UNSEEN, ProcessMonitor
from handoff_mpi.runtime.rank_calls import RankCalls
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.value_store import RankValues
from handoff_mpi.runtime.worker_ports import NO_FACTS, MemoryFact, WorkerFacts
from handoff_mpi.runtime.worker_reactor import WorkerReactor
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.machine import Worker
from handoff_mpi.worker.shared_memory import SHARED_NBYTES, allocate, mapped_nbytes

#: To find out what limits the memory of this process takes longer than a small run.
_gauge = lru_cache(maxsize=4)(Gauge)


def _memory_for_children(nbytes: int) -> tuple[Any, Any]:
    """Large values are received where children can map them, so that they are not copied once more for each call."""
    if nbytes >= SHARED_NBYTES:
        try:
            return allocate(nbytes)
        except OSError:
            pass  # then they are copied
    return fresh_memory(nbytes)


class WorkerDriver:
    """Drives the reactor of one rank for one run.

    Args:
        child_pool: children of runs before, and for those after; None if the run's are all to end with it.
        store: see :class:`~handoff_mpi.runtime.value_store.RankValues`.
        only_calls: whether nothing else that users wrote runs in this process while the run does.

    Attributes:
        own_calls: the calls of this very process.
        reactor: takes in what has happened, and acts.
    """

    def __init__(
        self,
        transport: Transport,
        setup: RunSetup,
        child_pool: ChildPool | None = None,
        store: ResultStore | None = None,
        only_calls: bool = False,
    ) -> None:
        self.transport = transport
        self.setup = setup
        rank = transport.rank
        self._values = values = RankValues(rank, setup, store)
        self.machine = machine = _machine(rank, setup, values.sees_files)
        self._call_io = call_io = CallIO(transport, values, machine.held, setup.number)
        self._calls = calls = RankCalls(rank, setup, machine, call_io, child_pool, only_calls)
        self.caller, self.own_calls, self.lock = calls.caller, calls.own, calls.own.lock
        gauge = _gauge(setup.memory_nbytes, setup.ranks_here)
        self._memory_monitor = MemoryMonitor(gauge, setup.ranks_here, calls.pids, mapped_nbytes, values.can_spill)
        self.reactor = WorkerReactor(transport, machine, values, self._memory_monitor, calls, call_io)
        self._process_monitor = ProcessMonitor(rank, setup.pids)
        self._usage = HostUsage(has_gpus=True) if setup.usage_s else None
        self._began = clock()
        self._next_sample = self._began + setup.usage_s
        self._make_memory = _memory_for_children if setup.isolation == "process" or setup.slots > 1 else fresh_memory
        transport.set_receive_allocator(self._allocate)

    def _allocate(self, nbytes: int) -> tuple[Any, Any]:
        """Return memory for a buffer that is about to come; values leave memory first if there is no room for it."""
        self.reactor.expect(nbytes)
        return self._make_memory(nbytes)

    # -- a turn -------------------------------------------------------------------------------------

    def turn(self, arrived: Sequence[Envelope] = ()) -> bool:
        """Gather facts, take in what arrived, and do what the machine wants; return whether anything had happened.

        The caller holds ``lock`` if the progress thread may run.

        Raises:
            ConnectionError: rank 0 is lost.
        """
        calls, reactor = self._calls, self.reactor
        now = clock()
        if not arrived and self._has_nothing_to_do(now):
            return False
        if calls.are_awaited:
            calls.listen()
        taken = reactor.step(arrived, self._gather(now), now)
        for rank in taken.lost:
            self._process_monitor.forget(rank)
        for rank in taken.asked:
            self._examine(rank, now)
        was_busy = reactor.has_events
        reactor.ready(clock)
        return was_busy

    def run_own_calls(self) -> bool:
        """Run calls in this very thread, if any wait; return whether there were any. Not under ``lock``."""
        return self.own_calls.run(self.reactor)

    def _has_nothing_to_do(self, now: float) -> bool:
        """Whether a turn would do nothing, as most do."""
        call_io = self._call_io
        if call_io.events or call_io.updates or self._calls.are_awaited or self._must_look(now):
            return False
        return now < self.machine.next_wakeup()

    @property
    def has_left(self) -> bool:
        """Whether the run is over for this rank."""
        return self.reactor.has_left

    @property
    def is_hasty(self) -> bool:
        """Whether a value is likely to come or go at once: sleeps would take longer than most transfers."""
        return clock() < self.reactor.hasty_until

    def sockets(self) -> list[Any]:
        """Return what becomes readable when a child speaks."""
        return self._calls.sockets()

    def update_resources(self, rank: int, amounts: dict[str, object]) -> None:
        """Have rank 0 receive an update of resources, at the next turn; from any thread."""
        self._call_io.update(rank, amounts)

    # -- facts --------------------------------------------------------------------------------------

    def _must_look(self, now: float) -> bool:
        return now >= self._process_monitor.next_look or now >= self._memory_monitor.next_look

    def _gather(self, now: float) -> WorkerFacts:
        """Gather the facts that the reactor cannot see itself.

        Raises:
            ConnectionError: rank 0 is lost.
        """
        if not self._must_look(now):
            return NO_FACTS
        memory = usage = None
        if now >= self._memory_monitor.next_look:
            usage, memory = self._sample(now), self._measure(now)
        return WorkerFacts(memory, usage, self._look_around(now))

    def _sample(self, now: float) -> dict[str, float] | None:
        """Return how much of the host is in use, if it is time to."""
        if self._usage is None or now < self._next_sample:
            return None
        self._next_sample = now + max(self.setup.usage_s, interval_s(1, now - self._began))
        return self._usage.sample()

    def _measure(self, now: float) -> MemoryFact:
        monitor = self._memory_monitor
        pressed = monitor.look(now)
        return MemoryFact(monitor.room_nbytes, monitor.can_spill, pressed)

    def _look_around(self, now: float) -> tuple[int, str] | None:
        """Look at rank 0 and at the next rank of this host, if it is time to; return a rank that is lost, and why."""
        monitor = self._process_monitor
        if now >= monitor.next_look and (reason := monitor.is_lost(0, now)):
            monitor.forget(0)
            raise ConnectionError(f"rank 0 is lost: {reason}")  # every rank of its host sees that for itself
        lost = monitor.look_around(now)
        if lost is not None and lost[0] == 0:
            raise ConnectionError(f"rank 0 is lost: {lost[1]}")
        return lost

    def _examine(self, rank: int, now: float) -> None:
        """Look at the process of a rank that rank 0 asks about; others may see it if it cannot be seen from here."""
        state, reason = self._process_monitor.examine(rank, now)
        if state != UNSEEN:
            self.reactor.report_process(rank, state != LIVES, reason)

    def close(self) -> None:
        """End the children, and free the values. Running children are killed: their results are not wanted any more."""
        self.transport.set_receive_allocator(fresh_memory)
        self._calls.close()
        self._values.close()
        self.machine.close()


def _machine(rank: int, setup: RunSetup, sees_files: bool) -> Worker:
    return Worker(
        rank,
        setup.number,
        setup.slots,
        setup.heartbeat_s,
        setup.store_nbytes,
        setup.cache_nbytes,
        setup.tells_transfers,
        reads_files=sees_files,
        stays_open=setup.stays_open,
    )
