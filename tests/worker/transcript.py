"""A dialogue with a worker: what it receives and what its calls come to, and its commands in lines one can read."""

from __future__ import annotations

from handoff_mpi.messages import (
    CONSTANT,
    DIED,
    DIRECT,
    DISPATCH,
    ELEMENTS,
    ENCODING,
    FETCH,
    FINISHED,
    FREE_VALUES,
    HEARTBEAT,
    INPUT_UNAVAILABLE,
    INSIST,
    LEASE,
    LOST,
    MEMORY,
    NORMAL,
    NOT_FOUND,
    OK,
    RAISED,
    REDIRECT,
    RETRACT,
    RETRACTED,
    STOP,
    TIMED_OUT,
    TRANSFERRED,
    VALUE,
    ErrorReport,
    LeaseReport,
)
from handoff_mpi.serialization import PICKLED, PLAIN
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.events import (
    Begun,
    ElementBegun,
    Ended,
    InputMissing,
    Kill,
    Learn,
    Leave,
    PartEnded,
    Pressed,
    QueuedCall,
    Received,
    Send,
    Serve,
    StopLease,
    TakePart,
)
from handoff_mpi.worker.machine import Worker

RUN = 7
#: The claim of a slot, unless a test says otherwise.
CLAIM = (1.0, ())
STATUS = {OK: "ok", RAISED: "raised", TIMED_OUT: "timed out", DIED: "died"}

# -- what rank 0 sends ----------------------------------------------------------------------------------


def task(number, *sources, attempt=1, timeout_s=None, flags=0, constants=()):
    """An assignment."""
    return (number, attempt, f"id-{number}", ((0,), 0, None, constants), sources, timeout_s, flags, None)


def lease(number, start, stop, timeout_s=None, flags=0):
    """An assignment of elements of an array."""
    *assignment, _ = task(number, timeout_s=timeout_s, flags=flags | LEASE)
    return (*assignment, (((start, stop),), ((),), 0))


def report(ended=(), left=(), failed=()):
    """The report of a loop; its column stands for the values."""
    failures = tuple((((index, index + 1),), ErrorReport("ValueError", "oops")) for index in failed)
    return LeaseReport(tuple(ended), ("nones", sum(stop - start for start, stop in ended)), failures, tuple(left), 1.0)


def value(number, *holders, codec=None):
    """A source: a value that these ranks hold."""
    return (number, codec, None, holders)


def sent(number):
    """A source: a value that comes with the message."""
    return (number, None, (PLAIN, number), ())


def dispatch(*tasks, slot=0, claim=CLAIM, codes=()):
    return received(0, DISPATCH, list(codes), [(slot, claim, list(tasks))])


def constant(number):
    return received(0, CONSTANT, number, (PLAIN, "large"))


def recall(*tasks):
    return received(0, RETRACT, list(tasks))


def forget(*tasks):
    return received(0, FREE_VALUES, list(tasks))


def lost(rank):
    return received(0, LOST, rank)


def stop(results=None):
    return received(0, STOP, results)


# -- what ranks send one another ------------------------------------------------------------------------


def fetch(source, request_id, number, codec=None, via=DIRECT, limit_s=None):
    return received(source, FETCH, request_id, number, codec, [], via, limit_s)


def refer(source, request_id, rank, nbytes=0):
    return received(source, REDIRECT, request_id, rank, nbytes)


def arrives(source, request_id, nbytes=0):
    return received(source, VALUE, request_id, (PICKLED, b""), buffers=[bytes(nbytes)])


def absent(source, request_id, error=None):
    return received(source, NOT_FOUND, request_id, error)


def pressed(level, excess_nbytes=0, can_spill=True):
    """Memory was measured."""
    return Pressed(level, excess_nbytes, can_spill, "so much is in use" if level != NORMAL else "little is in use")


def received(source, kind, *rest, run=RUN, buffers=()):
    return Received(source, (kind, run, *rest), buffers)


# -- the dialogue ---------------------------------------------------------------------------------------


class Dialogue:
    """One worker, rank 1 of run 7, and the calls it has begun, by slot."""

    def __init__(self, slots=1, **options):
        self.worker = Worker(1, RUN, slots, **{"heartbeat_s": 1000.0, **options})
        self.calls = {}

    def tell(self, now, *events):
        """Let the worker handle ``events`` at time ``now``; return its commands, a line each."""
        commands = self.worker.handle(events, now)
        for command in commands:
            if isinstance(command, QueuedCall):
                self.calls[command.slot] = command
        return [_line(command) for command in commands]

    @property
    def is_idle(self):
        """Whether nothing runs and nothing waits."""
        return not any(self.worker.running) and not any(self.worker.queues)

    def ended(self, slot=0, status=OK, nbytes=8, is_persisted=False):
        """The call on ``slot`` ended."""
        error = None if status == OK else (STATUS[status], "oops", "Traceback")
        payload = (PLAIN, None) if status == OK else None
        return Ended(self.calls[slot], Outcome(status, payload, error, 1.0), nbytes, 0.0, is_persisted)

    def lease_ended(self, report, nbytes=8, slot=0):
        """The loop of the lease on ``slot`` ended."""
        return Ended(self.calls[slot], Outcome(OK, None, None, 1.0, report), nbytes, 0.0)

    def part_ended(self, report, slot=0):
        return PartEnded(self.calls[slot], report)

    def element_begun(self, index, started, slot=0):
        return ElementBegun(self.calls[slot], index, started)

    def begun(self, slot=0):
        """The child on ``slot`` has started, and calls."""
        return Begun(self.calls[slot])

    def missing(self, number, slot=0):
        """The shell could not find an input of the call on ``slot``."""
        return InputMissing(self.calls[slot], number)


def _line(command):
    kind = type(command)
    if kind is Send:
        return f"to {command.dest}: {_message(command.message)}"
    if kind is QueuedCall:
        return f"call {command.task}#{command.attempt} on slot {command.slot}"
    if kind is Kill:
        return f"kill slot {command.slot}"
    if kind is Serve:
        line = f"serve {command.task} to {command.dest} on request_id {command.request_id}" + _codec(command.codec)
        return line + _limit(command.limit_s)
    if kind is Learn:
        return "learn " + (f"codes {command.codes}" if command.codes else f"constant {command.constant[0]}")
    if kind is TakePart:
        return f"take part of {command.work.task}"
    if kind is StopLease:
        return f"stop {command.work.task}"
    if kind is Leave:
        return f"leave with {command.results}"
    return f"{kind.__name__.lower()} {command.task}"


def _message(message):
    kind, run, *rest = message
    assert run == RUN
    if kind == FINISHED:
        return f"finished {', '.join(map(_entry, rest[0]))}"
    if kind == RETRACTED:
        return f"returned {_pairs(rest[0])}"
    if kind == INPUT_UNAVAILABLE:
        task, attempt, missing = rest
        inputs = ", ".join(f"{number} asked of {asked}" for number, asked in missing)
        return f"unfetched for {task}#{attempt}: {inputs}"
    if kind == HEARTBEAT:
        return "alive" + "".join(f", {task}#{attempt} runs since {since:g}" for task, attempt, since in rest[0])
    if kind == ELEMENTS:
        return f"part of {rest[0]}#{rest[1]}: {_report(rest[2])}"
    if kind == MEMORY:
        return f"{'short of memory' if rest[0] else 'not short of memory'}: {rest[1]}"
    if kind == FETCH:
        return f"fetch {rest[1]} on request_id {rest[0]}" + _codec(rest[2]) + _via(rest[4]) + _limit(rest[5])
    if kind == REDIRECT:
        return f"ask {rest[1]} on request_id {rest[0]}"
    if kind == NOT_FOUND:
        return f"absent on request_id {rest[0]}"
    if kind == ENCODING:
        lines = [f"{value} for {task}#{n} at {rank} since {since:g}" for task, n, value, rank, since in rest[0]]
        return "encoding " + ", ".join(lines)
    if kind == TRANSFERRED:
        lines = [f"{task} from {rank}, {nbytes} bytes in {seconds:g} s" for task, rank, nbytes, seconds in rest[0]]
        return "transferred " + ", ".join(lines)
    return kind


def _report(report):
    failed = [f"{_intervals(intervals)} failed ({error.kind})" for intervals, error in report.failures]
    ended = [f"{_intervals(report.ended)} ended"] if report.ended else []
    return ", ".join([*ended, *failed, *([f"{_intervals(report.left)} left"] if report.left else [])])


def _intervals(intervals):
    return " ".join(f"{start}:{stop}" for start, stop in intervals)


def _via(via):
    return {DIRECT: "", INSIST: ", insisting"}.get(via, f", referred by {via}")


def _limit(limit_s):
    return "" if limit_s is None else f" within {limit_s:g} s"


def _codec(codec):
    return "" if codec is None else f" by {codec}"


def _pairs(tasks):
    return " ".join(f"{number}#{attempt}" for number, attempt in tasks)


def _entry(entry):
    number, attempt, status, result, nbytes, _, _, is_persisted = entry
    name = f"{number}#{attempt} {STATUS[status]}"
    if status != OK:
        element = f" in {result.element}" if type(result) is ErrorReport and result.element >= 0 else ""
        return f"{name} ({result[0]}){element}"
    if type(result) is LeaseReport:
        return f"{name} with {_report(result)}"
    return (
        f"{name} with its value" if result is not None else f"{name} holding {nbytes}{' in a file too' * is_persisted}"
    )
