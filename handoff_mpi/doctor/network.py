"""Messages that measure: questions to all ranks, a ring, pings, a large block; with an end to every wait.

Rank 0 leads, the others :func:`serve`. A rank that does not answer in time is named, and not asked again. All of
it goes through the transport that runs use, so it tells what runs will see; it needs no MPI itself.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.messages import Message
from handoff_mpi.runtime.backoff import Backoff

_ASK = "ask"  # (ASK, serial, verb, arguments)
_ANSWER = "answer"  # (ANSWER, serial, value, error or None)
_PING = "ping"  # (PING, serial); answered with (PONG, serial, the time there)
_PONG = "pong"
_TOKEN = "token"  # (TOKEN, serial, the ranks still to pass)
_HAD = "had"  # (HAD, serial): the token was here
_BLOCK = "block"  # (BLOCK, serial) with a buffer
_HERE = "here"  # (HERE, serial): the block was received
_LEAVE = "leave"

_PINGS = 40
_WARM_UP = 5
_MAX_BREAKS = 4

Handlers = Mapping[str, Callable[..., object]]


@dataclass(slots=True)
class Ring:
    """How a token went round.

    Attributes:
        size: the number of ranks of the job.
        broken: the links (from, to) that did not carry it although both ends answer rank 0.
        silent: the ranks that did not take it from rank 0 either.
        seconds: how long the whole round took.
    """

    size: int
    broken: list[tuple[int, int]] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Ping:
    """One rank as rank 0 reaches it.

    Attributes:
        round_trip_s: the median seconds of a small message there and back.
        clock_s: how far that rank's clock is ahead of rank 0's.
    """

    round_trip_s: float
    clock_s: float


class Leader:
    """Rank 0's side.

    Args:
        transport: rank 0's end.
        handlers: verb to function, the same as the other ranks serve; rank 0 asks itself too.

    Attributes:
        silent: rank to why it is not asked any more.
        troubles: rank to what went wrong there while it answered.
    """

    def __init__(self, transport: Any, handlers: Handlers) -> None:
        self._transport = transport
        self._handlers = handlers
        self._serial = 0
        self._arrived: deque[Envelope] = deque()
        self._pace = Backoff(transport.doorbell)
        self.silent: dict[int, str] = {}
        self.troubles: dict[int, str] = {}

    @property
    def others(self) -> list[int]:
        """The ranks beside rank 0 that have answered so far."""
        return [rank for rank in range(1, self._transport.size) if rank not in self.silent]

    def ask(self, verb: str, *args: object, timeout_s: float) -> dict[int, Any]:
        """Return rank to answer, of those that answer in time, rank 0 among them."""
        self._serial += 1
        asked = set(self.others)
        for rank in asked:
            self._transport.send(rank, (_ASK, self._serial, verb, args))
        outcomes = {0: _call(self._handlers, verb, args)}
        end = time.monotonic() + timeout_s
        while (waiting := asked - outcomes.keys() - self.silent.keys()) and time.monotonic() < end:
            envelope = self._receive(end)
            if envelope is not None and self._answers(envelope, _ANSWER):
                outcomes[envelope.source] = envelope.fields
        for rank in waiting:
            self.silent[rank] = f"it has not answered within {timeout_s:.0f} s ({verb})"
        self.troubles.update({rank: error for rank, (_, error) in outcomes.items() if error is not None})
        return {rank: value for rank, (value, error) in sorted(outcomes.items()) if error is None}

    def ring(self, timeout_s: float) -> Ring:
        """Pass a token round all ranks; it may rest nowhere for longer than ``timeout_s``.

        Where it gets lost rank 0 hands it to the next one itself, which tells a broken link from a silent rank.
        """
        ring = Ring(self._transport.size)
        started = time.monotonic()
        to_pass = [*self.others, 0]
        while to_pass not in ([], [0]) and len(ring.broken) + len(ring.silent) < _MAX_BREAKS:
            reached = self._pass_on(to_pass, timeout_s)
            to_pass = to_pass[len(reached) :]
            if reached and to_pass:
                ring.broken.append((reached[-1], to_pass[0]))
            elif to_pass:
                rank = to_pass.pop(0)
                ring.silent.append(rank)
                ring.broken = [link for link in ring.broken if link[1] != rank]
                self.silent.setdefault(rank, f"it has not taken a token within {timeout_s:.0f} s")
        ring.seconds = time.monotonic() - started
        return ring

    def _pass_on(self, to_pass: list[int], timeout_s: float) -> list[int]:
        """Hand the token to the first of ``to_pass``, for all of them; return those it reached one after the other."""
        self._serial += 1
        self._transport.send(to_pass[0], (_TOKEN, self._serial, tuple(to_pass[1:])))
        had: set[int] = set()
        end = time.monotonic() + timeout_s
        while 0 not in had and time.monotonic() < end:
            envelope = self._receive(end)
            if envelope is not None and self._answers(envelope, _HAD):
                had.add(envelope.source)
                end = time.monotonic() + timeout_s
            elif envelope is not None and self._answers(envelope, _TOKEN):
                had.add(0)
        return list(itertools.takewhile(had.__contains__, to_pass))

    def ping(self, timeout_s: float) -> dict[int, Ping]:
        """Return rank to how it is reached; ``timeout_s`` bounds all of it."""
        end = time.monotonic() + timeout_s
        pings = {}
        for rank in self.others:
            known = [each for _ in range(_WARM_UP + _PINGS) if (each := self._ping_once(rank, end)) is not None]
            if len(known) > _WARM_UP:
                trips, clocks = zip(*known[_WARM_UP:], strict=True)
                pings[rank] = Ping(statistics.median(trips), statistics.median(clocks))
        return pings

    def _ping_once(self, rank: int, end: float) -> tuple[float, float] | None:
        if rank in self.silent or time.monotonic() > end:
            return None
        self._serial += 1
        sent, sent_by_clock = time.perf_counter(), time.time()
        self._transport.send(rank, (_PING, self._serial))
        answer = self._await(_PONG, rank, end)
        if answer is None:
            self.silent.setdefault(rank, "it has not answered a ping")
            return None
        trip = time.perf_counter() - sent
        (clock_there,) = answer
        return trip, clock_there - (sent_by_clock + trip / 2)

    def stream(self, dest: int, nbytes: int, times: int, timeout_s: float) -> float | None:
        """Return the fewest seconds that ``nbytes`` take from here to ``dest``; None if they do not arrive."""
        import numpy

        block = numpy.ones(nbytes, numpy.uint8)
        end = time.monotonic() + timeout_s
        taken: list[float] = []
        for _ in range(times):
            self._serial += 1
            started = time.perf_counter()
            self._transport.send(dest, (_BLOCK, self._serial), [block])
            if self._await(_HERE, dest, end) is None:
                self.silent.setdefault(dest, f"{nbytes} bytes have not reached it within {timeout_s:.0f} s")
                break
            taken.append(time.perf_counter() - started)
        return min(taken, default=None)

    def dismiss(self, timeout_s: float) -> None:
        """Let the other ranks go; return when they have said that they do, or it took too long."""
        told = waiting = set(self.others)
        for rank in told:
            self._transport.send(rank, (_LEAVE, 0))
        end = time.monotonic() + timeout_s
        while (waiting := waiting - self.silent.keys()) and time.monotonic() < end:
            envelope = self._receive(end)
            if envelope is not None and envelope.kind == _LEAVE:
                waiting.discard(envelope.source)
        for rank in told & self.silent.keys():
            del self.silent[rank]  # MPI may report its end before its last message: it has left, as it should
        for rank in waiting:
            self.silent[rank] = f"it has not left within {timeout_s:.0f} s"
        self._transport.flush(1.0)

    def _await(self, kind: str, rank: int, end: float) -> Message | None:
        """Return the fields of ``rank``'s message about what was sent last, None if none comes in time."""
        while rank not in self.silent and time.monotonic() < end:
            envelope = self._receive(end, is_timed=True)
            if envelope is not None and self._answers(envelope, kind):
                return envelope.fields
        return None

    def _answers(self, envelope: Envelope, kind: str) -> bool:
        return envelope.kind == kind and envelope.number == self._serial

    def _receive(self, end: float, is_timed: bool = False) -> Envelope | None:
        """Return the next message; None if there is none in time, and when a rank was found dead.

        What ``is_timed`` is waited for without sleep: two ranks that sleep while they wait for each other would
        measure their sleeps.
        """
        is_lost = False
        while not self._arrived and not is_lost and time.monotonic() < end:
            arrived = self._transport.poll()
            for each in arrived:
                if isinstance(each, RankFailed):
                    self.silent.setdefault(each.rank, each.reason)
                    is_lost = True
                else:
                    self._arrived.append(each)
            self._pace.wait(bool(arrived), is_timed or self._transport.is_transferring, math.inf)
        return self._arrived.popleft() if self._arrived else None


def serve(transport: Any, handlers: Handlers, silence_timeout_s: float) -> None:
    """Another rank: answer until rank 0 says to leave.

    Raises:
        ConnectionError: rank 0 or the launcher has ended, or rank 0 was silent for ``silence_timeout_s``.
    """
    parent = os.getppid()
    backoff = Backoff(transport.doorbell)
    heard = time.monotonic()
    while True:
        arrived = transport.poll()
        for each in arrived:
            if isinstance(each, RankFailed):
                if each.rank == 0:
                    raise ConnectionError(f"rank 0 was lost: {each.reason}")
                continue
            heard = time.monotonic()
            _react(transport, handlers, each)
            if each.kind == _LEAVE:
                transport.flush(5.0)
                return
        if os.getppid() != parent:
            raise ConnectionError("the launcher has ended")
        if time.monotonic() - heard > silence_timeout_s:
            raise ConnectionError(f"rank 0 has been silent for {silence_timeout_s:.0f} s")
        backoff.wait(bool(arrived), transport.is_transferring, math.inf)


def _react(transport: Any, handlers: Handlers, envelope: Envelope) -> None:
    kind, serial, *fields = envelope.message
    if kind == _PING:
        transport.send(0, (_PONG, serial, time.time()))
    elif kind == _ASK:
        transport.send(0, (_ANSWER, serial, *_call(handlers, *fields)))
    elif kind == _TOKEN:
        transport.send(0, (_HAD, serial))
        (to_pass,) = fields
        if to_pass:
            following, *others = to_pass
            transport.send(following, (_TOKEN, serial, others))
    elif kind == _BLOCK:
        transport.send(envelope.source, (_HERE, serial))
    elif kind == _LEAVE:
        transport.send(0, (_LEAVE, serial))


def _call(handlers: Handlers, verb: str, args: tuple[object, ...]) -> tuple[object, str | None]:
    try:
        return handlers[verb](*args), None
    except Exception as error:
        traceback.print_exception(error)
        sys.stderr.flush()
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
