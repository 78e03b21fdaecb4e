"""The calls of a simulated rank: each takes its time, and ends as the workload and the faults have it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from handoff_mpi.messages import DEATH, DIED, ISOLATE, OK, RAISED, ErrorReport
from handoff_mpi.runtime.call_io import CallIO
from handoff_mpi.serialization import PLAIN, Payload
from handoff_mpi.simulation.context import SimulationContext, Traits
from handoff_mpi.simulation.leases import SimulatedLeases
from handoff_mpi.simulation.run_dir import plain_value
from handoff_mpi.simulation.workload import Inputs
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.events import QueuedCall, Serve
from handoff_mpi.worker.machine import Worker

#: So many calls are sent ahead to a child.
_AHEAD = 3
#: A call that hangs never ends by itself.
_NEVER = 1e9


class SimulatedCalls:
    """Runs the calls of one rank under the fake clock.

    Args:
        around: the launch.
        rank: its own.
        machine: knows which calls are to run.
        call_io: gathers inputs, and takes results.
        traits: of the rank.

    Attributes:
        leases: those that run.
    """

    def __init__(self, around: SimulationContext, rank: int, machine: Worker, call_io: CallIO, traits: Traits) -> None:
        self._around = around
        self._clock = around.clock
        self._rank = rank
        self._machine = machine
        self._call_io = call_io
        self._calls_itself = traits.calls_itself
        self._running: dict[int, tuple[QueuedCall, Inputs]] = {}  # by slot, with the inputs as handed over
        self._ahead: dict[int, list[QueuedCall]] = defaultdict(list)  # by slot; there may be more later
        self._constants: set[int] = set()
        self._codes: set[int] = set()
        self.leases = SimulatedLeases(around, rank, call_io, self._is_own, self._kills)

    # -- for the reactor ------------------------------------------------------------------------------

    def learn(self, codes: Sequence[tuple[int, bytes]], constant: tuple[int, Payload] | None) -> None:
        """Take in codes; each is sent once, but for messages that come twice. And a constant."""
        self._codes.update(number for number, _ in codes)
        if constant is not None:
            self._constants.add(constant[0])

    def code(self, number: int) -> bytes:
        """No value of a simulated run is encoded for its receiver."""
        raise AssertionError(number)

    def take_part(self, work: QueuedCall) -> None:
        """Have the machine learn what has ended of a lease; children report that by themselves."""
        self.leases.take_part(work)

    def stop(self, work: QueuedCall) -> None:
        """Have no further element of a lease begin."""
        self.leases.stop(work)

    def encode(self, command: Serve) -> None:
        """No value of a simulated run is encoded for its receiver."""
        raise AssertionError(command)

    def call(self, work: QueuedCall) -> None:
        """Begin a call, if it gets all that it needs."""
        load, rng = self._around.load, self._around.rng
        self._has_begun(work)
        assert self._constants.issuperset(work.call_template[3]), f"task {work.task} runs without its constants"
        assert self._codes.issuperset(work.call_template[0]), f"task {work.task} runs without its code"
        if not self._call_io.gather(work):
            return
        self._around.note_call(self._rank, work)
        inputs = [plain_value(payload) for payload, _, _ in work.values]
        work.values = ()
        if work.elements is not None:
            self.leases.begin(work, inputs)
            return
        how = self._draw_end(work)
        duration = load.duration_s[work.task]
        if work.timeout_s is not None and rng.random() < 0.1:
            duration = _NEVER
        self._running[work.slot] = (work, inputs)
        if duration < _NEVER:
            self._clock.at(self._clock.now + duration, "end", self._rank, work, how)

    def _draw_end(self, work: QueuedCall) -> str:
        """Return how a call will end."""
        load = self._around.load
        if work.attempt <= load.kills.get(work.task, 0):
            return "killed"
        if work.attempt <= load.raises.get(work.task, 0):
            return "raised"
        return self._around.spoils(self._rank, work.task) or "ok"

    def kill(self, slot: int) -> None:
        """End the call that runs in a slot, or its element that has used up its time."""
        work = self._machine.running[slot]
        if work is not None and work.elements is not None:
            self.leases.kill(work)
        else:
            self._clock.at(self._clock.now, "end", self._rank, self._running[slot][0], "killed")

    def prefill(self) -> None:
        """Send each child that runs a call those that come next."""
        for slot, ahead in self._ahead.items():
            running = self._machine.running[slot]
            if running is not None and self._suits_ahead(running):
                ahead += self._machine.slots.prefill(slot, _AHEAD - len(ahead), lambda work, _: self._suits_ahead(work))

    def _suits_ahead(self, work: QueuedCall) -> bool:
        """Whether a call may be sent ahead to a child, or may run while others are."""
        return not self._is_own(work) and work.elements is None

    def take_back(self) -> None:
        """Take back what children were sent ahead."""
        for slot in self._ahead:
            self._take_back(slot)

    def _take_back(self, slot: int) -> None:
        for work in self._ahead[slot]:
            work.is_ahead = False
        self._ahead[slot].clear()

    def relieve_idle(self) -> None:
        """Children of simulated ranks keep no memory."""

    def end_output(self) -> None:
        """Simulated calls print nothing."""

    def _has_begun(self, work: QueuedCall) -> None:
        """A call begins; calls that were sent ahead begin in their order, except those that failed."""
        ahead = self._ahead[work.slot]
        if any(not other.is_here for other in ahead):
            self._take_back(work.slot)
        elif ahead:
            assert ahead.pop(0) is work, f"task {work.task} overtakes what its child was sent"

    def _is_own(self, work: QueuedCall) -> bool:
        """Whether a call runs in the rank itself."""
        return self._calls_itself and work.slot == 0 and not work.flags & ISOLATE

    # -- ends -----------------------------------------------------------------------------------------

    def end(self, work: QueuedCall, how: str) -> bool:
        """A call ends: "ok", "raised" or "killed"; return whether its rank takes note of that."""
        running, inputs = self._running.get(work.slot, (None, []))
        if running is not work:
            return False
        del self._running[work.slot]
        if how == "killed":
            self._take_back(work.slot)  # its child has ended
        if how == "killed" and not work.is_overdue and self._kills(work, -1):
            return False
        outcome = self._end_well(work, inputs) if how == "ok" else self._end_badly(work, how)
        self._call_io.end(work, outcome, work.started)
        return True

    def _kills(self, work: QueuedCall, element: int) -> bool:
        """A call kills its process; return whether that is the rank's own.

        Args:
            element: the one that does so, of a lease; else -1.
        """
        self._around.note_kill(work.task, element)
        if not self._rank or not (self._is_own(work) or work.task in self._around.load.fells):
            return False
        self._around.die(self._rank)
        return True

    def _end_well(self, work: QueuedCall, inputs: Inputs) -> Outcome:
        load = self._around.load
        nbytes = self._around.rng.choice(load.nbytes[work.task])
        return _SizedOutcome((PLAIN, load.value(work.task, inputs)), nbytes, self._clock.now - work.started)

    def _end_badly(self, work: QueuedCall, how: str) -> Outcome:
        own = self._around.load.errors.get(work.task, "ValueError") if how == "raised" else "ValueError"
        status, kind = (DIED, DEATH) if how == "killed" else (RAISED, own)
        return Outcome(status, None, ErrorReport(kind, how, "", (kind,)), self._clock.now - work.started)


class _SizedOutcome(Outcome):
    """A value that takes as many bytes as the workload says."""

    def __init__(self, payload: Payload, nbytes: int, duration: float) -> None:
        super().__init__(OK, payload, None, duration)
        self._nbytes = nbytes

    @property
    def nbytes(self) -> int:
        """The size that was drawn."""
        return self._nbytes
