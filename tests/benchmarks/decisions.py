"""The cost of a decision among many priorities or costs; no MPI, one process.

    python -m tests.benchmarks.decisions [--repeats 5] [--json FILE]

Functions wait for 128 ranks of one host: all alike, each with a priority of its own, or each with a memory of its own.
A decision is the processor time of the machine's turns, by functions that start, once all slots are busy.
"""

from __future__ import annotations

import random

from handoff_mpi.allocation import Ledger, LoadBalanced
from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import Policy, Scheduler
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns
from tests.benchmarks.ranks import CPU, turns_us

RANKS = 128
WAITING = 10_000
DECISIONS = 3_000
ALIKE = "all alike"
KINDS = (ALIKE, "10,000 priorities", "10,000 costs")


def specs_of(kind: str) -> list[TaskSpec]:
    """Return the functions of one kind."""
    if kind == ALIKE:
        return [TaskSpec((), CPU)] * WAITING
    if kind == KINDS[1]:
        return [TaskSpec((), CPU, priority=number) for number in range(WAITING)]
    return [TaskSpec((), {"cpu": UNIT, "memory": UNIT + number}) for number in range(WAITING)]


def decision_us(kind: str, seed: int = 1) -> float:
    """Return microseconds of rank 0 for each function that starts."""
    amounts = {"cpu": RANKS * UNIT, "memory": 1_000_000 * UNIT}
    ledger = Ledger(
        [Capability(rank, "h", amounts) for rank in range(1, RANKS + 1)], dict.fromkeys(range(1, RANKS + 1), 1)
    )
    scheduler = Scheduler(ledger, LoadBalanced(), Policy(heartbeat_timeout_s=float("inf")))
    return turns_us(scheduler, specs_of(kind), DECISIONS, random.Random(seed))


def ask(setting: Setting) -> Answer:
    contenders = {kind: (lambda kind=kind: {"a decision": decision_us(kind)}) for kind in KINDS}
    return Answer("by what waits for 128 ranks", ALIKE, in_turns(contenders, setting.repeats), "µs")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
