"""A worker of a simulated launch: it runs the reactor of real runs, over ports that the simulation supplies.

The rank stands where :mod:`handoff_mpi.runtime.worker_driver` stands in a real run: it gathers facts, and calls the
reactor when a message has come, a call has ended or a turn is due. The reactor stores, serves, reports and sends.
"""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi.comm import Envelope
from handoff_mpi.messages import INLINE_RESULT_NBYTES, NORMAL, Buffers, Message
from handoff_mpi.runtime.call_io import CallIO
from handoff_mpi.runtime.worker_ports import NO_FACTS, MemoryFact, WorkerFacts
from handoff_mpi.runtime.worker_reactor import WorkerReactor
from handoff_mpi.simulation.calls import SimulatedCalls
from handoff_mpi.simulation.context import RUN, SimulationContext, Traits
from handoff_mpi.simulation.values import AmpleMemory, SimulatedValues
from handoff_mpi.worker.budget import UNLIMITED_NBYTES
from handoff_mpi.worker.events import Pressed, QueuedCall
from handoff_mpi.worker.machine import Worker


class SimulatedRank:
    """One worker rank.

    Args:
        around: the launch.
        rank: its own.
        slots: how many calls it runs at once.
        traits: its kind.

    Attributes:
        values: its store, and its sight of the run-dir.
        pressed_until: until when memory is short.
        is_dead: for good.
        silent_until: until when it handles nothing.
        stopped_since: since when its process has been stopped, None if it is not.
    """

    def __init__(self, around: SimulationContext, rank: int, slots: int, traits: Traits) -> None:
        machine = Worker(
            rank,
            RUN,
            slots,
            heartbeat_s=2.0,
            store_nbytes=20 * INLINE_RESULT_NBYTES,
            cache_nbytes=traits.cache_nbytes,
            reads_files=traits.sees_files,
            fan_out=traits.fan_out,
            referred_nbytes=INLINE_RESULT_NBYTES,
        )
        self.rank = rank
        self.pressed_until = -1.0
        self.is_dead = False
        self.silent_until = -1.0
        self.stopped_since: float | None = None
        self._around = around
        self._clock = around.clock
        self._arrived: list[Envelope] = []
        self._facts = NO_FACTS
        transport = _Transport(around, rank)
        self.values = SimulatedValues(around, machine, traits)
        self._call_io = CallIO(transport, self.values, machine.held, RUN)
        self._calls = SimulatedCalls(around, rank, machine, self._call_io, traits)
        self._reactor = WorkerReactor(transport, machine, self.values, AmpleMemory(), self._calls, self._call_io)

    def is_silent(self) -> bool:
        return self._clock.now < self.silent_until

    # -- turns ----------------------------------------------------------------------------------------

    def receive(self, source: int, message: Message) -> None:
        """A message has arrived."""
        if not self.is_dead:
            self._arrived.append(Envelope(source, message))
            self.wake()

    def wake(self) -> None:
        """Let the reactor handle all that is known, unless the rank is dead or handles nothing."""
        if self.is_dead or self.is_silent():
            return
        self.stopped_since = None
        arrived, self._arrived = self._arrived, []
        facts, self._facts = self._facts, NO_FACTS
        self._calls.leases.look()
        self.values.must_keep_wanted = len(arrived) + len(self._call_io.events) + (facts is not NO_FACTS) == 1
        for rank in self._reactor.step(arrived, facts, self._clock.now).asked:
            self._examine(rank)
        self._reactor.ready(lambda: self._clock.now)
        wakeup = self._reactor.next_wakeup()
        self._clock.at(max(self._clock.now + 1e-6, wakeup), "tick", self.rank, wakeup)

    def tick(self, wakeup: float) -> None:
        """A planned wake-up; one that was overtaken by events does nothing, or they would multiply."""
        if wakeup == self._reactor.next_wakeup():
            self.wake()

    # -- facts ----------------------------------------------------------------------------------------

    def _examine(self, rank: int) -> None:
        """Look at the process of a rank of the same host that rank 0 asks about."""
        is_lost = self._around.looks_dead(rank)
        self._reactor.report_process(rank, is_lost, _LOST if is_lost else "it is alive")

    def find_lost(self, rank: int) -> None:
        """Find that the process of a rank of the same host no longer exists, between two turns."""
        self._reactor.step((), WorkerFacts(lost=(rank, _LOST)), self._clock.now)

    def press(self, until: float, levels: Sequence[int], can_spill: bool) -> bool:
        """Memory was looked at, and is short until then; return whether it is to be looked at again."""
        if self.is_dead:
            return False
        self.pressed_until = max(self.pressed_until, until)
        is_short = self._clock.now < until
        level = self._around.rng.choice(levels) if is_short else NORMAL
        excess = self._around.rng.choice((0, 1, 5 * INLINE_RESULT_NBYTES, 100 * INLINE_RESULT_NBYTES))
        room = 5 * INLINE_RESULT_NBYTES - excess if is_short else UNLIMITED_NBYTES
        pressed = Pressed(level, excess, can_spill, "drawn at random")
        self._facts = WorkerFacts(memory=MemoryFact(room, can_spill, pressed))
        self.wake()
        return is_short

    def end(self, work: QueuedCall, how: str) -> None:
        """A call ends: "ok", "raised" or "killed"."""
        if not self.is_dead and self._calls.end(work, how):
            self.wake()

    def lease_ends(self, work: QueuedCall, serial: int) -> None:
        """A lease ends, if that is planned still."""
        if not self.is_dead and self._calls.leases.end(work, serial):
            self.wake()

    def lease_part_ends(self, work: QueuedCall) -> None:
        """A child sends a part of a lease."""
        if not self.is_dead and self._calls.leases.part(work):
            self.wake()


_LOST = "its process no longer exists"


class _Transport:
    """The transport of a worker: it sends into the simulated network, which knows which messages are large."""

    def __init__(self, around: SimulationContext, rank: int) -> None:
        self._around = around
        self._rank = rank

    def send(self, dest: int, message: Message, buffers: Buffers = ()) -> None:
        """Send a message."""
        self._around.send(self._rank, dest, message)
