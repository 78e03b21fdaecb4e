"""What a placement costs the scheduler, by the number of ranks, up to 10,000; no MPI, one process.

    python -m tests.benchmarks.ranks [--repeats 5] [--json FILE]

Every rank is a host of its own with two slots and ends its calls in random order. Uniform: all functions cost one core.
Mixed: six costs, some with GPUs and memory. The figure is the processor time of all turns, by functions.
"""

from __future__ import annotations

import random
import time

from handoff_mpi.allocation import Ledger, LoadBalanced
from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import OK
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import Closed, Dispatch, Event, Finished, Policy, Scheduler, Submitted
from tests.benchmarks.harness import Answer, arguments, in_turns

COUNTS = (10, 100, 1_000, 10_000)
CPU = {"cpu": UNIT}
MIXED = [CPU, {"cpu": 2 * UNIT}, {"cpu": UNIT, "gpu": UNIT}, {"gpu": UNIT // 2}, {}]
MIXED += [{"cpu": UNIT, "memory": 500 * UNIT}]
#: Longer than what is sent in batches, so that every function is placed.
CALL_S = 1.0


def placements_us(ranks: int, costs: list[dict[str, int]], seed: int = 1) -> float:
    """Return microseconds a function of scheduling."""
    dice = random.Random(seed)
    hosts = [
        Capability(rank, f"h{rank}", {"cpu": 2 * UNIT, "memory": 1000 * UNIT}, (Device(0, f"g{rank}"),))
        for rank in range(1, ranks + 1)
    ]
    ledger = Ledger(hosts, dict.fromkeys(range(1, ranks + 1), 2))
    scheduler = Scheduler(ledger, LoadBalanced(), Policy(silence_limit_s=float("inf")))
    functions = max(5_000, 3 * ranks)
    specs = [TaskSpec((), dice.choice(costs)) for _ in range(functions)]
    took, now = 0.0, 0.0
    events: list[Event] = [Submitted(specs), Closed()]
    flying: list[tuple[int, int, int]] = []
    while True:
        begun = time.process_time()
        commands = scheduler.handle(events, now)
        took += time.process_time() - begun
        scheduler.take_log()
        if scheduler.is_over:
            return took / functions * 1e6
        for command in commands:
            if isinstance(command, Dispatch):
                flying += [(command.rank, task, attempt) for task, attempt in command.tasks]
        now += CALL_S / max(1, len(flying))
        at = dice.randrange(len(flying))
        flying[at], flying[-1] = flying[-1], flying[at]
        rank, task, attempt = flying.pop()
        events = [Finished(rank, [(task, attempt, OK, (0, None), 8, now, CALL_S)])]


def ask(ranks: int, repeats: int) -> Answer:
    figures = {}
    for name, costs in (("uniform", [CPU]), ("mixed", MIXED)):
        contenders = {f"{count:,} ranks": (lambda c=count, k=costs: placements_us(c, k)) for count in COUNTS}
        figures[name] = in_turns(contenders, repeats)
    return Answer("scheduling, by the number of ranks, against 10", "10 ranks", figures, "µs a function")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
