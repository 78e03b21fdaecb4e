"""The shell around one worker's machine in a simulated launch: what it sends, holds, writes and calls."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from handoff_mpi import messages
from handoff_mpi.messages import (
    CHECK_PROCESS,
    DEATH,
    DIED,
    FILES,
    INLINE_RESULT_NBYTES,
    ISOLATE,
    KEEP,
    KEEP_REMOTE,
    NORMAL,
    OK,
    RAISED,
    REDIRECT,
    RETRACT,
    ErrorReport,
    Message,
)
from handoff_mpi.results.store import Key
from handoff_mpi.serialization import PLAIN
from handoff_mpi.simulation.network import Clock
from handoff_mpi.simulation.run_dir import SimulatedRunDir
from handoff_mpi.simulation.workload import Workload
from handoff_mpi.worker import events as worker
from handoff_mpi.worker.budget import UNLIMITED_NBYTES
from handoff_mpi.worker.machine import Worker

#: So many calls are sent ahead to a child.
_AHEAD = 3
#: A call that hangs never ends by itself.
_NEVER = 1e9


class SimulationContext(Protocol):
    """The cluster as a rank sees it."""

    clock: Clock
    rng: random.Random
    load: Workload
    run_dir: SimulatedRunDir
    fault_counts: Counter[str]
    number: int

    def send(self, source: int, dest: int, message: Message) -> None:
        """Send ``message`` to rank ``dest``."""

    def spoils(self, rank: int, task: int) -> str:
        """How a call on ``rank`` fails because its host is bad; empty if it does not."""

    def note_kill(self, task: int) -> None:
        """``task`` has killed the process that ran it."""

    def note_call(self, rank: int, work: worker.QueuedCall) -> None:
        """A call begins on ``rank``."""

    def die(self, rank: int) -> None:
        """``rank`` dies."""

    def looks_dead(self, rank: int) -> bool:
        """Whether the process of ``rank`` no longer exists, or was stopped for so long that it is ended now."""


@dataclass(slots=True)
class Traits:
    """The kind of a rank.

    Attributes:
        calls_itself: whether its first slot is the rank itself, so that a call can take the rank down with it.
        sees_files: whether it sees the run-dir.
        checkpoints: how likely it writes a large value that need not outlast the run.
        fan_out: how many others it gives a value to before it refers those that ask to them.
        cache_nbytes: how much memory it gives to values that no call needs.
    """

    calls_itself: bool
    sees_files: bool
    checkpoints: float
    fan_out: int
    cache_nbytes: int


class SimulatedRank:
    """One worker rank.

    Attributes:
        values: what its store holds in memory, by task.
        spilled: what it holds in files.
        pressed_until: until when memory is short.
        is_dead: for good.
        silent_until: until when it handles nothing.
        stopped_since: since when its process has been stopped, None if it is not.
    """

    def __init__(self, around: SimulationContext, rank: int, slots: int, traits: Traits) -> None:
        self.machine = Worker(
            rank,
            1,
            slots,
            heartbeat_s=2.0,
            store_nbytes=20 * INLINE_RESULT_NBYTES,
            cache_nbytes=traits.cache_nbytes,
            reads_files=traits.sees_files,
            fan_out=traits.fan_out,
            referred_nbytes=INLINE_RESULT_NBYTES,
        )
        self.rank = rank
        self.traits = traits
        self.values: dict[int, int] = {}
        self.spilled: dict[int, int] = {}
        self.pressed_until = -1.0
        self.is_dead = False
        self.silent_until = -1.0
        self.stopped_since: float | None = None
        self._around = around
        self._clock = around.clock
        self._backlog: list[worker.Event] = []
        self._calls: dict[int, tuple[worker.QueuedCall, list[int]]] = {}  # by slot, with the inputs as handed over
        self._ahead: dict[int, list[worker.QueuedCall]] = defaultdict(list)  # by slot; there may be more later
        self._is_one = False  # whether one event alone is being handled
        self._constants: set[int] = set()
        self._codes: set[int] = set()
        self._file_keys: dict[int, Key] = {}

    def is_silent(self) -> bool:
        return self._clock.now < self.silent_until

    # -- turns ----------------------------------------------------------------------------------------

    def receive(self, source: int, message: Message) -> None:
        """A message has arrived."""
        if not self.is_dead:
            kind, _, *fields = message
            if kind == FILES:
                (keys,) = fields
                self._file_keys.update(keys)
            self._backlog.append(worker.Received(source, message))
            self.wake()

    def wake(self) -> None:
        """Handle what has come, unless the rank is dead or hears nothing."""
        if self.is_dead or self.is_silent():
            return
        self.stopped_since = None
        events, self._backlog = self._backlog, []
        self._is_one = len(events) == 1
        arrived = [event.message for event in events if isinstance(event, worker.Received)]
        if any(kind == RETRACT for kind, *_ in arrived):
            self._take_back(*self._ahead)
        for kind, _, *fields in arrived:
            if kind == CHECK_PROCESS:
                self.look_at(*fields)
        while True:
            commands = self.machine.handle(events, self._clock.now)
            events = []
            for command in commands:
                events += self._obey(command)
            if not events:
                break
        self._prefill()
        wakeup = self.machine.next_wakeup()
        self._clock.at(max(self._clock.now + 1e-6, wakeup), "tick", self.rank, wakeup)

    def look_at(self, rank: int) -> None:
        """Look at the process of a rank of the same host, and tell rank 0 what is found."""
        is_gone = self._around.looks_dead(rank)
        reason = "its process no longer exists" if is_gone else "it is alive"
        self._around.send(self.rank, 0, messages.process_status(1, rank, is_gone, reason))

    def tick(self, wakeup: float) -> None:
        """A planned wake-up; one that was overtaken by events does nothing, or they would multiply."""
        if wakeup == self.machine.next_wakeup():
            self.wake()

    def press(self, until: float, levels: Sequence[int], can_spill: bool) -> bool:
        """Memory was looked at, and is short until then; return whether it is to be looked at again."""
        if self.is_dead:
            return False
        self.pressed_until = max(self.pressed_until, until)
        is_short = self._clock.now < until
        level = self._around.rng.choice(levels) if is_short else NORMAL
        excess = self._around.rng.choice((0, 1, 5 * INLINE_RESULT_NBYTES, 100 * INLINE_RESULT_NBYTES))
        room = 5 * INLINE_RESULT_NBYTES - excess if is_short else UNLIMITED_NBYTES
        self.machine.budget.measured(room, can_spill)
        self._backlog.append(worker.Pressed(level, excess, can_spill, "drawn at random"))
        self.wake()
        return is_short

    def _spill(self, task: int) -> None:
        soon = [work for work in self.machine.running if work is not None]
        soon += [queue[0] for queue in self.machine.queues if queue]
        is_wanted = any(task in work.wants for work in soon) and self._is_one  # or it may have come to be since
        assert not is_wanted, f"task {task} is wanted, and moved out of memory"
        if task in self.values:
            self._around.fault_counts["spill"] += 1
            self.spilled[task] = self.values.pop(task)

    def _obey(self, command: worker.Command) -> list[worker.Event]:
        if isinstance(command, worker.Send):
            kind, *_ = command.message
            self._around.fault_counts["referral"] += kind == REDIRECT
            self._around.send(self.rank, command.dest, command.message)
        elif isinstance(command, worker.Put):
            self.values[command.task] = command.payload[1]
        elif isinstance(command, worker.Drop):
            self.values.pop(command.task, None)
            self.spilled.pop(command.task, None)
        elif isinstance(command, worker.Spill):
            self._spill(command.task)
        elif isinstance(command, worker.Serve):
            self._serve(command)
        elif isinstance(command, worker.Learn):
            self._constants.update(() if command.constant is None else command.constant[:1])
            self._learn(command.codes)
        elif isinstance(command, worker.Kill):
            self._clock.at(self._clock.now, "end", self.rank, self._calls[command.slot][0], "killed")
        elif isinstance(command, worker.Call):
            return self._call(command.work)
        return []

    def _learn(self, codes: Sequence[tuple[int, bytes]]) -> None:
        """Take in codes; each is sent once, but for messages that come twice."""
        self._codes.update(number for number, _ in codes)

    def _serve(self, command: worker.Serve) -> None:
        value = self._held(command.task)
        if value is None:
            self._around.send(self.rank, command.dest, messages.not_found(1, command.request_id))
        else:
            self._around.send(self.rank, command.dest, messages.value(1, command.request_id, (PLAIN, value)))

    def _held(self, task: int) -> int | None:
        if task in self.machine.held:
            return self.values.get(task, self.spilled.get(task))
        if not self.traits.sees_files:
            return None
        return self._around.run_dir.files.get(self._file_keys.get(task, (str(self._around.number), task)))

    # -- calls ----------------------------------------------------------------------------------------

    def _prefill(self) -> None:
        """Send each child that runs a call those that come next."""
        for slot, ahead in self._ahead.items():
            running = self.machine.running[slot]
            if running is not None and not self._is_own(running):
                ahead += self.machine.slots.prefill(slot, _AHEAD - len(ahead), lambda work, _: not self._is_own(work))

    def _take_back(self, *slots: int) -> None:
        for slot in slots:
            for work in self._ahead[slot]:
                work.is_ahead = False
            self._ahead[slot].clear()

    def _has_begun(self, work: worker.QueuedCall) -> None:
        """A call begins; calls that were sent ahead begin in their order, except those that failed."""
        ahead = self._ahead[work.slot]
        if any(not other.is_here for other in ahead):
            self._take_back(work.slot)
        elif ahead:
            assert ahead.pop(0) is work, f"task {work.task} overtakes what its child was sent"

    def _is_own(self, work: worker.QueuedCall) -> bool:
        """Whether a call runs in the rank itself."""
        return self.traits.calls_itself and work.slot == 0 and not work.flags & ISOLATE

    def _call(self, work: worker.QueuedCall) -> list[worker.Event]:
        load, rng = self._around.load, self._around.rng
        self._has_begun(work)
        assert self._constants.issuperset(work.call_template[3]), f"task {work.task} runs without its constants"
        assert self._codes.issuperset(work.call_template[0]), f"task {work.task} runs without its code"
        inputs = []
        for task, _, payload, _ in work.sources:
            if payload is None and (task, None) in work.fetched:
                payload = work.fetched[task, None][0]
            value = self._held(task) if payload is None else payload[1]
            if value is None:
                return [worker.InputMissing(work, task)]
            inputs.append(value)
        self._around.note_call(self.rank, work)
        how = "ok"
        if work.attempt <= load.kills.get(work.task, 0):
            how = "killed"
        elif work.attempt <= load.raises.get(work.task, 0):
            how = "raised"
        if how == "ok":
            how = self._around.spoils(self.rank, work.task) or how
        duration = load.duration_s[work.task]
        if work.timeout_s is not None and rng.random() < 0.1:
            duration = _NEVER
        self._calls[work.slot] = (work, inputs)
        if duration < _NEVER:
            self._clock.at(self._clock.now + duration, "end", self.rank, work, how)
        return []

    def end(self, work: worker.QueuedCall, how: str) -> None:
        """A call ends: "ok", "raised" or "killed"."""
        running, inputs = self._calls.get(work.slot, (None, []))
        if self.is_dead or running is not work:
            return
        del self._calls[work.slot]
        if how == "killed":
            self._take_back(work.slot)  # its child has ended
        if how == "killed" and not work.is_overdue and self._kills(work):
            return
        if how == "ok":
            self._end_well(work, inputs)
        else:
            own = self._around.load.errors.get(work.task, "ValueError") if how == "raised" else "ValueError"
            status, kind = (DIED, DEATH) if how == "killed" else (RAISED, own)
            self._ended(
                work, worker.Ended(work, status, None, 0, ErrorReport(kind, how, "", (kind,)), work.started, 0.0)
            )

    def _kills(self, work: worker.QueuedCall) -> bool:
        """A call kills its process; return whether that is the rank's own."""
        self._around.note_kill(work.task)
        if not self.rank or not (self._is_own(work) or work.task in self._around.load.fells):
            return False
        self._around.die(self.rank)
        return True

    def _end_well(self, work: worker.QueuedCall, inputs: list[int]) -> None:
        around = self._around
        value, nbytes = around.load.value(work.task, inputs), around.rng.choice(around.load.nbytes[work.task])
        goes_home = nbytes <= INLINE_RESULT_NBYTES and not work.flags & KEEP_REMOTE
        must = bool(work.flags & KEEP)
        writes = self.traits.sees_files and not goes_home and (must or around.rng.random() < self.traits.checkpoints)
        if writes:
            around.run_dir.put((str(around.number), work.task), (PLAIN, value))
        self._ended(work, worker.Ended(work, OK, (PLAIN, value), nbytes, None, work.started, 0.0, writes))

    def _ended(self, work: worker.QueuedCall, event: worker.Ended) -> None:
        event.duration = self._clock.now - work.started
        self._backlog.append(event)
        self.wake()
