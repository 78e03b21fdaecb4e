"""The cost of scheduling, and of a placement alone, by the number of ranks, up to 10,000; no MPI, one process.

    python -m tests.benchmarks.ranks [--repeats 5] [--json FILE]

Every rank is a host of its own with two slots and ends its calls in random order. Uniform: all functions cost one core.
Mixed: six costs, some with GPUs and memory. Scheduling is the processor time of the machine's turns, by functions, once
all slots are busy and while more functions wait for each than it runs: with ten ranks and with ten thousand, most slots
continue with the next function of their class.
A placement alone is what the strategy takes to choose a rank on a busy cluster, and the ledger to claim there and to
release what made room: no queues, no attempts, no commands.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TypeVar

from handoff_mpi.allocation import Claim, ClusterView, Ledger, LoadBalanced, RequestClass
from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import OK
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.runtime import gc_control
from handoff_mpi.scheduler import Closed, Command, Dispatch, Finished, Policy, Scheduler, Submitted
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns

Item = TypeVar("Item")

COUNTS = (10, 100, 1_000, 10_000)
CPU = {"cpu": UNIT}
MIXED = [CPU, {"cpu": 2 * UNIT}, {"cpu": UNIT, "gpu": UNIT}, {"gpu": UNIT // 2}, {}]
MIXED += [{"cpu": UNIT, "memory": 500 * UNIT}]
SCHEDULING = ("scheduling, uniform", "scheduling, mixed")
PLACEMENT = ("a placement alone, uniform", "a placement alone, mixed")
PLACEMENTS = 5_000
WAITING = 12  # functions for each slot, at the least: of each of six costs as many as there are slots, and more
BATCH = 10  # calls that end at once
#: Longer than what is sent in batches, so that every function is placed.
CALL_S = 1.0


def full_ledger(ranks: int) -> Ledger:
    """Return a ledger of so many ranks, each a host of its own with two slots; nothing is claimed."""
    hosts = [
        Capability(rank, f"h{rank}", {"cpu": 2 * UNIT, "memory": 1000 * UNIT}, (Device(0, f"g{rank}"),))
        for rank in range(1, ranks + 1)
    ]
    return Ledger(hosts, dict.fromkeys(range(1, ranks + 1), 2))


def scheduling_us(ranks: int, costs: list[dict[str, int]], seed: int = 1) -> float:
    """Return microseconds a function of scheduling, on a cluster that is kept full; a turn is the end of one call."""
    rng = random.Random(seed)
    scheduler = Scheduler(full_ledger(ranks), LoadBalanced(), Policy(heartbeat_timeout_s=float("inf")))
    specs = rng.choices([TaskSpec((), cost) for cost in costs], k=8 * PLACEMENTS + 2 * WAITING * ranks)
    with gc_control.frozen(len(specs)):  # as in a run
        return turns_us(scheduler, specs, PLACEMENTS, rng)


def turns_us(scheduler: Scheduler, specs: list[TaskSpec], placements: int, rng: random.Random) -> float:
    """Return microseconds of the machine's turns for each function that starts, until ``placements`` have.

    Each turn is the end of one call; the calls that run end in random order.
    """
    flying = _calls(scheduler.handle([Submitted(specs), Closed()], 0.0))
    took, placed, now = 0.0, 0, 0.0
    while placed < placements:
        now += CALL_S / len(flying)
        rank, task, attempt = _take(flying, rng)
        ended = Finished(rank, [(task, attempt, OK, (0, None), 8, now, CALL_S, False)])
        begun = time.process_time()
        commands = scheduler.handle([ended], now)
        took += time.process_time() - begun
        scheduler.tasks.take_log()
        sent = _calls(commands)
        placed += len(sent)
        flying += sent
    return took / placed * 1e6


def _take(items: list[Item], rng: random.Random) -> Item:
    """Take out one at random, touching no other: a look at all of them would empty the processor's caches."""
    at = rng.randrange(len(items))
    items[at], items[-1] = items[-1], items[at]
    return items.pop()


def _calls(commands: list[Command]) -> list[tuple[int, int, int]]:
    return [(each.rank, *call) for each in commands if isinstance(each, Dispatch) for call in each.tasks]


@dataclass
class Endless:
    """Ready tasks of one cost class, of which there are always more."""

    cost: RequestClass

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return index


def placement_us(ranks: int, costs: list[dict[str, int]], seed: int = 1) -> float:
    """Return microseconds a placement, on a cluster that is kept full."""
    rng = random.Random(seed)
    ledger = full_ledger(ranks)
    view, strategy = ClusterView(ledger), LoadBalanced()
    strategy.prepare(view)
    groups = [Endless(ledger.request_class(cost)) for cost in costs]
    held: list[Claim] = []

    def place(order: list[Endless]) -> None:
        """Serve the groups until nothing fits."""
        for group in order:
            for _, rank in strategy.allocate([group], view):
                held.append(ledger.claim(group.cost, rank))

    place(groups)
    took, placed = 0.0, 0
    while placed < PLACEMENTS:
        ended = [_take(held, rng) for _ in range(min(BATCH, len(held)))]
        before, order = len(held), rng.sample(groups, len(groups))  # in random order no cost starves
        begun = time.process_time()
        for claim in ended:
            ledger.release(claim)
        place(order)
        took += time.process_time() - begun
        placed += len(held) - before
    return took / placed * 1e6


def ask(setting: Setting) -> Answer:
    counts = COUNTS[:-1] if setting.quick else COUNTS

    def costs_us(ranks: int) -> dict[str, float]:
        return {
            SCHEDULING[0]: scheduling_us(ranks, [CPU]),
            SCHEDULING[1]: scheduling_us(ranks, MIXED),
            PLACEMENT[0]: placement_us(ranks, [CPU]),
            PLACEMENT[1]: placement_us(ranks, MIXED),
        }

    figures = in_turns({f"{count:,} ranks": (lambda count=count: costs_us(count)) for count in counts}, setting.repeats)
    return Answer("by the number of simulated ranks", f"{COUNTS[0]} ranks", figures, "µs")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
