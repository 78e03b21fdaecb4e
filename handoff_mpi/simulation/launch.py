"""One simulated launch: its ranks under a fake clock, and the faults that befall them."""

from __future__ import annotations

import random
from collections import Counter

from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.messages import Message
from handoff_mpi.scheduler import Scheduler, State, Transition
from handoff_mpi.simulation.context import Traits
from handoff_mpi.simulation.faults import LATE_RELAUNCH, RESUMED, Faults
from handoff_mpi.simulation.network import Clock, Network
from handoff_mpi.simulation.oracle import SPEAKS_S, Oracle
from handoff_mpi.simulation.rank import SimulatedRank
from handoff_mpi.simulation.rank0_driver import Rank0Driver
from handoff_mpi.simulation.run_dir import UNSYNCED_S, SimulatedRunDir
from handoff_mpi.simulation.running_lease import NEVER_S, RunningLease
from handoff_mpi.simulation.workload import Workload
from handoff_mpi.worker.events import QueuedCall

#: A process found stopped after this long is ended by its neighbour.
_FENCED_S = 20.0
#: How often a rank looks at its memory.
_EXAMINE_INTERVAL_S = 0.25


class Launch:
    """One launch of a run.

    Args:
        rng, clock, load, run_dir, oracle: of the run.
        scheduler: fresh.
        faults: what will go wrong.
        number: of the launch, from 1.
        fan_out, cache_nbytes: of its ranks.

    Attributes:
        ranks: those that compute; rank 0 may be one of them.
        rank0: drives the coordinator.
        scheduler: the coordinator's.
        steps: how many events there were.
        happened: how often each kind of fault befell it.
        calm_at: when the last fault was over, as far as is known.
    """

    def __init__(
        self,
        rng: random.Random,
        clock: Clock,
        load: Workload,
        scheduler: Scheduler,
        run_dir: SimulatedRunDir,
        faults: Faults,
        oracle: Oracle,
        number: int,
        fan_out: int,
        cache_nbytes: int,
    ) -> None:
        self.rng, self.clock, self.load, self.run_dir = rng, clock, load, run_dir
        self.faults, self.oracle, self.number = faults, oracle, number
        self.steps = 0
        self.fault_counts: Counter[str] = Counter()
        self.calm_at = clock.now
        self._bad_rng = random.Random(number)
        self._late_rng = random.Random(f"late {rng.getstate()}")
        self._waits_for_all = self._late_rng.random() < 0.6
        self._hosts = {rank: rank_state.host for rank, rank_state in scheduler.ledger.rank_states.items()}
        repeats, is_slow = "repeats" in faults.kinds, "slow values" in faults.kinds
        self._network = Network(clock, rng, self.host, repeats, is_slow, faults.until, self._befall)
        self.ranks = self._make_ranks(scheduler, fan_out, cache_nbytes)
        self.scheduler = scheduler
        self.rank0: Rank0Driver

    def _make_ranks(self, scheduler: Scheduler, fan_out: int, cache_nbytes: int) -> dict[int, SimulatedRank]:
        rng = self.rng
        rank_states = scheduler.ledger.rank_states
        has_fault_tolerance, all_see = bool(self.faults.kinds) and rng.random() < 0.7, rng.random() < 0.6
        checkpoints = rng.choice((0.0, 0.5, 1.0))
        sees = {
            rank_state.host: all_see or rank_state.host == "h0" or rng.random() < 0.5
            for rank_state in rank_states.values()
        }
        ranks = {}
        for rank, rank_state in rank_states.items():
            calls_itself = has_fault_tolerance and rank_state.slots == 1
            traits = Traits(calls_itself, sees[rank_state.host], checkpoints, fan_out, cache_nbytes)
            ranks[rank] = SimulatedRank(self, rank, rank_state.slots, traits)
        return ranks

    def host(self, rank: int) -> str:
        """Return the host of ``rank``; rank 0 lives on the first one, even if it takes no part."""
        return self._hosts.get(rank, "h0")

    def hosts(self) -> dict[str, list[int]]:
        """Return host to its ranks; rank 0's own host comes first."""
        hosts: dict[str, list[int]] = {"h0": []}
        for rank, host in self._hosts.items():
            hosts.setdefault(host, []).append(rank)
        return hosts

    # -- the run --------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Run until the run is over (True) or all ranks die (False), checking after every step.

        Raises:
            AssertionError: the machines broke an invariant, hang, or computed a wrong value.
        """
        self._start()
        bound = self.oracle.longest_s()
        while not self.rank0.coordinator.is_over:
            what = self.clock.advance()
            assert self.clock.now <= self.calm_at + bound, (
                f"nothing has gone wrong since {self.calm_at:.1f} s, and it is {self.clock.now:.1f} s: the run hangs"
            )
            if what[0] == "fault" and what[1] == "relaunch":
                self._die_all(*what[2])
                return False
            self.steps += 1
            getattr(self, f"_{what[0]}")(*what[1:])
        self.rank0.close()
        self.oracle.at_end(self)
        return True

    def _start(self) -> None:
        plan = self.load.plan()
        previous = self.run_dir.resume(plan) if self.number > 1 else None
        self.oracle.at_start(self.run_dir.spared() if previous else {}, previous)
        earlier = self.run_dir.earlier_arrays()
        self.rank0 = Rank0Driver(self, self.scheduler, plan, previous)
        self.oracle.arrays.at_start(self.number, self.rank0.array_values, earlier)
        for time, name, arguments in self.faults.entries:
            self.clock.at(time, "fault", name, arguments)
        self.rank0.submit(self.rng.randrange(1, len(self.load.specs) + 1))
        for rank in self.ranks:
            self.clock.at(self.clock.now, "wake", rank)

    @property
    def is_resumed(self) -> bool:
        """Whether it has ended, and the run is launched again as not all is done."""
        return RESUMED in self.faults.kinds and self.scheduler.status != "done"

    def trouble(self, until: float) -> None:
        """Something goes wrong until then."""
        self.calm_at = max(self.calm_at, until)

    def _befall(self, kind: str, until: float) -> None:
        self.fault_counts[kind] += 1
        self.trouble(until)

    def send(self, source: int, dest: int, message: Message) -> None:
        """Send a message, unless who sends it is dead."""
        if source not in self.ranks or not self.ranks[source].is_dead:
            self._network.send(source, dest, message)

    def _message(self, source: int, dest: int, message: Message) -> None:
        if dest == 0:
            self.rank0.arrived(Envelope(source, message))
        else:
            self.ranks[dest].receive(source, message)

    def _wake(self, rank: int) -> None:
        self.ranks[rank].wake()

    def _tick(self, rank: int, wakeup: float) -> None:
        self.ranks[rank].tick(wakeup)

    def _poll(self) -> None:
        self.rank0.turn()

    def _turn_at(self, wakeup: float) -> None:
        self.rank0.turn_at(wakeup)

    def _submit(self, count: int) -> None:
        self.rank0.submit(count)

    def _end(self, rank: int, work: QueuedCall, how: str) -> None:
        self.ranks[rank].end(work, how)

    def _lease_end(self, rank: int, work: QueuedCall, serial: int) -> None:
        self.ranks[rank].lease_ends(work, serial)

    def _lease_part(self, rank: int, work: QueuedCall) -> None:
        self.ranks[rank].lease_part_ends(work)

    # -- faults ---------------------------------------------------------------------------------------

    def _fault(self, name: str, arguments: tuple[object, ...]) -> None:
        self.trouble(self.clock.now)
        getattr(self, f"_fault_{name}")(*arguments)

    def _fault_death(self, rank: int) -> None:
        if not self.ranks[rank].is_dead:
            self.fault_counts["death"] += 1
            self.die(rank)

    def die(self, rank: int) -> None:
        """``rank`` dies. MPI does not report every death; a neighbour may, or the silence tells."""
        self.trouble(self.clock.now)
        self.ranks[rank].is_dead = True
        self.oracle.note_rank_death()
        if self.rng.random() < 0.7:
            self.clock.at(self.clock.now + self.rng.expovariate(10), "reported", rank)
        else:
            self.clock.at(self.clock.now + 2 * self.rng.random(), "noticed", rank)

    def _reported(self, rank: int) -> None:
        self.rank0.arrived(RankFailed(rank, "its process no longer exists"))

    def _noticed(self, rank: int) -> None:
        looker = self.who_looks_at(rank)
        if looker == 0:
            self.rank0.lose(rank, "its process no longer exists")
        elif looker is not None:
            self.ranks[looker].find_lost(rank)

    def _fault_stopped(self, rank: int, seconds: float) -> None:
        self._silence("stopped", rank, seconds)
        self.ranks[rank].stopped_since = self.clock.now

    def _fault_unresponsive(self, rank: int, seconds: float) -> None:
        self._silence("unresponsive", rank, seconds)

    def _silence(self, kind: str, rank: int, seconds: float) -> None:
        state = self.ranks[rank]
        if not state.is_dead:
            self.fault_counts[kind] += 1
            state.silent_until = max(state.silent_until, self.clock.now + seconds)
            self.trouble(state.silent_until)
            self.clock.at(state.silent_until, "wake", rank)

    def _fault_cut_off(self, host: str, seconds: float) -> None:
        self.fault_counts["cut off"] += 1
        self._network.cut_off(host, self.clock.now + seconds)
        self.trouble(self.clock.now + seconds)

    def _fault_resources(self, rank: int) -> None:
        self.fault_counts["resources"] += 1
        self.rank0.update(rank, {"cpu": self.rng.choice((2, 3, 8))})

    def _fault_withdrawn(self, rank: int, seconds: float) -> None:
        self.fault_counts["withdrawn"] += 1
        self.rank0.update(rank, {"cpu": 0})
        self.trouble(self.clock.now + seconds)
        self.clock.at(self.clock.now + seconds, "fault", "given_back", (rank,))

    def _fault_given_back(self, rank: int) -> None:
        self.rank0.update(rank, {"cpu": 3})

    def _fault_lost_value(self, rank: int) -> None:
        values = self.ranks[rank].values
        held = sorted(dict(values.items()))
        if held:
            self.fault_counts["lost value"] += 1
            values.drop(self.rng.choice(held))

    def _fault_pressure(self, rank: int, seconds: float, levels: tuple[int, ...], can_spill: bool) -> None:
        """Memory is short on a rank; if for good, that is no trouble that excuses a run from coming to its end."""
        self.fault_counts["pressure"] += 1
        until = self.clock.now + seconds
        if seconds < float("inf"):
            self.trouble(until)
        self._pressed(rank, until, levels, can_spill)

    def _pressed(self, rank: int, until: float, levels: tuple[int, ...], can_spill: bool) -> None:
        if self.ranks[rank].press(until, levels, can_spill):
            self.clock.at(min(until, self.clock.now + _EXAMINE_INTERVAL_S), "pressed", rank, until, levels, can_spill)

    def _fault_damaged_file(self) -> None:
        if self.run_dir.files:
            self.fault_counts["damaged file"] += 1
            self.run_dir.damage(self.rng.choice(sorted(self.run_dir.files)))

    def _fault_stop(self) -> None:
        self.fault_counts["stop"] += 1
        self.rank0.stop("asked to")

    def _die_all(self, is_torn: bool) -> None:
        self.fault_counts["torn journal" if is_torn else "relaunch"] += 1
        if is_torn:
            self.run_dir.tear(self.clock.now)
            self.oracle.tear(self.clock.now - UNSYNCED_S)

    # -- what is seen ---------------------------------------------------------------------------------

    def spoils(self, rank: int, task: int) -> str:
        """How a call on ``rank`` fails because its host is bad; empty if it does not."""
        since, until, likelihood, how = self.faults.bad.get(self.host(rank), (0.0, 0.0, 0.0, ""))
        if not since <= self.clock.now < until or self._bad_rng.random() >= likelihood:
            return ""
        self.fault_counts["bad host"] += 1
        self.trouble(self.clock.now)
        self.oracle.spoiled[task] += 1
        self.oracle.arrays.spoiled.add(task)
        return how

    def draw_element(self, array: int, index: int, may_hang: bool) -> tuple[str, float]:
        """Return how an element ends, and how long it takes."""
        if may_hang and self.rng.random() < 0.01:
            return "ok", NEVER_S
        return self.oracle.arrays.draw_element(array, index), self.load.element_duration(array, index)

    def _pull(self, array: int) -> None:
        self.rank0.pull(array)

    def note_pull(self, array: int, count: int) -> None:
        """So many elements of a windowed array have come."""
        self.oracle.arrays.at_pull(self.scheduler, array, count)

    def note_turn(self, log: list[Transition]) -> None:
        """The coordinator has made these transitions in a turn."""
        self.oracle.at_turn(self, log)
        if LATE_RELAUNCH in self.faults.kinds and self._has_folded():
            self.faults.kinds.remove(LATE_RELAUNCH)
            self.clock.at(self.clock.now + self._late_rng.expovariate(1), "fault", "relaunch", (False,))

    def _has_folded(self) -> bool:
        """Whether elements that came are folded: all, or any."""
        states = [self.scheduler.tasks.state[each] == State.DONE for each in self.load.folds_of_windows]
        return all(states) if self._waits_for_all else any(states)

    def note_kill(self, task: int, element: int) -> None:
        """A call of ``task``, or an element of it where that is a lease, has killed its process."""
        if element < 0:
            self.oracle.kills[task] += 1
        else:
            self.oracle.arrays.killed[self.scheduler.arrays.task_of(task), element] += 1

    def note_call(self, rank: int, work: QueuedCall) -> None:
        """A call begins on ``rank``."""
        self.oracle.at_call(self.scheduler, rank, work)

    def note_lease(self, lease: RunningLease, attempt: int) -> None:
        """The elements of a lease begin."""
        self.oracle.arrays.at_lease(self.scheduler, lease, attempt)

    def who_looks_at(self, rank: int) -> int | None:
        """Return a rank of the same host that can speak, if there is one: it looks at the process of ``rank``."""
        host = self.host(rank)
        if host == "h0":
            return 0
        for other, state in self.ranks.items():
            if other != rank and self.host(other) == host and not state.is_dead and not state.is_silent():
                return other
        return None

    def has_neighbour(self, rank: int) -> bool:
        """Whether someone could look at the process of ``rank`` all the time."""
        spared = [other for other in self.ranks if other not in self.faults.unresponsive | self.faults.harmed | {rank}]
        host = self.host(rank)
        return host == "h0" or any(self.host(other) == host and not self.ranks[other].is_dead for other in spared)

    def is_pressed(self, rank: int) -> bool:
        """Whether memory is short on ``rank``, or was a moment ago."""
        return self.clock.now <= self.ranks[rank].pressed_until + SPEAKS_S

    def could_speak(self, rank: int, seconds: float) -> bool:
        """Whether ``rank`` lives, and has been neither silent nor cut off for so long."""
        state, since = self.ranks[rank], self.clock.now - seconds
        return not state.is_dead and since > max(state.silent_until, self._network.cut_until(self.host(rank)))

    def looks_dead(self, rank: int) -> bool:
        """Whether the process of ``rank`` no longer exists, or was stopped for so long that who looks ends it."""
        state = self.ranks[rank]
        since = state.stopped_since
        if since is not None and self.clock.now - since >= _FENCED_S and not state.is_dead:
            self.fault_counts["fenced"] += 1
            self.oracle.note_rank_death()
            state.is_dead = True
        return state.is_dead
