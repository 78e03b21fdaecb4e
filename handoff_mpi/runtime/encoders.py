"""Child processes of a rank that encode its values for other ranks: user code, which may never return or may crash.

Encoding (``serialize`` of an :class:`~handoff_mpi.dag.Argument`, with the unpickling before it and the pickling after
it) is part of the call that the value is for, though another rank does it: it has an end where that call has a timeout,
and does not endanger the rank where that call would not endanger its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from handoff_mpi.messages import DEATH, DIED, TIMED_OUT, TIMEOUT, Buffers, ErrorReport
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.children import PREPARE_TIMEOUT_S, end_if_stuck
from handoff_mpi.runtime.process_monitor import PROCESS_CHECK_INTERVAL_S, Stops
from handoff_mpi.serialization import Payload
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.child_pool import close_all
from handoff_mpi.worker.child_process import ChildProcess
from handoff_mpi.worker.child_protocol import BEGUN, ENDED
from handoff_mpi.worker.events import Serve

#: An encoding that has waited for others this long gets a child of its own: those before it may never return.
_MAX_ENCODER_WAIT_S = 1.0
#: Encodings without a limit have at most so many children.
MAX_CHILDREN = 8
_NEVER = float("inf")


@dataclass(slots=True)
class _Encoding:
    """A value that a child encodes.

    Attributes:
        since: when the child got it, or began it after it had loaded the code, in seconds.
        is_overdue: whether the child was ended because of that.
    """

    child: ChildProcess
    command: Serve
    since: float
    is_overdue: bool = False

    def has_taken_too_long(self, now: float) -> bool:
        """Whether its limit has passed; loading the code is given longer, as it is before a call."""
        limit_s = _limit_s(self.command) + (PREPARE_TIMEOUT_S if self.child.is_preparing else 0.0)
        return not self.is_overdue and now - self.since >= limit_s


class Encoders:
    """The children of one rank that encode values in one run.

    Args:
        rank: its own.
        start: returns a new child.
        gather: returns a value by its task; None if it is unavailable.
        answer: takes a command, and how encoding ended; None if the value is unavailable.
    """

    def __init__(
        self,
        rank: int,
        start: Callable[[], ChildProcess],
        gather: Callable[[int], Payload | None],
        answer: Callable[[Serve, Outcome | None], None],
    ) -> None:
        self._where = f"on rank {rank}"
        self._start_child = start
        self._gather = gather
        self._answer = answer
        self._waiting: list[tuple[Serve, float]] = []
        self._running: list[_Encoding] = []
        self._idle: list[ChildProcess] = []
        self._stops = Stops()
        self._next_look = 0.0

    def __bool__(self) -> bool:
        """Whether anything is encoded, or waits for that."""
        return bool(self._running or self._waiting)

    def sockets(self) -> list[ChildProcess]:
        """Return what becomes readable when a child speaks."""
        return [each.child for each in self._running]

    def pids(self) -> list[int]:
        """Return the processes of all children."""
        return [each.pid for each in (*self.sockets(), *self._idle)]

    def serve(self, command: Serve) -> None:
        """Encode a value, and answer once that has ended."""
        self._waiting.append((command, clock()))
        self._begin_next()

    def _begin_next(self) -> None:
        while (place := next(filter(self._may_begin, range(len(self._waiting))), None)) is not None:
            command, _ = self._waiting.pop(place)
            payload = self._gather(command.task)
            if payload is None:
                self._answer(command, None)
            else:
                self._begin(command, payload)

    def _may_begin(self, place: int) -> bool:
        command, since = self._waiting[place]
        if self._idle or not self._running:
            return True
        has_room = len(self._running) < MAX_CHILDREN or _limit_s(command) < _NEVER
        return has_room and clock() - since >= _MAX_ENCODER_WAIT_S

    def _begin(self, command: Serve, payload: Payload) -> None:
        child = None
        try:
            child = self._idle.pop() if self._idle else self._start_child()
            news = [(number, blob) for number, blob in command.codes if number not in child.knows]
            if news:
                child.learn(news)
            child.encode(command.codec, command.dest, payload)
        except OSError as error:
            how = child.how_it_died() if child is not None else (f"no child process could be started: {error}", "")
            self._died(command, how, 0.0)
        else:
            self._running.append(_Encoding(child, command, clock()))

    def turn(self) -> None:
        """Take in what children say, end what has taken too long, and begin what waits."""
        for each in [*self._running]:
            self._listen_to(each)
        now = clock()
        for each in self._running:
            if each.has_taken_too_long(now):
                each.is_overdue = True
                each.child.kill()
        if now >= self._next_look:
            self._next_look = now + PROCESS_CHECK_INTERVAL_S
            for each in self._running:
                end_if_stuck(each.child, self._stops, now)
        self._begin_next()

    def _listen_to(self, each: _Encoding) -> None:
        try:
            while (frame := each.child.poll()) is not None:
                (kind, *fields), buffers = frame
                if kind == BEGUN:
                    each.since = clock()
                elif kind == ENDED:
                    self._ended(each, buffers, *fields)
                    return
        except EOFError:
            self._running.remove(each)
            how = each.child.how_it_died()
            elapsed_s = clock() - each.since
            if each.is_overdue:
                self._timed_out(each.command, elapsed_s)
            else:
                self._died(each.command, how, elapsed_s)

    def _ended(
        self,
        each: _Encoding,
        buffers: Buffers,
        status: int,
        head: Payload | None,
        error: ErrorReport | None,
        began: float,
        duration: float,
    ) -> None:
        self._running.remove(each)
        self._idle.append(each.child)
        self._answer(each.command, Outcome(status, None if head is None else (*head, *buffers), error, duration))

    def _timed_out(self, command: Serve, elapsed_s: float) -> None:
        why = f"encoding one of its inputs {self._where} took longer than its timeout of {command.limit_s:g} s"
        self._answer(command, Outcome(TIMED_OUT, None, ErrorReport(TIMEOUT, why), elapsed_s))

    def _died(self, command: Serve, how: tuple[str, str], elapsed_s: float) -> None:
        why = f"while one of its inputs was encoded {self._where}: {how[0]}"
        self._answer(command, Outcome(DIED, None, ErrorReport(DEATH, why, how[1]), elapsed_s))

    def relieve_idle(self) -> None:
        """Memory is short: idle children give back what they keep."""
        for child in self._idle:
            child.give_back_freed_memory()

    def close(self) -> None:
        """End them; what is encoded is not wanted any more."""
        for each in self._running:
            each.child.kill()
        close_all([*self.sockets(), *self._idle])
        self._running.clear()
        self._waiting.clear()
        self._idle.clear()


def _limit_s(command: Serve) -> float:
    return _NEVER if command.limit_s is None else command.limit_s
