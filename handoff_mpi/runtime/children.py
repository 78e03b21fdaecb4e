"""The child processes of a rank in one run: which serves a slot, what it was sent, and what has become of that.

A child is started for the first call that needs one. Calls are sent to it ahead of their turn, and taken back before
they begin where they are recalled; see :mod:`handoff_mpi.worker.call_pipeline`. One that dies costs its call, one that
was stopped or never comes to begin its call is ended. Callers gather what a call needs, and take in its outcome; the
machine says when a call must end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from handoff_mpi.arrays.element_names import element_name
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.messages import DEATH, DIED, ISOLATE, Buffers, ErrorReport, LeaseReport
from handoff_mpi.runtime.backoff import at, clock
from handoff_mpi.runtime.idle_children import IdleChildren
from handoff_mpi.runtime.output import RankOutput
from handoff_mpi.runtime.process_monitor import PROCESS_CHECK_INTERVAL_S, Stops, look_at
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.serialization import Payload
from handoff_mpi.worker.call_pipeline import AHEAD_NBYTES, FEW_SENT, MAX_SENT, SentCalls
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.child_pool import ChildPool, close_all
from handoff_mpi.worker.child_process import ChildProcess, frame_ahead
from handoff_mpi.worker.child_protocol import BEGUN, ENDED, PART, SPENT, VOID
from handoff_mpi.worker.element_control import OVER
from handoff_mpi.worker.elements import NOTHING_ENDED
from handoff_mpi.worker.events import Begun, ElementBegun, Event, PartEnded, QueuedCall
from handoff_mpi.worker.machine import Worker
from handoff_mpi.worker.shared_memory import share

# States of a process that has ended, and was not reaped yet.
_DEAD = frozenset({"Z", "X"})

#: So much of what one child says is taken in before the others are listened to: it may never stop.
_MAX_FRAMES_PER_TURN = 4 * MAX_SENT
#: A child that has not begun a call with a timeout this long after that is given up.
PREPARE_TIMEOUT_S = 300.0


class Children:
    """The children of one rank.

    Args:
        setup: of the run.
        machine: knows which calls are to run.
        caller: knows code and constants.
        child_pool: children of runs before, and for those after; None if the run's are all to end with it.
        gather: returns all that a call needs; None if an input is unavailable, which it reports then.
        ended: takes a call, its outcome and when it began.
        note: takes what else the machine must learn.
        updated: takes a rank and the resources that a call in a child says it has.
        output: where what calls print is captured; None leaves it alone.

    Attributes:
        sent: what each slot's child was sent and has not answered.
    """

    def __init__(
        self,
        setup: RunSetup,
        machine: Worker,
        caller: CallRunner,
        child_pool: ChildPool | None,
        gather: Callable[[QueuedCall], bool],
        ended: Callable[[QueuedCall, Outcome, float], None],
        note: Callable[[Event], None],
        updated: Callable[[int, dict[str, object]], None],
        output: RankOutput | None = None,
    ) -> None:
        self._setup = setup
        self._own_slots = {"rank": 1, "inline": sys.maxsize}.get(setup.isolation, 0)  # whose calls the rank itself runs
        self._machine = machine
        self._caller = caller
        self._child_pool = child_pool
        self._gather = gather
        self._ended = ended
        self._note = note
        self._updated = updated
        self._output = output
        self._children: list[ChildProcess | None] = [None] * setup.slots
        self._idle = IdleChildren()
        self.sent = [SentCalls() for _ in range(setup.slots)]
        self._stops = Stops()
        self._next_look = 0.0

    def is_for_child(self, work: QueuedCall) -> bool:
        """Whether a call runs in a child, not in the rank itself."""
        if work.slot >= self._own_slots or work.flags & ISOLATE:
            return True
        return bool(work.devices) and self._caller.has_broken_context  # no call can use CUDA in this process any more

    def sockets(self) -> list[ChildProcess]:
        """Return what becomes readable when a child speaks that may soon have no call.

        To be woken for each result of a child that has many short calls would cost more than the calls.
        """
        pairs = zip(self._children, self.sent, strict=True)
        return [child for child, sent in pairs if child is not None and 0 < len(sent) <= FEW_SENT]

    def pids(self) -> list[int]:
        """Return the processes of all children, spare ones too."""
        child_pool = [] if self._child_pool is None else self._child_pool.pids()
        return [*(child.pid for child in [*self._children, *self._idle.all()] if child is not None), *child_pool]

    # -- calls go out -------------------------------------------------------------------------------

    def call(self, work: QueuedCall) -> None:
        """Start a call in its slot's child."""
        if not self._gather(work):
            return
        while work.slot >= len(self.sent):  # the rank was given more slots
            self._children.append(None)
            self.sent.append(SentCalls())
        try:
            child = self._child(work)
            child.call(work)
            self.sent[work.slot].sent([work])
        except OSError as error:
            lost = self._children[work.slot]
            self._children[work.slot] = None
            self.sent[work.slot].lost()
            how = lost.how_it_died() if lost is not None else (f"no child process could be started: {error}", "")
            self._ended(work, self._death(work, *how, 0.0), clock())
        finally:
            work.values = ()

    def _child(self, work: QueuedCall) -> ChildProcess:
        """Return the slot's child, started if there is none, told all it needs for ``work``."""
        child = self._child_with(self._shown_to(work), work.slot)
        if self._output is not None and not child.is_captured:
            files = self._output.of_slot(work.slot)
            if files is not None:
                with suppress(OSError):  # too many files are open: then it prints as if nothing captured it
                    child.capture(files)
        codes, _, _, constants, *_ = work.call_template
        wanted = [number for number in codes if number not in child.knows]
        if wanted:
            child.learn([(number, self._caller.blobs[number]) for number in wanted])
        for number in constants:
            if number not in child.knows_constants:
                child.learn_constant(number, self._shared_constant(number))
        return child

    def _shown_to(self, work: QueuedCall) -> str:
        """Return the devices that the child of a call is shown; "" for those that this process is shown."""
        return self._caller.devices.shown(work.devices) if work.devices else ""

    def _child_with(self, devices: str, slot: int) -> ChildProcess:
        """Return a child for a slot that is shown these devices: CUDA cannot be shown others once it has started."""
        child = self._children[slot]
        if child is not None and child.devices == devices and not child.is_spent:
            return child
        other = self._idle.take(devices)
        if child is not None:
            # Void calls that it has yet to answer would be taken for its next ones.
            child.is_spent = child.is_spent or bool(self.sent[slot])
            self.sent[slot].lost()
            self._children[slot] = None
            self._let_end(self._idle.put(child, len(self._children)))
        child = self._children[slot] = other or self.start(devices)
        return child

    def _let_end(self, children: Iterable[ChildProcess]) -> None:
        """Have idle children end without waiting for that."""
        for child in children:
            if self._child_pool is not None:
                self._child_pool.let_end(child)
            else:
                close_all([child])

    def start(self, devices: str = "") -> ChildProcess:
        """Return an idle child, a spare one if there is one.

        Args:
            devices: those that it is shown.

        Raises:
            OSError: none could be started.
        """
        setup = self._setup
        return self._spare(devices) or ChildProcess(self._caller.rank, setup.run, setup.setup, setup.seeds, devices)

    def _spare(self, devices: str) -> ChildProcess | None:
        if self._child_pool is None or self._setup.setup is not None:
            return None
        return self._child_pool.take(self._setup.run, self._setup.seeds, devices)

    def _shared_constant(self, number: int) -> Payload:
        """Return a constant in memory that all children can map."""
        constant = share(self._caller.constants[number])
        self._caller.learn((), (number, constant))
        return constant

    def prefill(self) -> None:
        """Send children the calls that come next, so that they need not wait for them."""
        for slot, sent in enumerate(self.sent):
            if sent and len(sent) <= FEW_SENT and not sent.has_void:
                self._prefill(slot, sent)

    def _prefill(self, slot: int, sent: SentCalls) -> None:
        child = self._children[slot]
        if child is None or child.is_spent:
            return
        frames: list[bytes] = []

        def suits(work: QueuedCall, before: QueuedCall) -> bool:
            frame = self._frame_ahead(child, work, before)
            if frame is not None:
                frames.append(frame)
            return frame is not None

        works = self._machine.slots.prefill(slot, MAX_SENT - len(sent), suits)
        if works:
            sent.sent(works)
            try:
                child.call_ahead(frames)
            except OSError:
                pass  # it has ended, which the next read of its socket notices

    def _frame_ahead(self, child: ChildProcess, work: QueuedCall, before: QueuedCall) -> bytes | None:
        """Return a call as it is sent behind ``before``; None if it must be sent in its turn."""
        if work.elements is not None or before.elements is not None:
            return None  # the control block of a child is for one lease, and is stopped with it
        codes, _, _, constants, *_ = work.call_template
        if not self.is_for_child(work) or self._shown_to(work) != child.devices:
            return None
        if not child.knows.issuperset(codes) or (constants and not child.knows_constants.issuperset(constants)):
            return None
        values: list[Payload | None] = []
        for task, codec, payload, _ in work.sources:
            if payload is None and work.fetched:
                payload, _ = work.fetched.get((task, codec), (None, -1))
            is_at_hand = task == before.task if payload is None else len(payload) == 2
            if codec is not None or not is_at_hand:
                return None
            values.append(payload)
        frame = frame_ahead(work, values)
        return frame if len(frame) <= AHEAD_NBYTES else None

    # -- what they say ------------------------------------------------------------------------------

    def listen(self) -> None:
        """Take in all that children have said."""
        for slot, sent in enumerate(self.sent):
            if sent:
                self._listen_to(slot)

    def _listen_to(self, slot: int) -> None:
        child, sent = None, self.sent[slot]
        try:
            for _ in range(_MAX_FRAMES_PER_TURN):
                child = self._children[slot]  # another one, where a call that was sent again needed that
                if child is None or not sent or (frame := child.poll()) is None:
                    break
                (kind, *fields), buffers = frame
                if kind == ENDED:
                    self._call_ended(sent.ended(), buffers, *fields)
                elif kind == VOID:
                    self._send_again(slot, sent.voided())
                elif kind == SPENT:
                    child.is_spent = True
                elif kind == BEGUN:
                    assert sent.running is not None
                    self._note(Begun(sent.running))
                elif kind == PART:
                    assert sent.running is not None
                    self._note(PartEnded(sent.running, *fields))
                else:
                    self._updated(*fields)
        except EOFError:
            self._child_died(slot)
        else:
            if child is not None and sent.running is not None and sent.running.elements is not None:
                self._look_at_element(child, sent.running)

    def _look_at_element(self, child: ChildProcess, work: QueuedCall) -> None:
        """Have the machine know since when the running element of a lease runs, if it has a timeout."""
        if work.timeout_s is not None:
            index, start = child.control.running()
            if index not in (-1, work.element):
                self._note(ElementBegun(work, index, at(start)))

    def _call_ended(
        self,
        work: QueuedCall | None,
        buffers: Buffers,
        status: int,
        head: Payload | None,
        error: ErrorReport | None,
        began: float,
        duration: float,
        report: LeaseReport | None = None,
    ) -> None:
        assert work is not None, "what is void does not run"
        payload = None if head is None else (*head, *buffers)
        if report is not None and work.left_from is not None:
            report = report._replace(left=tuple(IntervalSet(report.left).within(0, work.left_from)))
        self._ended(work, Outcome(status, payload, error, duration, report), at(began))

    def _child_died(self, slot: int) -> None:
        """The call that ran has failed with its process; those sent ahead go to another child."""
        child, sent = self._children[slot], self.sent[slot]
        assert child is not None
        self._children[slot] = None
        work = sent.running
        sent.lost()
        if work is not None:
            started = work.started or clock()  # the machine does not know yet that the call before has ended
            how = child.how_it_died()  # after which nothing prints there any more
            element = -1 if work.elements is None else child.control.running()[0]
            self._ended(work, self._death(work, *how, clock() - started, element), started)

    def _death(self, work: QueuedCall, how: str, last_words: str, duration: float, element: int = -1) -> Outcome:
        printed = ""
        if self._output is not None:
            id: object = work.id
            attempt = work.attempt
            if work.elements is not None and element >= 0:
                id, attempt = element_name(id, element), work.elements[2] + 1
            printed = self._output.call_was_killed(work.slot, id, attempt)
        return Outcome(DIED, None, ErrorReport(DEATH, how, last_words, output=printed, element=element), duration)

    # -- calls come back ----------------------------------------------------------------------------

    def take_back(self) -> None:
        """Calls are recalled: those sent ahead can be given back if they have not begun."""
        for slot, sent in enumerate(self.sent):
            if sent:
                self._take_back(slot)

    def _take_back(self, slot: int) -> None:
        """Keep what was sent ahead from beginning, unless it has begun."""
        child, sent = self._children[slot], self.sent[slot]
        if child is not None and len(sent) > 1 and not sent.has_void:
            self._send_again(slot, sent.taken_back(child.take_back()))

    def _send_again(self, slot: int, void: Sequence[QueuedCall]) -> None:
        """The child will not run these calls; each is sent again when its turn comes."""
        running = self._machine.running[slot]
        if running is not None and running in void:
            self.call(running)

    def stop(self, work: QueuedCall) -> None:
        """Have no further element of a lease begin; the machine learns at once which will not."""
        child, sent = self._children[work.slot], self.sent[work.slot]
        if child is None or sent.running is not work or work.elements is None:
            return
        first = child.control.stop()
        intervals, _, _ = work.elements
        left = tuple(IntervalSet(intervals).within(first, OVER))
        if left:
            work.left_from = first
            self._note(PartEnded(work, NOTHING_ENDED._replace(left=left)))

    def kill(self, slot: int) -> None:
        """End the call, or the element, that runs in a slot, and none that has begun since."""
        work, child = self._machine.running[slot], self._children[slot]
        if child is not None and not child.is_preparing:  # else its call has not begun
            self._take_back(slot)
            self._listen_to(slot)
            is_same = self._children[slot] is child and self.sent[slot].running is work
            if is_same and (work is None or _is_still_at(child, work)):
                child.kill()

    # -- the processes ------------------------------------------------------------------------------

    def look(self) -> None:
        """End a child that was stopped for long: its call would never end. Nor would that of one that is dead, if
        what it had forked holds its end of the socket, or that of one that never comes to begin it.
        """
        now = clock()
        if now < self._next_look:
            return
        self._next_look = now + PROCESS_CHECK_INTERVAL_S
        if self._output is not None:
            self._output.look_at_slots()
        for child, sent in zip(self._children, self.sent, strict=True):
            if sent and child is not None:
                self._look_at(child, sent, now)

    def _look_at(self, child: ChildProcess, sent: SentCalls, now: float) -> None:
        if sent.running is not None and _is_given_up(sent.running, now):
            child.kill()
        end_if_stuck(child, self._stops, now)

    def relieve_idle(self) -> None:
        """Memory is short: idle children give back what they keep, and spare ones end."""
        self._let_end(self._idle.take_all())
        for child, sent in zip(self._children, self.sent, strict=True):
            if child is not None and not sent:
                child.give_back_freed_memory()
        if self._child_pool is not None:
            self._child_pool.let_all_end()

    def close(self) -> None:
        """End them; running ones are killed, their results are not wanted any more."""
        for child in self.sockets():
            child.kill()
        busy = self.sockets()
        idle = [child for child, sent in zip(self._children, self.sent, strict=True) if child is not None and not sent]
        idle += self._idle.take_all()
        if self._child_pool is not None:
            self._child_pool.keep(idle)
            idle = []
        close_all([*busy, *idle])
        self._children = [None] * len(self._children)
        self.sent[:] = [SentCalls() for _ in self._children]


def _is_still_at(child: ChildProcess, work: QueuedCall) -> bool:
    """Whether a child still computes what has used up its time: always, unless that is an element of a lease."""
    return work.elements is None or child.control.running()[0] == work.element


def end_if_stuck(child: ChildProcess, stops: Stops, now: float) -> None:
    """End a busy child that is dead, or that has been stopped for long."""
    state = look_at(child.pid)[0]
    if state in _DEAD:
        child.bury()
    stopped_s = stops.look(child.pid, state, now)
    if stopped_s is not None and stopped_s >= stops.limit_s:
        child.kill(f"its process had been stopped for {stopped_s:.0f} s and was ended")


def _is_given_up(work: QueuedCall, now: float) -> bool:
    """Whether a child has had so long to begin a call that it never will."""
    since = work.element_started or work.started
    return work.is_overdue and now - since >= (work.timeout_s or 0.0) + PREPARE_TIMEOUT_S
