"""The cost of a turn does not grow with the number of ranks, of hosts' ranks, or of values: counted, not timed.

The measure is how many instructions the interpreter carries out: a change that makes anything linear again, in any way,
multiplies them. Loops that are C's own (sorting a few queues, taking a number out of a short list) are not seen.
"""

from __future__ import annotations

import random
import sys

import pytest

from handoff_mpi.allocation import CostOptimized, FirstAvailable, Ledger, LoadBalanced
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import OK, RAISED, LeaseReport
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import Closed, Dispatch, Finished, Policy, RankLost, Retract, Scheduler, Submitted
from handoff_mpi.serialization import PLAIN

CPU = {"cpu": UNIT}
MIXED = [CPU, {"cpu": 2 * UNIT}, {"cpu": UNIT, "gpu": UNIT}, {"gpu": UNIT // 2}, {}]
MIXED += [{"cpu": UNIT, "memory": 500 * UNIT}]
STRATEGIES = [FirstAvailable, LoadBalanced, CostOptimized]
#: Heaps are a little deeper where there is more in them, and which classes fit differs from run to run.
TOLERANCE = 1.5


class Counter:
    """Counts instructions of the interpreter while it is entered."""

    def __init__(self):
        self.count = 0

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(self._before)

    def _trace(self, frame, event, arg):
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.count += 1
        return self._trace


class Cluster:
    """A scheduler whose ranks end their calls one by one, in random order."""

    def __init__(self, ranks, ranks_a_host=1, strategy=None, slots=2):
        hosts = [self._capability(rank, ranks_a_host, slots) for rank in range(1, ranks + 1)]
        ledger = Ledger(hosts, dict.fromkeys(range(1, ranks + 1), slots))
        self.scheduler = Scheduler(ledger, strategy or FirstAvailable(), Policy(heartbeat_timeout_s=float("inf")))
        self.rng = random.Random(1)
        self.now = 0.0
        self.flying = []
        self.placed = 0

    @staticmethod
    def _capability(rank, ranks_a_host, slots):
        host = f"h{(rank - 1) // ranks_a_host}"
        amounts = {"cpu": 2 * ranks_a_host * UNIT, "memory": 1000 * ranks_a_host * UNIT}
        return Capability(rank, host, amounts, (Device(0, "one"), Device(1, "other")))

    def tell(self, *events):
        self.now += 1e-6
        commands = self.scheduler.handle(events, self.now)
        self.scheduler.tasks.take_log()
        for command in commands:
            if isinstance(command, Dispatch):
                self.placed += len(command.tasks)
                self.flying += [(command.rank, task, attempt) for task, attempt in command.tasks]
        return commands

    def submit(self, *specs):
        return self.tell(Submitted(specs), Closed())

    def end(self, status=OK, value=(PLAIN, None)):
        """End a random call."""
        at = self.rng.randrange(len(self.flying))
        self.flying[at], self.flying[-1] = self.flying[-1], self.flying[at]
        rank, task, attempt = self.flying.pop()
        self.tell(Finished(rank, [(task, attempt, status, value, 8, self.now, 1.0, False)]))

    def end_calls(self, calls, lasted=0.001):
        """End these calls of one rank."""
        for call in calls:
            self.flying.remove(call)
        entries = [(task, attempt, OK, (PLAIN, None), 8, self.now, lasted, False) for _, task, attempt in calls]
        self.tell(Finished(calls[0][0], entries))

    def steps(self, turns=100, **ending):
        """How many instructions a turn takes in which a call ends."""
        self.placed = 0
        with Counter() as counter:
            for _ in range(turns):
                self.end(**ending)
        return counter.count / turns


def asked(strategy):
    """The strategy, asked for every placement: no slot continues by itself."""
    strategy.reuses_claims = False
    return strategy


def steps_a_placement(strategy, costs, ranks, ranks_a_host=1):
    cluster = Cluster(ranks, ranks_a_host, strategy, slots=1)
    rng = random.Random(2)
    cluster.submit(*[TaskSpec((), rng.choice(costs)) for _ in range(2 * ranks + 300)])
    for _ in range(20):
        cluster.end()
    steps = cluster.steps(100)
    assert cluster.placed > 50
    return steps * 100 / cluster.placed


def grows(figures):
    return max(figures[1:]) / figures[0]


@pytest.mark.long
@pytest.mark.sample("FirstAvailable-mixed", "LoadBalanced-uniform", "CostOptimized-mixed")
@pytest.mark.parametrize("costs", [[CPU], MIXED], ids=["uniform", "mixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_placement_costs_the_same_with_ten_ranks_and_with_ten_thousand(strategy, costs):
    figures = [steps_a_placement(asked(strategy()), costs, ranks) for ranks in (10, 1_000, 10_000)]
    assert grows(figures) < TOLERANCE, figures


@pytest.mark.parametrize("costs", [[CPU], MIXED], ids=["uniform", "mixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_placement_costs_the_same_with_two_ranks_a_host_and_with_two_hundred(strategy, costs):
    figures = [steps_a_placement(asked(strategy()), costs, 10 * each, each) for each in (2, 20, 200)]
    assert grows(figures) < TOLERANCE, figures


@pytest.mark.long
def test_a_slot_that_goes_on_by_itself_costs_the_same_with_any_number_of_ranks():
    figures = [steps_a_placement(LoadBalanced(), [CPU], ranks) for ranks in (10, 1_000, 10_000)]
    assert grows(figures) < 1.1, figures


def goes_on(costs, ranks):
    """How many instructions a turn takes in which a slot continues, while functions of all these costs wait."""
    cluster = Cluster(ranks, strategy=LoadBalanced())
    cluster.submit(*random.Random(1).choices([TaskSpec((), cost) for cost in costs], k=30 * ranks + 2000))
    for _ in range(20):
        cluster.end()
    return cluster.steps(400)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [10, 1_000])
def test_functions_of_other_costs_that_wait_cost_a_slot_that_goes_on_little(ranks):
    assert goes_on(MIXED, ranks) / goes_on([CPU], ranks) < 1.6


def fill(strategy, ranks, ranks_a_host=1):
    cluster = Cluster(ranks, ranks_a_host, strategy)
    cluster.submit()
    with Counter() as counter:
        cluster.submit(*[TaskSpec((), CPU)] * (2 * ranks))
    assert cluster.placed == 2 * ranks
    return counter.count / cluster.placed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_filling_all_ranks_takes_as_much_a_rank_with_more_of_them(strategy):
    figures = [fill(strategy(), ranks) for ranks in (50, 500)]
    assert grows(figures) < 1.1, figures


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_filling_hosts_takes_as_much_a_rank_with_more_of_them_on_each(strategy):
    figures = [fill(strategy(), ranks, ranks // 2) for ranks in (20, 200)]
    assert grows(figures) < TOLERANCE, figures


def wait_for_every_rank(ranks, wish):
    """Every rank is busy, and on each a task waits that may run there alone."""
    cluster = Cluster(ranks, slots=1)
    bound = [TaskSpec((), CPU, pin=wish(rank)) for rank in range(1, ranks + 1)]
    cluster.submit(*[TaskSpec((), CPU, code=1)] * ranks, *bound, *bound)
    cluster.end()
    return cluster.steps(8)


@pytest.mark.parametrize("wish", [lambda rank: rank, lambda rank: f"h{rank - 1}"], ids=["rank", "host"])
def test_tasks_that_wait_for_other_ranks_cost_a_turn_nothing(wish):
    figures = [wait_for_every_rank(ranks, wish) for ranks in (10, 1_000)]
    assert grows(figures) < TOLERANCE, figures


def outlast(ranks):
    """All ranks but one run the last of the tasks that may run there alone; on that one a chain continues."""
    cluster = Cluster(ranks, slots=1, strategy=LoadBalanced())
    bound = [TaskSpec((), CPU, pin=rank) for rank in range(2, ranks + 1)] * 2
    chain = [TaskSpec((number - 1,) if number > len(bound) else (), CPU) for number in range(len(bound), 3 * ranks)]
    cluster.submit(*bound, *chain)
    for call in [call for call in cluster.flying if call[0] > 1]:
        cluster.end_calls([call], 1.0)
    cluster.flying.sort(key=lambda call: call[0] == 1)
    with Counter() as counter:
        for _ in range(5):
            cluster.end_calls(cluster.flying[-1:], 1.0)
    return counter.count


def test_what_waited_for_one_rank_and_is_done_costs_a_turn_nothing():
    figures = [outlast(ranks) for ranks in (10, 1_000)]
    assert grows(figures) < TOLERANCE, figures


def retries(ranks):
    """Calls fail, and their tasks avoid the rank where they did: a class of its own for each."""
    cluster = Cluster(ranks, strategy=LoadBalanced())
    cluster.submit(*[TaskSpec((), CPU)] * ranks)
    return cluster.steps(10, status=RAISED, value=("ValueError", "oops", ""))


def test_a_retry_elsewhere_costs_the_same_with_any_number_of_ranks():
    figures = [retries(ranks) for ranks in (20, 2_000)]
    assert grows(figures) < TOLERANCE, figures


def last_calls(ranks):
    """Batches are in flight, one rank is idle, and nothing is left to be placed."""
    cluster = Cluster(ranks, slots=1)
    cluster.submit(*[TaskSpec((), CPU)] * (5 * ranks))
    while cluster.scheduler.ready.is_queued():
        cluster.end_calls(cluster.flying[:1])
    cluster.end_calls([call for call in cluster.flying if call[0] == 1])
    asked = []
    for turn in range(ranks):
        cluster.now += 1.0
        asked += [command.rank for command in cluster.tell() if isinstance(command, Retract)]
        assert len(asked) <= turn + 1, "no more are asked than are idle"
    assert len(asked) >= ranks / 4
    with Counter() as counter:
        cluster.tell()
    return counter.count


def test_what_was_asked_for_again_is_not_looked_at_in_every_turn():
    figures = [last_calls(ranks) for ranks in (10, 1_000)]
    assert grows(figures) < TOLERANCE, figures


def losing_a_rank(values):
    cluster = Cluster(3, slots=1)
    cluster.submit(*[TaskSpec((), CPU, keep=True, pin=1)] * values, TaskSpec((), CPU, keep=True, pin=2))
    while cluster.flying:
        cluster.end(value=None)
    assert len(cluster.scheduler.tasks.holders) == values + 1
    with Counter() as counter:
        cluster.tell(RankLost(2, "gone"))
    return counter.count


def test_the_loss_of_a_rank_costs_the_same_with_any_values_on_others():
    figures = [losing_a_rank(values) for values in (10, 1_000)]
    assert grows(figures) < TOLERANCE, figures


def consume(ranks):
    """Functions take a value that most ranks hold a copy of."""
    cluster = Cluster(ranks, strategy=CostOptimized(), slots=1)
    cluster.tell(Submitted([TaskSpec((), CPU)]))
    cluster.end(value=None)
    cluster.submit(*[TaskSpec((0,), CPU)] * (3 * ranks))
    for _ in range(ranks):
        cluster.end()
    assert len(cluster.scheduler.tasks.holders[0]) > ranks / 2
    return cluster.steps(10)


def test_inputs_that_all_ranks_hold_are_not_weighed_one_by_one():
    figures = [consume(ranks) for ranks in (100, 1_000)]
    assert grows(figures) < TOLERANCE, figures


class Leases(Cluster):
    """A scheduler of one array, whose ranks end their leases one by one."""

    def __init__(self, ranks):
        super().__init__(ranks, slots=1, strategy=LoadBalanced())
        self.tell(Submitted([TaskSpec((), CPU, array=ArraySpec(1000 * ranks))]), Closed())
        for _ in range(ranks):
            self.end(1e-3)

    def end(self, element_s):
        """End the lease that was sent first."""
        rank, task, attempt = self.flying.pop(0)
        elements = tuple(self.scheduler.arrays.leases[task].intervals.intervals())
        busy_s = element_s * sum(stop - start for start, stop in elements)
        report = LeaseReport(elements, None, (), (), busy_s)
        self.tell(Finished(rank, [(task, attempt, OK, report, 8, self.now, busy_s, False)]))


def leases(ranks):
    cluster = Leases(ranks)
    return cluster.steps(100, element_s=1e-3)


def last_leases(ranks):
    """No element waits, one rank is idle, and all others run leases that have elements to give back."""
    cluster = Leases(ranks)
    cluster.scheduler.arrays.of[0].todo.discard(2000, 1000 * ranks)
    while cluster.scheduler.arrays.of[0].todo:
        cluster.end(1e-3)
    cluster.now += 1.0
    with Counter() as counter:
        for _ in range(10):
            cluster.end(1e-3)
            cluster.now += 0.1
    return counter.count


@pytest.mark.parametrize("question", [leases, last_leases])
def test_a_lease_costs_the_same_with_any_number_of_ranks(question):
    figures = [question(ranks) for ranks in (20, 500)]
    assert grows(figures) < TOLERANCE, figures
