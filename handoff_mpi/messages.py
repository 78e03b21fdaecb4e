"""Messages between ranks: tuples that start with a kind and the number of the run.

Every message is ``(kind, run, ...)``; a rank drops what belongs to another run. Large buffers travel beside a message,
see :mod:`handoff_mpi.comm`. Each kind has a function of the same name here, which makes the message and states its
fields. The receiver unpacks a message at one place, and hands the fields to the handler of its kind, whose parameters
have the same names (``tests/test_messages.py`` compares them). Named tuples would be pickled seven times as slowly as
plain ones, and made six times as slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

#: A message as it travels.
Message: TypeAlias = "tuple[Any, ...]"
#: Bytes-like objects that travel beside a message.
Buffers: TypeAlias = "Sequence[Any]"

# Rank 0 to a worker
START = "start"
DISPATCH = "dispatch"
CONSTANT = "constant"
FILES = "files"
RETRACT = "retract"
FREE_VALUES = "free_values"
LOST = "lost"
CHECK_PROCESS = "check_process"
STOP = "stop"
SETUP = "setup"
DECODE = "decode"
SHUTDOWN = "shutdown"

# A worker to rank 0
FINISHED = "finished"
RETRACTED = "retracted"
INPUT_UNAVAILABLE = "input_unavailable"
HEARTBEAT = "heartbeat"  # from rank 0 too
TRANSFERRED = "transferred"
MEMORY = "memory"
ENCODING = "encoding"
USAGE = "usage"
UPDATE = "update"
PROCESS_STATUS = "process_status"
ELEMENTS = "elements"
REGISTERED = "registered"
DECODED = "decoded"
BYE = "bye"
ENDS = "ends"  # from rank 0 too

# A rank to a rank
ASKED = "asked"
FETCH = "fetch"
VALUE = "value"
NOT_FOUND = "not_found"
REDIRECT = "redirect"

#: The number in messages that belong to no run.
NO_RUN = 0

#: ``via`` of a fetch: the rank that redirected to the one that is asked, or one of these.
DIRECT = -1  # rank 0 named it
INSIST = -2  # it must serve, or have nothing: redirects failed

#: Status of an entry.
OK = 0
RAISED = 1
TIMED_OUT = 2
DIED = 3


class ErrorReport(NamedTuple):
    """The report of a rank on an attempt that failed; plain text, so that rank 0 needs none of its classes.

    Attributes:
        kind: the name of the exception's class, or one of the kinds below.
        message: in words.
        traceback: as text; empty where there is none.
        lineage: the names of the exception's class and of its bases; see :mod:`handoff_mpi.dag.retry_on`.
        place: "file:line" of the innermost frame that is the user's; empty where there is none.
        input: which of the call's inputs was unavailable, as a position among its sources; -1 if none was.
        output: the last lines that the call has printed, where they are captured.
        element: the index of the element of an array that was being computed; -1 if none was.
        devices: the uuids of those that have failed, if that is why.
    """

    kind: str
    message: str
    traceback: str = ""
    lineage: tuple[str, ...] = ()
    place: str = ""
    input: int = -1
    output: str = ""
    element: int = -1
    devices: tuple[str, ...] = ()


#: The indices from a first one to one behind the last, as those of a range.
Interval: TypeAlias = "tuple[int, int]"


class LeaseReport(NamedTuple):
    """The report of a rank on elements of an array.

    Attributes:
        ended: the elements that have values.
        column: these values, in this order; see :mod:`handoff_mpi.arrays.columns`.
        failures: the elements that failed: (intervals, error) of those that failed alike.
        left: the elements that did not begin, and will not.
        busy_s: seconds in calls.
    """

    ended: tuple[Interval, ...]
    column: tuple[Any, ...]
    failures: tuple[tuple[tuple[Interval, ...], ErrorReport], ...] = ()
    left: tuple[Interval, ...] = ()
    busy_s: float = 0.0


#: One ended call: (task, attempt, status, value, nbytes, started, duration, is_persisted). ``value`` is a payload if it
#: is sent inline to rank 0, else None; for the other statuses it is an :class:`ErrorReport`. ``started`` is in seconds
#: since the epoch, ``duration`` in seconds. ``is_persisted`` tells whether the value lies in a file as well.
Entry: TypeAlias = "tuple[int, int, int, Any, int, float, float, bool]"

#: A share of an array: (intervals, pieces of the element inputs of each interval, how often these elements were tried).
#: A number in the place of a piece is the position of a source, whose value the only element is.
LeaseElements: TypeAlias = "tuple[tuple[Interval, ...], tuple[tuple[Any, ...], ...], int]"
#: (task, attempt, id, call template, sources, timeout_s, flags, elements); a source is (task, codec, payload or None,
#: holders). Without payload and holders the value lies in a file. ``elements`` are those of a lease, else None.
Assignment: TypeAlias = "tuple[int, int, Any, Any, tuple[Any, ...], float | None, int, LeaseElements | None]"
#: (slot, cores and devices of a new claim or None, assignments); a device is (index in the rank, uuid).
Group: TypeAlias = "tuple[int, tuple[float, tuple[tuple[int, str], ...]] | None, list[Assignment]]"
#: (task, attempt).
Attempt: TypeAlias = "tuple[int, int]"

#: Flags of an assignment.
ISOLATE = 1  # run it in a child process
KEEP = 2  # its value must outlast the run
KEEP_REMOTE = 4  # its value stays on the rank at any size
LEASE = 8  # it computes elements of an array; its value is a LeaseReport, sent inline at any size

#: How short of memory a rank is: a high one moves values out, a critical one is given no new tasks.
NORMAL = 0
HIGH = 1
CRITICAL = 2

#: Values of at most this many bytes are sent inline to rank 0, with the completion.
INLINE_RESULT_NBYTES = 8 * 1024

# Kinds of failures that are not an exception's class
TIMEOUT = "timeout"
DEATH = "death"
NO_ROOM = "no-room"
REFUSED = "refused"
UNPICKLABLE = "unpicklable"
# Kinds of incidents that are not failures of the function
DEVICE_LOSS = "device-lost"
RANK_LOSS = "rank-lost"
VALUE_LOSS = "value-lost"

# -- rank 0 to a worker -------------------------------------------------------------------------------------


def start(setup: object) -> Message:
    """A run begins; see :class:`~handoff_mpi.runtime.run_setup.RunSetup`."""
    return START, NO_RUN, setup


def dispatch(run: int, codes: Sequence[tuple[int, bytes]], groups: Sequence[Group]) -> Message:
    """Run these calls; ``codes`` are encoded callables that they need and the rank does not have."""
    return DISPATCH, run, codes, groups


def constant(run: int, number: int, head: Message) -> Message:
    """Keep a large constant, whose buffers travel beside the message, for the calls that take it."""
    return CONSTANT, run, number, head


def files(run: int, keys: Sequence[tuple[int, object]]) -> Message:
    """An earlier launch wrote the values of these tasks, under these keys."""
    return FILES, run, keys


def retract(run: int, attempts: Sequence[Attempt]) -> Message:
    """Return these calls, unless they have begun."""
    return RETRACT, run, attempts


def free_values(run: int, tasks: Sequence[int]) -> Message:
    """No call needs the values of these tasks any more."""
    return FREE_VALUES, run, tasks


def lost(run: int, rank: int) -> Message:
    """``rank`` is lost: what others wait for from it will not come."""
    return LOST, run, rank


def check_process(run: int, rank: int) -> Message:
    """Check the process of ``rank``, which is silent, and on your host."""
    return CHECK_PROCESS, run, rank


def stop(run: int, results: object) -> Message:
    """The run is over; ``results`` are those that all ranks get, encoded, or None."""
    return STOP, run, results


def setup(function: bytes, paths: Sequence[str]) -> Message:
    """Call dag.py's ``setup(rank)``, which is encoded; ``paths`` are rank 0's, for imports."""
    return SETUP, NO_RUN, function, paths


def decode(
    number: int, pieces: Sequence[object], in_child: bool, function: bytes | None, paths: Sequence[str]
) -> Message:
    """Try to decode what functions will be sent, before a run; in a child process where they run in one."""
    return DECODE, NO_RUN, number, pieces, in_child, function, paths


def shutdown() -> Message:
    """The job is over: the rank may exit."""
    return SHUTDOWN, NO_RUN


# -- a worker to rank 0 -------------------------------------------------------------------------------------


def finished(run: int, entries: Sequence[Entry]) -> Message:
    """These calls ended."""
    return FINISHED, run, entries


def retracted(run: int, attempts: Sequence[Attempt]) -> Message:
    """These calls come back: they have not begun, and will not."""
    return RETRACTED, run, attempts


def input_unavailable(run: int, task: int, attempt: int, missing: Sequence[tuple[int, Sequence[int]]]) -> Message:
    """A call comes back, because it could not get inputs: (input, ranks that were asked), none meaning a file."""
    return INPUT_UNAVAILABLE, run, task, attempt, missing


def heartbeat(run: int, started: Sequence[tuple[int, int, float]] = ()) -> Message:
    """A sign of life, with calls that have run for long: (task, attempt, start). Rank 0 sends one without."""
    return HEARTBEAT, run, started


def transferred(run: int, transfers: Sequence[tuple[int, int, int, float]]) -> Message:
    """Inputs were fetched: (task, source rank, bytes, seconds)."""
    return TRANSFERRED, run, transfers


def memory(run: int, is_short: bool, words: str) -> Message:
    """The rank is too short of memory for new tasks, or no longer is; by what measure, in words."""
    return MEMORY, run, is_short, words


def encoding(run: int, reports: Sequence[tuple[int, int, int, int, float]]) -> Message:
    """Calls wait for the encoding of an input: (task, attempt, input, rank that encodes it, since when)."""
    return ENCODING, run, reports


def usage(run: int, sample: Mapping[str, float]) -> Message:
    """How much of the rank's host is in use; see :mod:`handoff_mpi.runtime.host_usage`."""
    return USAGE, run, sample


def update(run: int, rank: int, resources: Mapping[str, object]) -> Message:
    """``rank`` has these resources from now on, as the user gave them."""
    return UPDATE, run, rank, resources


def process_status(run: int, rank: int, is_gone: bool, reason: str) -> Message:
    """The process of ``rank`` was checked, because rank 0 had asked or as a neighbour's."""
    return PROCESS_STATUS, run, rank, is_gone, reason


def elements(run: int, task: int, attempt: int, report: LeaseReport) -> Message:
    """A part of a lease has ended, and the rest of it still runs."""
    return ELEMENTS, run, task, attempt, report


def registered(capability: object, error: str | None) -> Message:
    """Answers ``setup``: what the rank offers, and what went wrong."""
    return REGISTERED, NO_RUN, capability, error


def decoded(number: int, outcome: object) -> Message:
    """Answers ``decode``; see :class:`~handoff_mpi.worker.dry_run.Decoded`."""
    return DECODED, NO_RUN, number, outcome


def bye(run: int = NO_RUN) -> Message:
    """The rank has left the run, or the job."""
    return BYE, run


def ends(status: int) -> Message:
    """The script of the rank has ended, with this exit status; from rank 0: the job ends."""
    return ENDS, NO_RUN, status


# -- a rank to a rank ---------------------------------------------------------------------------------------


def asked(answer: str) -> Message:
    """Rank 0's host has answered this, between two runs, to a rank of the same host."""
    return ASKED, NO_RUN, answer


def fetch(
    run: int,
    request_id: int,
    task: int,
    codec: object = None,
    codes: Sequence[tuple[int, bytes]] = (),
    via: int = DIRECT,
    limit_s: float | None = None,
) -> Message:
    """Send the value of ``task``.

    Args:
        run: the number of the run.
        request_id: comes back with the answer.
        task: whose value it is.
        codec: numbers of the callables that encode and decode it, or None.
        codes: encoded callables that the codec needs.
        via: the rank that redirected to the one that is asked, or DIRECT, or INSIST.
        limit_s: how long encoding may take, in a child process; None where the holder may do it itself.
    """
    return FETCH, run, request_id, task, codec, codes, via, limit_s


def value(run: int, request_id: int, head: Message) -> Message:
    """Answers ``fetch``; ``head`` is the payload without its buffers, which travel beside the message."""
    return VALUE, run, request_id, head


def not_found(run: int, request_id: int, reason: tuple[int, object] | None = None) -> Message:
    """Answers ``fetch``: the value is not here, or cannot be encoded, for a ``reason`` (status, error)."""
    return NOT_FOUND, run, request_id, reason


def redirect(run: int, request_id: int, rank: int, nbytes: int) -> Message:
    """Answers ``fetch``: ask ``rank``, which has the value, of ``nbytes`` bytes (0 if unknown), or is getting it."""
    return REDIRECT, run, request_id, rank, nbytes
