"""The oracle of a simulated run: it watches all launches, and asserts at each turn, call and end what must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from handoff_mpi.allocation import MEMORY, PROBATION
from handoff_mpi.launch.resume import Resumed
from handoff_mpi.messages import DEATH, ISOLATE, NO_ROOM, TIMEOUT
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.results.store import Key
from handoff_mpi.scheduler import DISPATCHES, Cause, Policy, Scheduler, State, Transition
from handoff_mpi.scheduler.transitions import Forgiven, LetGo, Lost, MemoryHigh, MemoryNormal, ProbationBegun
from handoff_mpi.simulation.array_oracle import ArrayOracle, ranks_left
from handoff_mpi.simulation.faults import Faults
from handoff_mpi.simulation.network import Clock
from handoff_mpi.simulation.rank import SimulatedRank
from handoff_mpi.simulation.rank0_driver import Rank0Driver
from handoff_mpi.simulation.run_dir import SimulatedRunDir
from handoff_mpi.simulation.workload import Workload
from handoff_mpi.worker.events import QueuedCall

#: Within this time a rank that can speak is heard of.
SPEAKS_S = 4.0


class ObservedLaunch(Protocol):
    """The part of a launch that the oracle looks at."""

    clock: Clock
    faults: Faults
    fault_counts: Counter[str]
    rank0: Rank0Driver
    ranks: dict[int, SimulatedRank]
    scheduler: Scheduler

    def could_speak(self, rank: int, seconds: float) -> bool:
        """Whether ``rank`` lives, and has been neither silent nor cut off for so long."""

    def has_neighbour(self, rank: int) -> bool:
        """Whether someone could look at the process of ``rank`` all the time."""

    def is_pressed(self, rank: int) -> bool:
        """Whether memory is short on ``rank``, or was a moment ago."""


class Oracle:
    """Sees a run from outside, all its launches, and says what must not be.

    Attributes:
        kills: how often a task has killed its process.
        rank_deaths: how many ranks died.
        spoiled: how often a call of a task failed because its host was bad.
        arrays: sees their elements.
    """

    def __init__(self, load: Workload, policy: Policy, run_dir: SimulatedRunDir) -> None:
        self.kills: Counter[int] = Counter()
        self.rank_deaths = 0
        self.spoiled: Counter[int] = Counter()
        self._load = load
        self._policy = policy
        self._run_dir = run_dir
        self.arrays = ArrayOracle(load, policy)
        self._spared: dict[int, Key | None] = {}
        self._suspects: set[int] = set()
        self._short: set[int] = set()
        self._blame: list[tuple[float, int, int]] = []  # time, task, deaths that count more or less; 0: it was done
        self._undecided: set[tuple[int, int]] = set()  # task and attempt of deaths that are not final
        self._held: set[int] = set()  # tasks whose failure is undecided
        self._not_before: dict[int, float] = {}  # task to when it may run again

    def longest_s(self) -> float:
        """Return how long a run may take at most once nothing goes wrong any more."""
        policy = self._policy
        # A rank that died unseen is lost at the limit, and looked for every eighth of it; then one more may be.
        return self._load.longest_s(policy.max_retries, policy.crash_limit) + 1.5 * policy.heartbeat_timeout_s + 5.0

    def note_rank_death(self) -> None:
        """A rank has died."""
        self.rank_deaths += 1
        self.arrays.rank_deaths += 1

    # -- launches -------------------------------------------------------------------------------------

    def at_start(self, spared: Mapping[int, Key | None], previous: Resumed | None) -> None:
        """A launch begins: what it takes over is what was written, and what need not run again does not."""
        varying = self._load.find_shaky()
        self._spared = {task: key for task, key in spared.items() if task not in varying}
        self._short.clear()
        self._undecided.clear()
        self._held.clear()
        self._not_before.clear()
        if previous is not None:
            assert previous.deaths == self._deaths(), f"{previous.deaths} deaths survived, not {self._deaths()}"
            self._suspects = self._run_dir.in_flight()
            assert previous.suspects == self._suspects, f"suspects are {previous.suspects}, not {self._suspects}"

    def _deaths(self) -> dict[int, int]:
        deaths: dict[int, int] = {}
        for _, task, change in self._blame:
            if change:
                deaths[task] = deaths.get(task, 0) + change
            else:
                deaths.pop(task, None)
        return {task: count for task, count in deaths.items() if count > 0}

    def tear(self, since: float) -> None:
        """Lose the records that were written after ``since``."""
        self._blame = [(time, task, deaths) for time, task, deaths in self._blame if time <= since]

    # -- turns ----------------------------------------------------------------------------------------

    def at_turn(self, launch: ObservedLaunch, log: list[Transition]) -> None:
        """Look at what a turn did."""
        now = launch.clock.now
        self._look_at_memory_pressure(launch, log)
        leases = launch.scheduler.arrays.leases
        for position, row in enumerate(log):
            task, then, cause, attempt, rank, detail = row
            if task in leases:
                self.arrays.at_row(launch.scheduler, now, row)
                if then == State.FAILED:
                    self.arrays.at_failure(launch.scheduler, task)
            elif task < 0:
                if isinstance(detail, Lost):
                    self._look_at_loss(launch, rank, detail.reason)
                    self._look_for_blame(launch.scheduler, now, rank, detail.reason, log[position + 1 :])
                elif isinstance(detail, ProbationBegun):
                    self.arrays.forgive()
                elif isinstance(detail, Forgiven) and detail.task not in leases:
                    self._blame.append((now, detail.task, -detail.deaths))
                continue
            elif task in launch.scheduler.arrays.of:
                continue
            elif cause in DISPATCHES:
                self._look_at_placement(now, task)
            elif cause == Cause.OK:
                self._blame.append((now, task, 0))
                self._suspects.discard(task)
                self._not_before.pop(task, None)
            elif cause in (Cause.RETRY, Cause.ERROR, Cause.UNDECIDED):
                self._look_at_end(now, task, attempt, Cause(cause), detail.kind)
            if then == State.FAILED and task not in leases and task >= 0:
                self._look_at_failure(launch.scheduler, task, *detail)
        self.arrays.at_turn_end(launch.scheduler)

    def _look_at_end(self, now: float, task: int, attempt: int, cause: Cause, kind: str) -> None:
        """An attempt ended badly: another one follows if it deserves that, and after its delay."""
        if kind == DEATH:
            self._look_at_death(now, task, attempt, cause)
        if cause == Cause.RETRY and task not in self._held:
            assert kind != "TypeError", f"task {task} is tried again after a {kind}"
            self._not_before[task] = now + (self._load.specs[task].retry_delay_s or 0.0)
        (self._held.add if cause == Cause.UNDECIDED else self._held.discard)(task)

    def _look_at_death(self, now: float, task: int, attempt: int, cause: Cause) -> None:
        """The process of a call died, which counts once, also where the scheduler decides otherwise later."""
        if (task, attempt) not in self._undecided:
            self._blame.append((now, task, 1))
        if cause == Cause.UNDECIDED:
            self._undecided.add((task, attempt))

    def _look_at_memory_pressure(self, launch: ObservedLaunch, log: Iterable[Transition]) -> None:
        """A rank that is short of memory is given a task only if nothing else runs anywhere."""
        for task, _, cause, _, rank, detail in log:
            if isinstance(detail, MemoryHigh):
                self._short.add(rank)
            elif isinstance(detail, MemoryNormal):
                self._short.discard(rank)
            elif isinstance(detail, LetGo):
                launch.fault_counts["let go"] += 1
            elif task >= 0 and cause in DISPATCHES and rank in self._short:
                alone = launch.scheduler.slots.in_flight == 1
                assert alone, f"task {task} was given to rank {rank}, which is short of memory"

    def _look_at_loss(self, launch: ObservedLaunch, rank: int, reason: str) -> None:
        """A rank that lives is never lost, unless it cannot speak and nobody can look at it, or is fenced."""
        faults, is_alive = launch.faults, not launch.ranks[rank].is_dead
        is_seen = rank not in faults.unresponsive or launch.has_neighbour(rank)
        assert not (is_alive and is_seen and rank not in faults.harmed), f"rank {rank} lives, and was lost: {reason}"

    def _look_for_blame(
        self, scheduler: Scheduler, now: float, rank: int, reason: str, log: Iterable[Transition]
    ) -> None:
        """A task that was alone on a rank when it died is guilty; if it was only silent, nobody is."""
        suspects = []
        for task, _, cause, _, where, _ in log:
            if cause != Cause.RANK_LOST or where != rank:
                break
            suspects.append(task)
        is_guilty = len(suspects) == 1 and not reason.startswith("silent")
        if is_guilty and suspects[0] not in scheduler.arrays.leases:
            self._blame.append((now, suspects[0], 1))

    def _look_at_placement(self, now: float, task: int) -> None:
        assert now >= self._not_before.get(task, 0.0), f"task {task} is tried again too early"
        if task in self._spared:
            key = self._spared[task]
            is_readable = key is None or key in self._run_dir.files
            assert not is_readable, f"task {task} runs again, although an earlier launch left its value"

    def _look_at_failure(self, scheduler: Scheduler, task: int, kind: str, message: str) -> None:
        """Nothing fails but for its own faults, except that nobody can tell a rank's death from a task's guilt."""
        policy, spec = self._policy, self._load.specs[task]
        if kind == NO_ROOM:
            left = ranks_left(scheduler, spec)
            assert not left, f"task {task} would fit ranks {left}, and was given up: {message}"
        elif kind == TIMEOUT:
            assert spec.timeout_s is not None
        elif kind == DEATH:
            deaths = self._deaths().get(task, 0)
            assert ("died once" if deaths == 1 else f"died {deaths} times") in message, f"{deaths} deaths: {message}"
            assert "crash_limit" in message, message
            assert deaths >= policy.crash_limit, f"task {task} failed after {deaths} deaths"
            assert self.kills[task] + self.rank_deaths >= deaths
        else:
            own = self._load.errors.get(task, "ValueError")
            assert kind in ("ValueError", own), kind
            is_own = self._load.raises.get(task, 0) > self._load.max_retries(task, policy.max_retries)
            assert is_own or self.spoiled[task], f"task {task} failed too early"

    def at_call(self, scheduler: Scheduler, rank: int, work: QueuedCall) -> None:
        """A call begins: under the claim that rank 0 holds for it, and in a child if its process has died."""
        if not scheduler.tasks.is_current(work.task, work.attempt):
            return
        slot = scheduler.slots.of_task[work.task]
        assert (slot.rank, slot.number) == (rank, work.slot)
        assert slot.claim is not None
        cores = slot.claim.cost.amounts.get("cpu", 0) / UNIT
        claimed = cores, scheduler.ledger.claimed_devices(slot.claim)
        assert (work.cores, work.devices) == claimed, "a call runs under another's claim"
        if work.elements is not None:
            return
        is_suspect = work.task in self._suspects or work.task in self._deaths()
        assert work.flags & ISOLATE or not is_suspect, f"task {work.task} is not run in a child"

    # -- the end --------------------------------------------------------------------------------------

    def at_end(self, launch: ObservedLaunch) -> None:
        """The run is over: all that could be computed was, and what was to be kept is there and right."""
        scheduler = launch.scheduler
        self.arrays.at_end(scheduler)
        for task, state in enumerate(scheduler.tasks.state):
            if task in scheduler.tasks.selections:
                continue
            if task in scheduler.tasks.leases:
                assert State(state).is_final or scheduler.stopping, f"lease {task} was left {State(state).name}"
            elif state == State.DONE and task not in scheduler.arrays.of:
                self._look_at_value(launch, task)
            elif state == State.SKIPPED:
                states = [scheduler.tasks.state[each] for each in scheduler.specs[task].inputs]
                is_right = State.FAILED in states or State.SKIPPED in states or task in scheduler.arrays.of
                assert is_right, f"task {task} was skipped for nothing"
            elif state == State.FAILED:
                assert task in scheduler.tasks.failures, task
            elif state != State.DONE:
                assert scheduler.stopping, f"task {task} was left {State(state).name}"
        self._look_at_ranks(launch)
        for rank in launch.ranks.values():
            for task, value in rank.values.items():
                assert value == self.arrays.serial.whole[task], f"rank {rank.rank} holds a wrong value of task {task}"

    def _look_at_ranks(self, launch: ObservedLaunch) -> None:
        """A rank that lives and could send messages for a while takes part again, also after it was taken for lost."""
        for rank, rank_state in launch.scheduler.ledger.rank_states.items():
            if rank not in launch.rank0.coordinator.membership.lost and launch.could_speak(rank, SPEAKS_S):
                assert rank_state.is_present, f"rank {rank} came back, and was not taken in again"
                reasons = launch.scheduler.ledger.cordoned.get(rank, set())
                assert reasons <= {MEMORY, PROBATION}, f"rank {rank} came back, and is offered nothing"
                has_room = MEMORY in reasons and not launch.is_pressed(rank)
                assert not has_room, f"rank {rank} has room again, and is offered nothing"

    def _look_at_value(self, launch: ObservedLaunch, task: int) -> None:
        tasks, expected = launch.scheduler.tasks, self.arrays.serial.whole[task]
        if tasks.at_rank0[task]:
            assert launch.rank0.value_at_rank0(task) == expected, f"task {task} has a wrong value"
        elif task in tasks.persisted:
            key = launch.rank0.coordinator.file_key(task)
            found = self._run_dir.files.get(key)
            assert key in self._run_dir.damaged or found == expected, f"task {task}: its file holds {found}"
        else:
            assert not self._load.specs[task].keep, f"task {task} was to be kept, and its value is nowhere"
