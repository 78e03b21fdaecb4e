"""The cost of a lease on rank 0, by the number of ranks, up to 10,000; no MPI, one process.

    python -m tests.benchmarks.leases [--repeats 5] [--json FILE]

Simulated ranks of one slot compute an array of elements of 10 ms, a thousand for each: 10,000,000 on 10,000 ranks. Each
rank reports a lease when all its elements have ended, in the order of the simulated clock, and what has ended within a
millisecond is one turn. A decision is the processor time of the machine's turns, by leases. The whole array has its own
row: seconds from its submission to its end, the simulated ranks included.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass

from handoff_mpi.allocation import Ledger, LoadBalanced
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import OK, LeaseReport
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import (
    Closed,
    Command,
    Dispatch,
    ElementsEnded,
    Event,
    Finished,
    Policy,
    Retract,
    Retracted,
    Scheduler,
    Submitted,
)
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns

COUNTS = (10, 100, 1_000, 10_000)
ELEMENTS = 1_000  # for each rank
ELEMENT_S = 0.01
#: All that ends within this time is one turn.
TURN_S = 0.001
DECISION, WHOLE = "a lease, µs", "a thousand elements a rank, s"


@dataclass(eq=False)
class _Lease:
    """A lease at a rank: its end moves forward when it is recalled."""

    rank: int
    number: int
    attempt: int
    elements: list[tuple[int, int]]
    count: int
    begun: float = -1.0


class SimulatedRanks:
    """Ranks that compute the leases of one array, one after the other.

    Attributes:
        leases: how many there were.
        decisions_s: processor time of the machine's turns.
        computed: how many elements have ended.
    """

    def __init__(self, ranks: int, elements: int, element_s: float = ELEMENT_S) -> None:
        hosts = [Capability(rank, f"h{rank}", {"cpu": UNIT}) for rank in range(1, ranks + 1)]
        ledger = Ledger(hosts, dict.fromkeys(range(1, ranks + 1), 1))
        self.scheduler = Scheduler(ledger, LoadBalanced(), Policy(heartbeat_timeout_s=float("inf")))
        self.leases = self.computed = 0
        self.decisions_s = self.now = 0.0
        self._element_s = element_s
        self._queues: dict[int, list[_Lease]] = {rank: [] for rank in range(1, ranks + 1)}
        self._ends: list[tuple[float, int, _Lease]] = []
        self._serial = 0
        self._answers: list[Event] = []
        self._turn([Submitted([TaskSpec((), {"cpu": UNIT}, array=ArraySpec(elements))]), Closed()])

    def run(self) -> None:
        """Run the array to its end."""
        while not self.scheduler.is_over:
            first = self._ends[0][0] if self._ends else float("inf")
            self.now = max(self.now + TURN_S, min(first, self.scheduler.next_wakeup()) if not self._answers else 0.0)
            ended, self._answers = self._answers, []
            while self._ends and self._ends[0][0] <= self.now:
                _, _, lease = heapq.heappop(self._ends)
                if lease.begun >= 0 and self._end_of(lease) <= self.now:
                    ended.append(self._end(lease))
            self._turn(ended)

    def _turn(self, events: list[Event]) -> None:
        begun = time.process_time()
        commands = self.scheduler.handle(events, self.now)
        self.decisions_s += time.process_time() - begun
        self.scheduler.tasks.take_log()
        for command in commands:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Dispatch):
            queue = self._queues[command.rank]
            for number, attempt in command.tasks:
                intervals = self.scheduler.arrays.leases[number].intervals
                queue.append(_Lease(command.rank, number, attempt, intervals.intervals(), len(intervals)))
                self.leases += 1
            self._begin(queue)
        elif isinstance(command, Retract):
            for number, attempt in command.tasks:
                lease = next((each for each in self._queues[command.rank] if each.number == number), None)
                if lease is not None and lease.attempt == attempt:
                    self._give_back(lease)

    def _give_back(self, lease: _Lease) -> None:
        """A lease that has not begun comes back whole, of a running one what is behind its running element."""
        if lease.begun < 0:
            self._queues[lease.rank].remove(lease)
            self._answers.append(Retracted(lease.rank, [(lease.number, lease.attempt)]))
            return
        kept = IntervalSet(lease.elements)
        begun = IntervalSet(kept.take(int((self.now - lease.begun) / self._element_s) + 1))
        if kept:
            lease.elements, lease.count = begun.intervals(), len(begun)
            report = LeaseReport((), ("numbers",), (), tuple(kept), 0.0)
            self._answers.append(ElementsEnded(lease.rank, lease.number, lease.attempt, report))
            self._plan(lease)

    def _begin(self, queue: list[_Lease]) -> None:
        if queue and queue[0].begun < 0:
            queue[0].begun = self.now
            self._plan(queue[0])

    def _plan(self, lease: _Lease) -> None:
        self._serial += 1
        heapq.heappush(self._ends, (self._end_of(lease), self._serial, lease))

    def _end_of(self, lease: _Lease) -> float:
        return lease.begun + lease.count * self._element_s

    def _end(self, lease: _Lease) -> Finished:
        queue = self._queues[lease.rank]
        assert queue.pop(0) is lease
        lease.begun = -1.0
        self._begin(queue)
        self.computed += lease.count
        seconds = lease.count * self._element_s
        report = LeaseReport(tuple(lease.elements), ("numbers",), (), (), seconds)
        return Finished(lease.rank, [(lease.number, lease.attempt, OK, report, 8, self.now, seconds, False)])


def cost_of(ranks: int) -> dict[str, float]:
    """Return what an array costs on so many ranks."""
    begun = time.perf_counter()
    simulated = SimulatedRanks(ranks, ELEMENTS * ranks)
    simulated.run()
    assert simulated.computed == ELEMENTS * ranks
    return {DECISION: simulated.decisions_s / simulated.leases * 1e6, WHOLE: time.perf_counter() - begun}


def ask(setting: Setting) -> Answer:
    counts = COUNTS[:-1] if setting.quick else COUNTS
    figures = in_turns({f"{count:,} ranks": (lambda count=count: cost_of(count)) for count in counts}, setting.repeats)
    return Answer("by the number of simulated ranks", f"{COUNTS[0]} ranks", figures, "µs and s")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
