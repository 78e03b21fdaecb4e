"""The shell around rank 0's machine in a simulated launch: what arrives, what is written down, what is sent.

It does what :mod:`handoff_mpi.runtime.scheduler_loop` and :mod:`handoff_mpi.runtime.journal_writer` do, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from handoff_mpi.messages import (
    BYE,
    CONSTANT,
    DEATH,
    DIED,
    DISPATCH,
    FETCH,
    FILES,
    FINISHED,
    FREE_VALUES,
    HEARTBEAT,
    INPUT_UNAVAILABLE,
    INSIST,
    ISOLATE,
    KEEP,
    KEEP_REMOTE,
    LOST,
    MEMORY,
    NOT_FOUND,
    OK,
    REDIRECT,
    RETRACT,
    RETRACTED,
    VALUE,
)
from handoff_mpi.results.store import Key
from handoff_mpi.scheduler import (
    DISPATCHES,
    BroadcastLoss,
    CheckProcess,
    Closed,
    Dispatch,
    Event,
    Finished,
    Forget,
    HeartbeatReceived,
    MemoryTold,
    Persisted,
    ProcessChecked,
    RankLost,
    Refused,
    Retract,
    Retracted,
    Scheduler,
    Submitted,
    Unfetched,
    ValueLost,
)
from handoff_mpi.serialization import PLAIN
from handoff_mpi.simulation.check import check
from handoff_mpi.simulation.network import Message
from handoff_mpi.simulation.run_dir import PreviousLaunch

if TYPE_CHECKING:
    from handoff_mpi.simulation.launch import Launch

_FOR_WORKERS = frozenset({DISPATCH, CONSTANT, FILES, RETRACT, FREE_VALUES, LOST, FETCH, VALUE, NOT_FOUND, REDIRECT})
#: What the shell itself is told: (PROCESS_STATUS, rank, whether it is gone); by MPI, or by who looked at its process.
PROCESS_STATUS = "looked"


class RankZero:
    """Carries events into the scheduler of a launch and its commands out.

    Attributes:
        home: the values that rest here.
        gone: ranks to which nothing is sent any more.
        kept_values: kept values on their way to a file: request id to (task, rank that holds it).
    """

    def __init__(self, launch: Launch, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.home: dict[int, int] = {}
        self.gone: set[int] = set()
        self.kept_values: dict[int, tuple[int, int]] = {}
        self._to_bring: dict[int, None] = {}
        self._next_request_id = -1
        self._launch = launch
        self._lags = "slow rank 0" in launch.faults.kinds
        self._inbox: list[tuple[int, Message]] = []
        self._next_turn = -1.0
        self._submitted = 0
        self._constants_at: dict[int, set[int]] = {}
        self._file_keys: dict[int, Key] = {}
        self._files_at: dict[int, set[int]] = {}
        self._done: list[Any] = []
        self._failed: list[Any] = []

    @property
    def is_over(self) -> bool:
        return self.scheduler.is_over and not self.kept_values

    def _send(self, rank: int, message: Message, is_large: bool = False) -> None:
        if rank not in self.gone:
            self._launch.send(0, rank, message, is_large)

    # -- what is submitted ----------------------------------------------------------------------------

    def resume(self, previous: PreviousLaunch) -> None:
        """Submit all tasks of a run that was launched before."""
        specs = self._launch.load.specs
        self.home, self._file_keys, self._submitted = previous.home, previous.keys, len(specs)
        self.turn([Submitted(specs, previous.rest, previous.suspects, previous.deaths), Closed()])

    def submit(self, count: int) -> None:
        """Submit some tasks now, and the rest (whose inputs come earlier) later in the run."""
        specs = self._launch.load.specs[self._submitted : self._submitted + count]
        self._submitted += len(specs)
        events: list[Event] = [Submitted(specs)] if specs else []
        if self._submitted == len(self._launch.load.specs):
            events.append(Closed())
        else:
            longest = self._launch.rng.choice((1.0, 1.0, 1.0, 60.0))
            later = self._launch.clock.now + longest * self._launch.rng.random()
            self._launch.trouble(later)
            self._launch.clock.at(later, "submit", len(self._launch.load.specs))
        self.turn(events)

    # -- what arrives ---------------------------------------------------------------------------------

    def arrived(self, source: int, message: Message) -> None:
        """A message has arrived; it may have to wait until rank 0 looks."""
        self._inbox.append((source, message))
        if not self._lags or self._launch.clock.now >= self._launch.faults.until:
            self.absorb()
        elif len(self._inbox) == 1:
            self._launch.fault_counts["slow rank 0"] += 1
            self._launch.clock.at(self._launch.clock.now + self._launch.rng.expovariate(20), "absorb")

    def absorb(self) -> None:
        """Take in all that has arrived, and let the machine handle it in one turn, as the loop does."""
        inbox, self._inbox = self._inbox, []
        events: list[Event] = []
        lost: list[Event] = []  # comes last: what a rank said before it died counts
        heard: dict[int, None] = {0: None} if 0 in self._launch.ranks else {}
        for source, message in inbox:
            if source >= 0:
                heard[source] = None
            if message[0] == PROCESS_STATUS and message[2]:
                self.gone.add(message[1])
                lost.append(RankLost(message[1], "its process is gone"))
            else:
                self._absorb_one(source, message, events)
        self.turn([*events, HeartbeatReceived(tuple(heard)), *lost])

    def _absorb_one(self, source: int, message: Message, events: list[Event]) -> None:
        kind = message[0]
        if kind == PROCESS_STATUS:
            events.append(ProcessChecked(message[1], False, "it is alive"))
        elif kind in (VALUE, NOT_FOUND) and message[2] in self.kept_values:
            self._absorb_kept(message, events)
        elif kind == FETCH and self._is_for_a_file(message):
            self._serve_file(source, message)
        elif kind in _FOR_WORKERS:
            if 0 in self._launch.ranks:
                self._launch.ranks[0].receive(source, message)
        elif kind == FINISHED:
            self._absorb_finished(source, message[2])
            events.append(Finished(source, message[2]))
        elif kind == RETRACTED:
            events.append(Retracted(source, message[2]))
        elif kind == INPUT_UNAVAILABLE:
            events.append(Unfetched(source, message[2], message[3], message[4]))
            self._rewrite(message[4])
        elif kind == MEMORY:
            events.append(MemoryTold(source, message[2], message[3]))
        else:
            assert kind in (HEARTBEAT, BYE), kind

    def _is_for_a_file(self, message: Message) -> bool:
        """As in the real loop."""
        is_alone = 0 not in self._launch.ranks
        return is_alone or (message[4] is None and message[3] in self.scheduler.tasks.persisted)

    def _absorb_finished(self, source: int, entries: list[Any]) -> None:
        for task, attempt, status, value, nbytes, started, duration in entries:
            if not self.scheduler.is_current(task, attempt):
                continue
            if status != OK:
                self._failed.append((task, attempt, source, status, value[0], value[1]))
                continue
            self._forget_old_file(task)
            if value is not None:
                self.home[task] = value[1]
            key = self.key_of(task) if nbytes < 0 else None
            self._done.append((task, attempt, source, started, duration, abs(nbytes), value, key))
            if value is None and nbytes >= 0 and self.scheduler.specs[task].keep:
                self._bring(task, source)

    def _absorb_kept(self, message: Message, events: list[Event]) -> None:
        task, source = self.kept_values.pop(message[2])
        if message[0] == NOT_FOUND:
            events.append(ValueLost(task, (source,)))
            self._to_bring[task] = None
            return
        self._launch.run_dir.put(self.key_of(task), message[3][1])
        events.append(Persisted(task))
        self._launch.run_dir.write(self._launch.clock.now, ("persisted", task, self.key_of(task)))

    def _bring(self, task: int, holder: int) -> None:
        self.kept_values[self._next_request_id] = (task, holder)
        self._send(holder, (FETCH, 1, self._next_request_id, task, None, (), INSIST, None))
        self._next_request_id -= 1

    def _rewrite(self, missing: Sequence[tuple[int, Sequence[int]]]) -> None:
        """A kept value whose file cannot be read is brought from a rank that holds it still, if there is one."""
        for task, asked in missing:
            if self.scheduler.specs[task].keep and (not asked or 0 in asked):
                self._to_bring[task] = None

    def _bring_again(self) -> None:
        """What could not be had from one rank or file may be brought from a rank; else it is made again."""
        tasks = self.scheduler.tasks
        to_bring, self._to_bring = self._to_bring, {}
        for task in to_bring:
            holders = tasks.holders.get(task)
            if holders and task not in tasks.persisted:
                self._bring(task, holders[0])

    def _serve_file(self, source: int, message: Message) -> None:
        run, request_id, task = message[1:4]
        value = self._launch.run_dir.files.get(self.key_of(task))
        if value is None:
            self._send(source, (NOT_FOUND, run, request_id, None))
        else:
            self._send(source, (VALUE, run, request_id, (PLAIN, value)), is_large=True)

    def key_of(self, task: int) -> Key:
        """Return the key of the file of a task's value."""
        return self._file_keys.get(task, (str(self._launch.number), task))

    # -- what it does ----------------------------------------------------------------------------------

    def turn(self, events: list[Event]) -> None:
        """Let the machine handle ``events``, write down what it learnt, and do what it wants."""
        scheduler = self.scheduler
        while True:
            commands = scheduler.handle(events, self._launch.clock.now)
            events = []
            self._write_down()
            for command in commands:
                events += self._obey(command)
            self._bring_again()
            check(scheduler)
            if not events:
                break
        self._next_turn = max(self._launch.clock.now + 1e-6, scheduler.next_wakeup())
        self._launch.clock.at(self._next_turn, "turn_at", self._next_turn)

    def turn_at(self, wakeup: float) -> None:
        """A planned wake-up; one that was overtaken by events does nothing."""
        if wakeup == self._next_turn:
            self.turn([])

    def _write_down(self) -> None:
        log = self.scheduler.take_log()
        self._launch.oracle.at_turn(self._launch, log)
        sent = [(task, attempt, rank) for task, _, cause, attempt, rank, _ in log if cause in DISPATCHES]
        for task, _, _, _, rank, detail in log:
            if task < 0 and detail[0] == "blamed on":
                guilty, attempt, reason = detail[1]
                self._failed.append((guilty, attempt, rank, DIED, DEATH, reason))
        if sent or self._done or self._failed:
            self._launch.run_dir.write(self._launch.clock.now, ("turn", sent, self._done, self._failed, ()))
            self._done, self._failed = [], []
        for task, _, _, _, _, detail in log:
            if task < 0 and detail[0] == "forgiven":
                self._launch.run_dir.write(self._launch.clock.now, ("forgiven", *detail[1]))

    def _obey(self, command: Any) -> list[Event]:
        if isinstance(command, Dispatch):
            return self._dispatch(command)
        if isinstance(command, Retract):
            self._send(command.rank, (RETRACT, 1, command.tasks))
        elif isinstance(command, Forget):
            self._send(command.rank, (FREE_VALUES, 1, command.tasks))
        elif isinstance(command, BroadcastLoss):
            self._announce(command.rank)
        elif isinstance(command, CheckProcess):
            self._launch.examine(command.rank)
        return []

    def _announce(self, lost: int) -> None:
        for request_id in [request_id for request_id, (_, rank) in self.kept_values.items() if rank == lost]:
            self._to_bring[self.kept_values.pop(request_id)[0]] = None
        for rank in self._launch.ranks:
            if rank != lost:
                self._send(rank, (LOST, 1, lost))

    def _dispatch(self, command: Dispatch) -> list[Event]:
        refused = self._refuse(command)
        tasks = [(task, attempt) for task, attempt in command.tasks if task not in refused]
        if tasks or command.claim is not None:
            claim = None if command.claim is None else (1, self.scheduler.ledger.device_indices(command.claim))
            assignments = [self._assignment(command.rank, task, attempt) for task, attempt in tasks]
            self._send(command.rank, (DISPATCH, 1, [], [(command.slot, claim, assignments)]))
        return list(refused.values())

    def _refuse(self, command: Dispatch) -> dict[int, Event]:
        if "refusals" not in self._launch.faults.kinds or self._launch.clock.now >= self._launch.faults.until:
            return {}
        refused: dict[int, Event] = {}
        for task, attempt in command.tasks:
            if self._launch.rng.random() < 0.2:
                refused[task] = Refused(task, attempt, "it said no")
                self._launch.fault_counts["refusal"] += 1
                self._launch.oracle.refusals[task] += 1
                self._launch.trouble(self._launch.clock.now + 10.0)  # it is offered again later
        return refused

    def _assignment(self, rank: int, task: int, attempt: int) -> Any:
        scheduler, spec = self.scheduler, self.scheduler.specs[task]
        flags = (KEEP if spec.keep else 0) | (KEEP_REMOTE if spec.stays else 0)
        flags |= ISOLATE if scheduler.is_isolated(task) else 0
        sources = tuple(self._source(rank, each) for each in spec.inputs)
        constants = self._launch.load.constants.get(task, ())
        for number in constants:
            self._send_constant(rank, number)
        return (task, attempt, task, ((spec.code,), 0, None, constants), sources, spec.timeout_s, flags)

    def _source(self, rank: int, task: int) -> Any:
        tasks = self.scheduler.tasks
        if tasks.at_rank0[task]:
            return (task, None, (PLAIN, self.home[task]), ())
        if not tasks.is_available(task):
            return (task, None, None, (rank,))
        holders = tasks.whom_to_ask(task, rank)
        if not holders and task in self._file_keys:
            self._tell_file(rank, task)
        return (task, None, None, holders)

    def _tell_file(self, rank: int, task: int) -> None:
        known = self._files_at.setdefault(rank, set())
        if task not in known:
            known.add(task)
            self._send(rank, (FILES, 1, [(task, self._file_keys[task])]))

    def _forget_old_file(self, task: int) -> None:
        """A value that an earlier launch had written was made again: should it be written, this launch's key is its."""
        if self._file_keys.pop(task, None) is not None:
            for rank, known in self._files_at.items():
                if task in known:
                    self._send(rank, (FILES, 1, [(task, self.key_of(task))]))

    def _send_constant(self, rank: int, number: int) -> None:
        known = self._constants_at.setdefault(rank, set())
        if number not in known:
            known.add(number)
            self._send(rank, (CONSTANT, 1, number, (PLAIN, number)), is_large=True)
