"""The simulated cluster: the real machines under a fake clock, with delays, deaths, silences and duplicates.

Everything random comes from one seed, so that a failing run is replayed by its seed. After every step the books
are derived from scratch and compared (:func:`check`).
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.allocation import CostOptimized, FirstAvailable, Ledger, LoadBalanced
from handoff_mpi.dag import TaskSpec
from handoff_mpi.encoding import PLAIN
from handoff_mpi.messages import (
    ALIVE,
    BYE,
    DEATH,
    DIED,
    DISPATCH,
    FINISHED,
    FORGET,
    HOME_NBYTES,
    ISOLATE,
    KEEP,
    LOST,
    OK,
    RAISED,
    RECALL,
    RETURNED,
    STAYS,
    STOP,
    UNFETCHED,
    VALUE,
)
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import (
    Announce,
    Closed,
    Dispatch,
    Examine,
    Examined,
    Finished,
    Forget,
    Heard,
    Policy,
    RankLost,
    Recall,
    ResourcesUpdated,
    Returned,
    Scheduler,
    State,
    StopRequested,
    Submitted,
    Unfetched,
)
from handoff_mpi.worker import events as worker
from handoff_mpi.worker.machine import Worker

#: A simulated run that lasts longer than this many simulated seconds hangs.
LONGEST_S = 2_000.0


@dataclass(slots=True)
class Workload:
    """A random DAG and what befalls it.

    Attributes:
        specs: the tasks.
        duration_s, nbytes: of each task's call and value.
        raises: how many attempts of a task raise before one succeeds.
        kills: how many attempts of a task kill their process.
    """

    specs: list[TaskSpec] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    raises: dict[int, int] = field(default_factory=dict)
    kills: dict[int, int] = field(default_factory=dict)

    def value(self, task: int, inputs: list[int]) -> int:
        """Return the value of ``task``, from its inputs' values."""
        return (hash((task, *inputs)) ^ 0x5DEECE66D) & 0xFFFFFFFF

    def serial(self) -> list[int]:
        """Return all values, computed one after the other."""
        values: list[int] = []
        for task, spec in enumerate(self.specs):
            values.append(self.value(task, [values[each] for each in spec.inputs]))
        return values


def random_workload(dice: random.Random, count: int, ranks: int) -> Workload:
    """Return ``count`` random tasks that fit the random hosts of :func:`random_ledger`."""
    load = Workload()
    costs = [{"cpu": UNIT}, {"cpu": 2 * UNIT}, {"cpu": UNIT // 2, "memory": 500 * UNIT}, {"gpu": UNIT}, {}]
    costs += [{"cpu": UNIT, "gpu": UNIT // 2}, {"cpu": UNIT, "license": UNIT}]
    for task in range(count):
        inputs = tuple(sorted(dice.sample(range(task), min(task, dice.choice((0, 0, 1, 1, 2, 3))))))
        spec = TaskSpec(inputs, dice.choice(costs), dice.choice((0, 0, 0, 1)), code=dice.randrange(4))
        if dice.random() < 0.05:
            spec.pin = dice.randrange(1, ranks)
            spec.cost = costs[0]
        elif task and dice.random() < 0.05:
            other = dice.randrange(task)
            if load.specs[other].pin is None and "gpu" not in {**load.specs[other].cost, **spec.cost}:
                group = load.specs[other].group
                spec.group = load.specs[other].group = other if group is None else group
        if dice.random() < 0.1:
            spec.timeout_s = 5.0
        spec.keep = dice.random() < 0.1
        spec.stays = dice.random() < 0.05
        load.specs.append(spec)
        load.duration_s.append(dice.choice((0.0, 0.0001, 0.01, 0.3, 2.0)))
        load.nbytes.append(dice.choice((8, 8, 10 * HOME_NBYTES)))
        if dice.random() < 0.08:
            load.raises[task] = dice.choice((1, 2, 9))
        if dice.random() < 0.04:
            load.kills[task] = dice.choice((1, 9))
    consumed = {each for spec in load.specs for each in spec.inputs}
    for task, spec in enumerate(load.specs):
        spec.keep |= task not in consumed
    return load


def random_ledger(dice: random.Random, ranks: int) -> Ledger:
    """Return the ledger of ``ranks - 1`` workers on random hosts, each able to hold any random cost."""
    capabilities, slots = [], {}
    for rank in range(1, ranks):
        host = f"h{dice.randrange(max(1, ranks // 2))}"
        devices = (Device(0, f"{host}-a"), Device(1, f"{host}-b"))
        amounts = {"cpu": 4 * UNIT, "memory": 2000 * UNIT}
        capability = Capability(rank, host, amounts, devices)
        if dice.random() < 0.2:
            capability.registered = {"cpu": 2 * UNIT}
        capabilities.append(capability)
        slots[rank] = dice.choice((1, 1, 2, 3))
    return Ledger(capabilities, slots, {"license": 2 * UNIT})


@dataclass(slots=True, eq=False)
class _Rank:
    machine: Worker
    values: dict[int, int] = field(default_factory=dict)
    is_dead: bool = False
    silent_until: float = -1.0
    backlog: list[Any] = field(default_factory=list)
    calls: dict[int, Any] = field(default_factory=dict)  # slot: (work, time it ends)


class SimulatedCluster:
    """One run on a simulated cluster.

    Args:
        seed: of everything random.
        ranks: rank 0 included.
        tasks: how many.
        faults: whether ranks die and fall silent, and messages come twice.
    """

    def __init__(self, seed: int, ranks: int = 5, tasks: int = 25, faults: bool = True) -> None:
        self.dice = random.Random(seed)
        self.load = random_workload(self.dice, tasks, ranks)
        self.ledger = random_ledger(self.dice, ranks)
        strategy = self.dice.choice((FirstAvailable, LoadBalanced, CostOptimized))()
        self.policy = Policy(
            max_retries=self.dice.choice((0, 2, 3)),
            stop_on_failure=self.dice.random() < 0.1,
            max_concurrency=self.dice.choice((None, None, 1, 3)),
            silence_limit_s=30.0,
        )
        self.scheduler = Scheduler(self.ledger, strategy, self.policy)
        self.home: dict[int, int] = {}
        self.now = 0.0
        self.steps = 0
        self.ranks = {
            rank: _Rank(Worker(rank, 1, seat.slots, heartbeat_s=2.0, store_nbytes=20 * HOME_NBYTES))
            for rank, seat in self.ledger.seats.items()
        }
        self._faults = faults
        self._heap: list[tuple[float, int, Any]] = []
        self._serial = 0
        self._arrival: dict[tuple[int, int], float] = {}
        self._submitted = 0

    # -- the fake clock and network -------------------------------------------------------------------

    def at(self, time: float, what: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (time, self._serial, what))

    def send(self, source: int, dest: int, message: tuple[Any, ...]) -> None:
        """Deliver after a random delay, in order for each pair; now and then twice."""
        if source and self.ranks[source].is_dead:
            return
        arrival = max(self.now + self.dice.expovariate(1000), self._arrival.get((source, dest), 0.0))
        self._arrival[source, dest] = arrival
        self.at(arrival, ("message", source, dest, message))
        if self._faults and message[0] in (DISPATCH, FINISHED) and self.dice.random() < 0.03:
            self.at(arrival, ("message", source, dest, message))

    # -- the run --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end, checking after every step.

        Raises:
            AssertionError: the machines broke an invariant, hang, or computed a wrong value.
        """
        self._submit(self.dice.randrange(1, len(self.load.specs) + 1))
        if self._faults:
            self._plan_faults()
        for rank in self.ranks:
            self.at(0.0, ("wake", rank))
        self.at(0.0, ("wake", 0))
        while not self.scheduler.is_over:
            assert self._heap, "nothing will happen any more, and the run is not over"
            self.now, _, what = heapq.heappop(self._heap)
            assert self.now < LONGEST_S, "the run hangs"
            self.steps += 1
            getattr(self, f"_{what[0]}")(*what[1:])
            check(self.scheduler)
        self._check_results()

    def _submit(self, count: int) -> None:
        """Submit some tasks now, and the rest (whose inputs come earlier) later in the run."""
        specs = self.load.specs[self._submitted : self._submitted + count]
        self._submitted += len(specs)
        events: list[Any] = [Submitted(specs)] if specs else []
        if self._submitted == len(self.load.specs):
            events.append(Closed())
        else:
            self.at(self.now + self.dice.random(), ("submit", len(self.load.specs)))
        self._schedule(events)

    def _plan_faults(self) -> None:
        workers = sorted(self.ranks)
        for rank in self.dice.sample(workers, self.dice.randrange(len(workers))):  # one is always left
            kind = self.dice.choice(("die", "silence", "update"))
            self.at(self.dice.expovariate(0.5), (kind, rank))
        if self.dice.random() < 0.05:
            self.at(self.dice.expovariate(0.5), ("stop",))

    def _stop(self) -> None:
        self._schedule([StopRequested("asked to")])

    def _update(self, rank: int) -> None:
        self._schedule([ResourcesUpdated(rank, {"cpu": self.dice.choice((2, 3, 8)) * UNIT})])

    def _die(self, rank: int) -> None:
        self.ranks[rank].is_dead = True
        if self.dice.random() < 0.7:  # MPI does not report every death
            self.at(self.now + self.dice.expovariate(10), ("noticed", rank))

    def _noticed(self, rank: int) -> None:
        self._schedule([RankLost(rank, "it died")])

    def _silence(self, rank: int) -> None:
        self.ranks[rank].silent_until = self.now + self.dice.choice((1.0, 20.0, 100.0))
        self.at(self.ranks[rank].silent_until, ("wake", rank))

    def _message(self, source: int, dest: int, message: tuple[Any, ...]) -> None:
        if dest == 0:
            self._hear(source, message)
        elif not self.ranks[dest].is_dead:
            self.ranks[dest].backlog.append(worker.Received(source, message))
            self._wake(dest)

    def _wake(self, rank: int) -> None:
        if rank == 0:
            self._schedule([])
            return
        state = self.ranks[rank]
        if state.is_dead or self.now < state.silent_until:
            return
        events, state.backlog = state.backlog, []
        while True:
            commands = state.machine.handle(events, self.now)
            events = []
            for command in commands:
                events += self._obey(rank, state, command)
            if not events:
                break
        self.at(max(self.now + 1e-6, state.machine.next_wakeup()), ("tick", rank, state.machine.next_wakeup()))

    def _tick(self, rank: int, wakeup: float) -> None:
        """A planned wake-up; one that was overtaken by events does nothing, or they would multiply."""
        if rank == 0:
            if wakeup == self._next:
                self._schedule([])
        elif wakeup == self.ranks[rank].machine.next_wakeup():
            self._wake(rank)

    _next = -1.0

    # -- a worker's shell -----------------------------------------------------------------------------

    def _obey(self, rank: int, state: _Rank, command: Any) -> list[Any]:
        if isinstance(command, worker.Send):
            self.send(rank, command.dest, command.message)
        elif isinstance(command, worker.Put):
            state.values[command.task] = command.payload[1]
        elif isinstance(command, worker.Drop):
            del state.values[command.task]
        elif isinstance(command, worker.Serve):
            value = state.values[command.task]
            self.send(rank, command.dest, (VALUE, 1, command.ticket, (PLAIN, value)))
        elif isinstance(command, worker.Kill):
            work, _ = state.calls[command.slot]
            state.calls[command.slot] = (work, self.now)
            self.at(self.now, ("end", rank, work, "killed"))
        elif isinstance(command, worker.Call):
            return self._call(rank, state, command.work)
        return []

    def _call(self, rank: int, state: _Rank, work: Any) -> list[Any]:
        for task, _, payload, _ in work.sources:
            if payload is None and task not in state.values:
                return [worker.InputMissing(work, task)]
        how = "ok"
        if work.attempt <= self.load.kills.get(work.task, 0):
            how = "killed"
        elif work.attempt <= self.load.raises.get(work.task, 0):
            how = "raised"
        duration = self.load.duration_s[work.task]
        if work.timeout_s is not None and self.dice.random() < 0.1:
            duration = 1e9
        state.calls[work.slot] = (work, self.now + duration)
        if duration < 1e9:
            self.at(self.now + duration, ("end", rank, work, how))
        return []

    def _end(self, rank: int, work: Any, how: str) -> None:
        state = self.ranks[rank]
        if state.is_dead or state.calls.get(work.slot, (None,))[0] is not work:
            return
        del state.calls[work.slot]
        duration = self.now - work.started
        if how == "ok":
            inputs = [
                state.values[task] if payload is None else payload[1] for task, _, payload, _ in work.sources
            ]
            payload = (PLAIN, self.load.value(work.task, inputs))
            nbytes = self.load.nbytes[work.task]
            event = worker.Ended(work, OK, payload, nbytes, None, work.started, duration)
        else:
            status, kind = (DIED, DEATH) if how == "killed" else (RAISED, "ValueError")
            event = worker.Ended(work, status, None, 0, (kind, how, ""), work.started, duration)
        state.backlog.append(event)
        self._wake(rank)

    # -- rank 0's shell -------------------------------------------------------------------------------

    def _hear(self, source: int, message: tuple[Any, ...]) -> None:
        kind = message[0]
        events: list[Any] = [Heard((source,))]
        if kind == FINISHED:
            for entry in message[2]:
                if entry[2] == OK and entry[3] is not None and self.scheduler.is_current(entry[0], entry[1]):
                    self.home[entry[0]] = entry[3][1]
            events.append(Finished(source, message[2]))
        elif kind == RETURNED:
            events.append(Returned(source, message[2]))
        elif kind == UNFETCHED:
            events.append(Unfetched(source, message[2], message[3], message[4]))
        else:
            assert kind in (ALIVE, BYE), kind
        self._schedule(events)

    def _schedule(self, events: list[Any]) -> None:
        scheduler = self.scheduler
        for command in scheduler.handle(events, self.now):
            if isinstance(command, Dispatch):
                self._dispatch(command)
            elif isinstance(command, Recall):
                self.send(0, command.rank, (RECALL, 1, command.tasks))
            elif isinstance(command, Forget):
                self.send(0, command.rank, (FORGET, 1, command.tasks))
            elif isinstance(command, Announce):
                for rank in self.ranks:
                    if rank != command.rank:
                        self.send(0, rank, (LOST, 1, command.rank))
            elif isinstance(command, Examine):
                self._examine(command.rank)
        scheduler.take_log()
        self._next = max(self.now + 1e-6, scheduler.next_wakeup())
        self.at(self._next, ("tick", 0, self._next))

    def _examine(self, rank: int) -> None:
        """A rank of the same host that can speak looks at the process of ``rank``; if there is none, nobody does."""
        host = self.ledger.seats[rank].host
        for other, state in self.ranks.items():
            if self.ledger.seats[other].host == host and not state.is_dead and self.now >= state.silent_until:
                self.at(self.now + self.dice.expovariate(100), ("examined", rank))
                return

    def _examined(self, rank: int) -> None:
        self._schedule([Examined(rank, self.ranks[rank].is_dead, "its process is gone")])

    def _dispatch(self, command: Dispatch) -> None:
        scheduler = self.scheduler
        claim = None if command.claim is None else (1, self.ledger.device_indices(command.claim))
        assignments = []
        for task, attempt in command.tasks:
            spec = scheduler.specs[task]
            flags = (KEEP if spec.keep else 0) | (STAYS if spec.stays else 0)
            flags |= ISOLATE if scheduler.is_isolated(task) else 0
            sources = tuple(
                (each, None, (PLAIN, self.home[each]), ())
                if scheduler.tasks.at_home[each]
                else (each, None, None, tuple(scheduler.tasks.holders[each]))
                for each in spec.inputs
            )
            recipe = ((spec.code,), 0, None, ())
            assignments.append((task, attempt, task, recipe, sources, spec.timeout_s, flags))
        self.send(0, command.rank, (DISPATCH, 1, [], [(command.slot, claim, assignments)]))

    # -- the end --------------------------------------------------------------------------------------

    def _check_results(self) -> None:
        serial = self.load.serial()
        scheduler = self.scheduler
        for task, state in enumerate(scheduler.state):
            if state == State.DONE:
                held = [self.home[task]] if scheduler.tasks.at_home[task] else [
                    self.ranks[rank].values[task]
                    for rank in scheduler.tasks.holders.get(task, ())
                    if task in self.ranks[rank].values
                ]  # fmt: skip
                assert all(value == serial[task] for value in held), f"task {task} has a wrong value"
            elif state == State.SKIPPED:
                states = [scheduler.state[each] for each in scheduler.specs[task].inputs]
                assert State.FAILED in states or State.SKIPPED in states, f"task {task} was skipped for nothing"
            elif state == State.FAILED:
                assert task in scheduler.failures, task
            else:
                assert scheduler.stopping, f"task {task} was left {State(state).name}"
        for rank in self.ranks:
            self.send(0, rank, (STOP, 1, None))


def check(scheduler: Scheduler) -> None:
    """Derive the scheduler's books from scratch and compare.

    Raises:
        AssertionError: they do not agree.
    """
    scheduler.ledger.check()
    state, specs = scheduler.state, scheduler.specs
    flying = [task for slots in scheduler.slots.of_rank.values() for slot in slots for task in slot.tasks]
    assert len(flying) == len(set(flying)) == scheduler.in_flight
    assert set(flying) == {task for task in range(len(specs)) if state[task] == State.DISPATCHED}
    claimed = sum(slot.claim is not None for slots in scheduler.slots.of_rank.values() for slot in slots)
    assert claimed == scheduler.slots.claimed
    most = scheduler.policy.max_concurrency
    assert most is None or claimed <= most
    assert all(slot.claim is not None for slots in scheduler.slots.of_rank.values() for slot in slots if slot.tasks)
    queued = list(scheduler.ready.everywhere())
    assert len(queued) == len(set(queued)), "a task is queued twice"
    assert set(queued) == {task for task in range(len(specs)) if state[task] == State.READY}
    final = (State.DONE, State.FAILED, State.SKIPPED)
    assert scheduler.tasks.open == sum(each not in final for each in state)
    left = [0] * len(specs)
    for task, spec in enumerate(specs):
        for each in spec.inputs:
            left[each] += state[task] not in final
        if state[task] == State.WAITING:
            missing = sum(not scheduler.tasks.is_available(each) for each in spec.inputs)
            assert scheduler.tasks.missing[task] == missing > 0, f"task {task} waits for {missing} inputs"
    assert left == scheduler.tasks.consumers_left
