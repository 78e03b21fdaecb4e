"""Rank 0 of a simulated launch: it runs the coordinator of real runs, over ports that the simulation supplies.

The driver stands where :mod:`handoff_mpi.runtime.scheduler_loop` stands in a real run: it gathers facts, calls the
coordinator when an event has come or a turn is due, and looks at processes. The coordinator stores, writes and sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.dag import Plan
from handoff_mpi.launch.resume import Resumed, nothing_of
from handoff_mpi.membership import Membership
from handoff_mpi.messages import Entry, ErrorReport, LeaseReport, Message
from handoff_mpi.resources import PlainAmounts
from handoff_mpi.results.event_log import EventPort, NoEvents
from handoff_mpi.results.store import MemoryStore
from handoff_mpi.runtime.coordinator import Coordinator
from handoff_mpi.runtime.coordinator_ports import CoordinatorSettings, Facts, Loss
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.tracker_adapter import TrackerAdapter
from handoff_mpi.scheduler import Closed, Event, Scheduler, Submitted, Transition
from handoff_mpi.serialization import Payload
from handoff_mpi.simulation.check import check, check_membership
from handoff_mpi.simulation.context import RUN, SimulationContext
from handoff_mpi.simulation.faults import Faults
from handoff_mpi.simulation.pulling import SimulatedWindows
from handoff_mpi.simulation.rank import SimulatedRank

#: How likely the tracker refuses a request, and for how long a refused task may wait after that.
_REFUSAL_LIKELIHOOD, _MAX_REFUSED_S = 0.2, 10.0


class LaunchContext(SimulationContext, Protocol):
    """The launch as rank 0 sees it."""

    faults: Faults
    ranks: dict[int, SimulatedRank]

    def host(self, rank: int) -> str:
        """Return the host of ``rank``."""

    def hosts(self) -> dict[str, list[int]]:
        """Return host to its ranks; rank 0's own host comes first."""

    def trouble(self, until: float) -> None:
        """Something goes wrong until then."""

    def note_pull(self, array: int, count: int) -> None:
        """So many elements of a windowed array have come."""

    def note_turn(self, log: list[Transition]) -> None:
        """The coordinator has made these transitions in a turn."""


class Rank0Driver:
    """Gathers facts for the coordinator of a launch, and calls it.

    Args:
        launch: the launch; what happens to rank 0 is planned on its clock.
        scheduler: fresh.
        plan: the tables of the run.
        previous: what the launch takes over from earlier ones; None if it is the first.

    Attributes:
        coordinator: that of real runs.
        array_values: the values of arrays, by number.
    """

    def __init__(self, launch: LaunchContext, scheduler: Scheduler, plan: Plan, previous: Resumed | None) -> None:
        self.coordinator: Coordinator
        self._journal_writer: JournalWriter
        self.array_values: dict[int, ArrayValues] = {}
        self._plan = plan
        self._launch = launch
        self._previous = previous
        self._lags = "slow rank 0" in launch.faults.kinds
        self._inbox: list[Envelope | RankFailed] = []
        self._facts = Facts()
        self._next_turn = -1.0
        self._submitted = 0
        self._home = MemoryStore()
        self._tracker = SimulatedTracker(launch) if "refusals" in launch.faults.kinds else None
        self._start(scheduler, previous or nothing_of(plan))

    def _start(self, scheduler: Scheduler, previous: Resumed) -> None:
        """Make the coordinator, and begin the journal."""
        launch, plan = self._launch, self._plan
        run, workers = str(launch.number), [rank for rank in launch.ranks if rank]
        journal_writer = self._journal_writer = JournalWriter(
            launch.run_dir.begin(launch.clock), plan, lambda task: self.coordinator.file_key(task), scheduler.arrays
        )
        membership = Membership()
        membership.begin_run(scheduler.ledger.rank_states, scheduler.policy.heartbeat_timeout_s)
        self.coordinator = Coordinator(
            SimulatedTransport(launch),
            scheduler,
            scheduler.handle,
            plan,
            Observer(launch),
            self._home,
            launch.run_dir,
            journal_writer,
            None if self._tracker is None else TrackerAdapter(self._tracker, clock=lambda: launch.clock.now),
            membership,
            CoordinatorSettings(run, RUN, workers, 0 in launch.ranks, launch.hosts()),
        )
        self.coordinator.dispatcher.file_keys = previous.keys
        self.array_values = self.coordinator.dispatcher.array_values = previous.array_values

        def put(task: int, payload: Payload) -> None:
            self._home.put((run, task), payload)

        for task, payload in previous.payloads.items():
            put(task, payload)
        journal_writer.begin({}, lambda id: b"", previous.rest, previous.elements)
        self._windows = SimulatedWindows(launch, plan, self.array_values, previous, journal_writer, put)

    def value_at_rank0(self, task: int) -> object:
        """Return the value of ``task``, which is here."""
        return self._home.get((str(self._launch.number), task))[1]

    # -- what happens ---------------------------------------------------------------------------------

    def submit(self, count: int) -> None:
        """Submit some tasks now, and the rest (whose inputs come earlier) later in the run; all when it is resumed."""
        previous, specs, selections = self._previous, self._launch.load.specs, self._plan.selections.all
        self._windows.start()
        if previous is not None:
            self._submitted = len(specs)
            elements = {number: values.have for number, values in self.array_values.items()}
            earlier = previous.rest, previous.suspects, previous.deaths, elements
            self.turn(Submitted(specs, *earlier, selections, previous.suspect_elements), Closed())
            return
        if self.array_values:  # what is submitted later would take the numbers of leases
            count = len(specs)
        new = specs[self._submitted : self._submitted + count]
        self._submitted += len(new)
        events: list[Event] = [Submitted(new, selections=selections)] if new else []
        if self._submitted == len(specs):
            events.append(Closed())
        else:
            self._submit_later()
        self.turn(*events)

    def _submit_later(self) -> None:
        launch = self._launch
        longest = launch.rng.choice((1.0, 1.0, 1.0, 60.0))
        later = launch.clock.now + longest * launch.rng.random()
        launch.trouble(later)
        launch.clock.at(later, "submit", len(launch.load.specs))

    def arrived(self, each: Envelope | RankFailed) -> None:
        """Something has arrived; it may have to wait until rank 0 polls."""
        launch = self._launch
        self._inbox.append(each)
        if not self._lags or launch.clock.now >= launch.faults.until:
            self.turn()
        elif len(self._inbox) == 1:
            launch.fault_counts["slow rank 0"] += 1
            launch.clock.at(launch.clock.now + launch.rng.expovariate(20), "poll")

    def lose(self, rank: int, reason: str) -> None:
        """Rank 0 finds that the process of a rank of its host no longer exists."""
        self._facts.lost.append(Loss(rank, reason))
        self.turn()

    def update(self, rank: int, resources: dict[str, object]) -> None:
        """The user changes the resources of a rank."""
        self.coordinator.updates.append((rank, resources))
        self.turn()

    def stop(self, reason: str) -> None:
        """Somebody wants the run to stop."""
        self._facts.stop_reason = reason
        self.turn()

    def pull(self, array: int) -> None:
        """Elements of a windowed array come, or its iterable ends."""
        self._launch.note_pull(array, self._windows.pull(array))
        self.turn()

    def turn_at(self, wakeup: float) -> None:
        """A planned wake-up; one that was overtaken by events does nothing."""
        if wakeup == self._next_turn:
            self.turn()

    # -- the turn -------------------------------------------------------------------------------------

    def turn(self, *events: Event) -> None:
        """Let the coordinator handle all that is known, until nothing comes of it; check the machine's books."""
        launch, coordinator = self._launch, self.coordinator
        self._facts.events += events
        arrived, self._inbox = self._inbox, []
        mine: list[Envelope] = []
        self._gather()
        while True:
            facts, self._facts = self._facts, Facts()
            mine += coordinator.step(arrived, facts, launch.clock.now).for_worker
            for rank in coordinator.ready(launch.clock.now):
                self._examine(rank)
            check(coordinator.scheduler)
            check_membership(coordinator.membership, coordinator.scheduler.ledger)
            self._gather()
            if not (coordinator.has_more or self._facts):
                break
            arrived = []
        for each in mine if 0 in launch.ranks else ():
            launch.ranks[0].receive(each.source, each.message)
        self._next_turn = max(launch.clock.now + 1e-6, coordinator.next_wakeup())
        launch.clock.at(self._next_turn, "turn_at", self._next_turn)

    def _gather(self) -> None:
        """Gather the facts that the coordinator cannot see itself."""
        self._facts.events += self._windows.events(self.coordinator.scheduler)

    def _examine(self, rank: int) -> None:
        """Look at the process of a silent rank, if it is of rank 0's host."""
        if self._launch.host(rank) != self._launch.host(0):
            self._facts.unseen.append(rank)
        elif self._launch.looks_dead(rank):
            self._facts.lost.append(Loss(rank, "its process no longer exists"))
        else:
            self._facts.alive.append(rank)

    def close(self) -> None:
        """End the launch in order.

        Raises:
            AssertionError: the tracker was not given back what it has granted.
        """
        self._windows.finish()
        self.coordinator.close()
        self._journal_writer.end(self.coordinator.scheduler.status, 0, is_cut_short=False)
        if self._tracker is not None:
            self._tracker.check()


class SimulatedTransport:
    """The transport of rank 0: it sends into the simulated network."""

    def __init__(self, launch: LaunchContext) -> None:
        self._launch = launch

    def send(self, dest: int, message: Message, buffers: Sequence[object] = ()) -> None:
        """Send a message; the network knows which ones are large."""
        self._launch.send(0, dest, message)

    def drop(self, rank: int) -> None:
        """Give up what is under way to a rank that is dead, which hears nothing anyhow."""


class SimulatedTracker:
    """A resource tracker of the user's that refuses now and then, and keeps books of what it has granted."""

    def __init__(self, launch: LaunchContext) -> None:
        self._launch = launch
        self._granted: Counter[int] = Counter()

    def register(self, rank: int, amounts: PlainAmounts) -> None:
        """Take in what a rank offers."""

    def available(self, rank: int) -> PlainAmounts:
        """Return nothing: nobody asks."""
        return {}

    def request(self, rank: int, amounts: PlainAmounts) -> bool:
        """Grant a call on ``rank`` its cost, or refuse; what is refused is asked for again later."""
        launch = self._launch
        if launch.clock.now < launch.faults.until and launch.rng.random() < _REFUSAL_LIKELIHOOD:
            launch.fault_counts["refusal"] += 1
            launch.trouble(launch.clock.now + _MAX_REFUSED_S)
            return False
        self._granted[rank] += 1
        return True

    def release(self, rank: int, amounts: PlainAmounts) -> None:
        """Take back what was granted to a call on ``rank``."""
        self._granted[rank] -= 1
        assert self._granted[rank] >= 0, f"what rank {rank} was granted is released twice"

    def check(self) -> None:
        """Look whether all is released.

        Raises:
            AssertionError: something is not.
        """
        assert not any(self._granted.values()), f"not released: {self._granted}"


class Observer:
    """Stands in for the recorder, and shows the oracle the log of each turn."""

    def __init__(self, launch: LaunchContext) -> None:
        self.events: EventPort = NoEvents()
        self._launch = launch

    def wants_claims(self) -> bool:
        return False

    def finished(self, rank: int, entries: Sequence[Entry]) -> None:
        pass

    def started(self, rank: int, task: int, attempt: int, started: float) -> None:
        pass

    def elements_ended(self, rank: int, array: int, report: LeaseReport, started: float, duration: float) -> None:
        pass

    def lease_failed(self, lease: int, error: ErrorReport) -> None:
        pass

    def transferred(self, target: int, transfers: Sequence[tuple[int, int, int, float]]) -> None:
        pass

    def used(self, rank: int, sample: Mapping[str, float], now: float) -> None:
        pass

    def transitions(self, scheduler: Scheduler) -> None:
        """Show the oracle what the turn did."""
        self._launch.note_turn(scheduler.tasks.take_log())
