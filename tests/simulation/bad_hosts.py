"""Many equal functions on hosts of which some are bad: how long the run takes, and what fails for good.

``python -m tests.simulation.bad_hosts`` shows all cases; the tests run some of them.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from handoff_mpi.allocation import CostOptimized, FirstAvailable, Ledger, LoadBalanced
from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import DEATH, DIED, OK, RAISED, TIMED_OUT, TIMEOUT
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import (
    Closed,
    Dispatch,
    Finished,
    Policy,
    Retract,
    Retracted,
    Scheduler,
    Submitted,
)
from handoff_mpi.serialization import PLAIN
from handoff_mpi.simulation import check
from tests.scheduler.transcript import WORDS

STRATEGIES = {each.__name__: each for each in (FirstAvailable, LoadBalanced, CostOptimized)}
#: What a failed call reports.
ENDS = {
    RAISED: ("ValueError", "oops", ""),
    TIMED_OUT: (TIMEOUT, "too long", ""),
    DIED: (DEATH, "killed by signal 11", ""),
}


@dataclass
class Case:
    """Functions of one second on ranks of which some are bad.

    Attributes:
        hosts: a letter for each rank, that of its host.
        bad: whether a call fails, given the rank, its host, the time it starts, and a random number below 1.
        fails_after_s: how long a failing call takes.
        ideal: the hosts whose time alone is what the run should need.
        good: so many ranks instead.
        bugs: functions that fail everywhere.
    """

    hosts: str
    bad: Callable[[int, str, float, float], bool]
    fails_after_s: float = 0.01
    functions: int = 200
    max_retries: int | None = 3
    status: int = RAISED
    ideal: str = ""
    good: int = 0
    bugs: range = range(0)
    options: dict = field(default_factory=dict)


@dataclass
class Outcome:
    """The end of a case: by the ideal time; calls by rank; attempts beyond one each; failures for good."""

    ratio: float
    failed: int
    calls: Counter
    attempts: list[int]
    log: list[str]


class Run:
    """One case under a fake clock; messages take no time."""

    def __init__(self, case: Case, strategy: str = "FirstAvailable", seed: int = 0) -> None:
        ranks = range(1, len(case.hosts) + 1)
        cores = {host: case.hosts.count(host) * UNIT for host in case.hosts}
        capabilities = [Capability(rank, host, {"cpu": cores[host]}) for rank, host in enumerate(case.hosts, 1)]
        policy = Policy(max_retries=case.max_retries, **case.options)
        self.scheduler = Scheduler(Ledger(capabilities, dict.fromkeys(ranks, 1)), STRATEGIES[strategy](), policy)
        self.case, self.now, self.calls, self.log = case, 0.0, Counter(), []
        self._rng = random.Random(seed)
        self._queues = {rank: [] for rank in ranks}
        self._running = dict.fromkeys(ranks)
        self._events, self._serial = [], count()
        self._wakeup = float("inf")

    def run(self) -> Outcome:
        spec = TaskSpec((), {"cpu": UNIT})
        self._turn(Submitted([spec] * self.case.functions), Closed())
        while not self.scheduler.is_over:
            self._step()
            assert self.now < 3600, "the run hangs"
        good = self.case.good or sum(host in self.case.ideal for host in self.case.hosts)
        ideal = -(-self.case.functions // good)
        failed = len(self.scheduler.tasks.failures)
        return Outcome(self.now / ideal, failed, self.calls, list(self.scheduler.tasks.attempts), self.log)

    def _step(self) -> None:
        if self._events and self._events[0][0] <= self._wakeup:
            self.now, _, rank, entry = heapq.heappop(self._events)
            self._running[rank] = None
            self._start(rank)
            self._turn(Finished(rank, [entry]))
        else:
            self.now = max(self.now + 1e-6, self._wakeup)
            self._turn()

    def _turn(self, *events) -> None:
        for command in self.scheduler.handle(events, self.now):
            if isinstance(command, Dispatch):
                self._queues[command.rank] += command.tasks
                self._start(command.rank)
            elif isinstance(command, Retract):
                back = [each for each in command.tasks if each in self._queues[command.rank]]
                self._queues[command.rank] = [each for each in self._queues[command.rank] if each not in back]
                self._turn(Retracted(command.rank, back))
        check(self.scheduler)
        for task, _, _, _, rank, detail in self.scheduler.tasks.take_log():
            if task < 0:
                self.log.append(f"{self.now:.2f} rank {rank} {WORDS[type(detail)]}: {tuple(detail)}")
        self._wakeup = self.scheduler.next_wakeup()

    def _start(self, rank: int) -> None:
        if self._running[rank] is not None or not self._queues[rank]:
            return
        task, attempt = self._running[rank] = self._queues[rank].pop(0)
        self.calls[rank] += 1
        host = self.case.hosts[rank - 1]
        is_bug = task in self.case.bugs
        if self.case.bad(rank, host, self.now, self._rng.random()) or is_bug:
            end, entry = self.case.fails_after_s, (self.case.status, ENDS[self.case.status], 0, self.now)
        else:
            end, entry = 1.0, (OK, (PLAIN, None), 8, self.now)
        entry = (task, attempt, *entry, end, False)
        heapq.heappush(self._events, (self.now + end, next(self._serial), rank, entry))


def host(*bad: str) -> Callable[..., bool]:
    """All calls fail on these hosts."""
    return lambda rank, where, now, rng: where in bad


def goes_bad(rank: int, where: str, now: float, rng: float) -> bool:
    """Host a fails all calls from some moment on."""
    return where == "a" and now > 10


CASES = {
    "bad host, fails fast": Case("aaaabb", host("a"), ideal="b"),
    "bad host, fails as late as others end": Case("aaaabb", host("a"), 1.0, ideal="b"),
    "bad host, fails late": Case("aaaabb", host("a"), 5.0, ideal="b"),
    "bad host, time-outs": Case("aaaabb", host("a"), 10.0, status=TIMED_OUT, ideal="b"),
    "bad host, deaths": Case("aaaabb", host("a"), 0.1, status=DIED, ideal="b"),
    "bad host, one retry": Case("aaaabb", host("a"), max_retries=1, ideal="b"),
    "bad host, no retries": Case("aaaabb", host("a"), max_retries=0, ideal="b"),
    "bad host, no retries, late": Case("aaaabb", host("a"), 1.5, max_retries=0, ideal="b"),
    "bad host, crash limit 1": Case("aaaabb", host("a"), 0.1, status=DIED, options={"crash_limit": 1}, ideal="b"),
    "good host first": Case("bbaaaa", host("a"), ideal="b"),
    "good host first, no retries": Case("bbaaaa", host("a"), max_retries=0, ideal="b"),
    "two bad hosts": Case("aaccbb", host("a", "c"), ideal="b"),
    "two bad hosts, one retry": Case("aaccbb", host("a", "c"), max_retries=1, ideal="b"),
    "two bad hosts, no retries": Case("aaccbb", host("a", "c"), max_retries=0, ideal="b"),
    "three bad hosts": Case("aaccddbb", host("a", "c", "d"), ideal="b"),
    "three bad hosts, no retries": Case("aaccddbb", host("a", "c", "d"), max_retries=0, ideal="b"),
    "five bad hosts of one rank": Case("acdefb", host("a", "c", "d", "e", "f"), ideal="b"),
    "five bad hosts of one rank, no retries": Case("acdefb", host(*"acdef"), max_retries=0, ideal="b"),
    "bad rank of one host": Case("aaa", lambda rank, host, now, rng: rank == 1, good=2),
    "bad rank of one host, no retries": Case("aaa", lambda rank, *_: rank == 1, max_retries=0, good=2),
    "bad rank of two hosts": Case("aaabbb", lambda rank, *_: rank == 1, good=5),
    "bad rank of two hosts, no retries": Case("aaabbb", lambda rank, *_: rank == 1, max_retries=0, good=5),
    "half bad host": Case("aaaabb", lambda rank, host, now, rng: host == "a" and rng < 0.5, ideal="b"),
    "half bad host, late": Case("aaaabb", lambda rank, host, now, rng: host == "a" and rng < 0.5, 1.0, ideal="b"),
    "half bad host, no retries": Case(
        "aaaabb", lambda rank, host, now, rng: host == "a" and rng < 0.5, max_retries=0, ideal="b"
    ),
    "goes bad": Case("aaaabb", goes_bad, ideal="b"),
    "goes bad, no retries": Case("aaaabb", goes_bad, 0.01, max_retries=0, ideal="b"),
    "goes bad, no retries, late": Case("aaaabb", goes_bad, 1.0, max_retries=0, ideal="b"),
    "becomes good": Case("aaaabb", lambda rank, host, now, rng: host == "a" and now < 10, ideal="b"),
    "flaky functions": Case("aaaabb", lambda rank, host, now, rng: rng < 0.1, 1.0, ideal="ab"),
    "very flaky functions": Case("aabbccdd", lambda r, h, now, rng: rng < 0.4, 1.0, max_retries=9, ideal="abcd"),
    "flaky, no retries": Case("aaaabb", lambda rank, host, now, rng: rng < 0.1, 1.0, max_retries=0, ideal="ab"),
    "bugs in a row, no retries": Case("abcdef", host(), 1.0, max_retries=0, bugs=range(60, 90), ideal="abcdef"),
    "bugs on a bad host, no retries": Case("aaaabb", host("a"), max_retries=0, bugs=range(0, 200, 10), ideal="b"),
    "all fail": Case("aaaabb", lambda *_: True, 1.0, functions=40, ideal="ab"),
    "all fail, no retries": Case("aaaabb", lambda *_: True, 1.0, functions=40, max_retries=0, ideal="ab"),
    "all fail, fast, no retries": Case("aaaabb", lambda *_: True, 0.01, functions=40, max_retries=0, ideal="ab"),
    "all fail on one rank": Case("a", lambda *_: True, 1.0, functions=5, ideal="a"),
}


def main() -> None:
    wanted = " ".join(sys.argv[1:])
    for name, case in CASES.items():
        if wanted and wanted != name:
            continue
        for strategy in STRATEGIES:
            outcome = Run(case, strategy).run()
            calls = " ".join(f"{rank}:{calls}" for rank, calls in sorted(outcome.calls.items()))
            spread = dict(sorted(Counter(outcome.attempts).items()))
            figures = f"{outcome.ratio:5.2f} of ideal, {outcome.failed:3} failed; {calls}; attempts {spread}"
            print(f"{name:42} {strategy:15} {figures}")
            if wanted:
                print(*outcome.log, sep="\n")


if __name__ == "__main__":
    main()
