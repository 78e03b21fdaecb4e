"""Messages between ranks: tuples that start with a kind and the number of the run.

Objects become tuples at the border, because a batch of tuples is pickled ten times as fast. Every message is
``(kind, run, ...)``; a rank drops what belongs to another run. Large buffers travel beside a message, see
:mod:`handoff_mpi.comm`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

# Rank 0 to a worker
START = "start"  # (START, run, options): a run begins
DISPATCH = "dispatch"  # (DISPATCH, run, codes, groups): groups of (slot, claim or None, assignments)
CONSTANT = "constant"  # (CONSTANT, run, number, head) + buffers
FILES = "files"  # (FILES, run, [(task, key)]): under which keys an earlier launch wrote values
RETRACT = "retract"  # (RETRACT, run, [(task, attempt)])
FREE_VALUES = "free_values"  # (FREE_VALUES, run, [task])
LOST = "lost"  # (LOST, run, rank)
CHECK_PROCESS = "check_process"  # (CHECK_PROCESS, run, rank): check a silent rank's process on your host
# HEARTBEAT too, as (HEARTBEAT, run): rank 0 greets the ranks of other hosts
STOP = "stop"  # (STOP, run, results or None): the run is over
SETUP = "setup"  # (SETUP, 0, encoded function, paths): call dag.py's ``setup(rank)``
DECODE = "decode"  # (DECODE, 0, number, pieces, in a child, encoded setup, paths): try them before a run
SHUTDOWN = "shutdown"  # (SHUTDOWN, 0): the job is over, the rank may exit

# A worker to rank 0
FINISHED = "finished"  # (FINISHED, run, [entry])
RETRACTED = "retracted"  # (RETRACTED, run, [(task, attempt)])
INPUT_UNAVAILABLE = "input_unavailable"  # (INPUT_UNAVAILABLE, run, task, attempt, [(input, ranks asked)])
HEARTBEAT = "heartbeat"  # (HEARTBEAT, run, [(task, attempt, started)]): heartbeat, with the calls that run longest
TRANSFERRED = "transferred"  # (TRANSFERRED, run, [(task, source, nbytes, duration)]): inputs that were fetched
MEMORY = "memory"  # (MEMORY, run, is_short, words): the rank is too short of memory for new tasks, or no longer is
ENCODING = "encoding"  # (ENCODING, run, [(task, attempt, input, rank, since)]): that rank has long been encoding it
USAGE = "usage"  # (USAGE, run, sample): of the use of the rank's host, see :mod:`handoff_mpi.runtime.host_usage`
UPDATE = "update"  # (UPDATE, run, rank, resources)
PROCESS_STATUS = (
    "process_status"  # (PROCESS_STATUS, run, rank, is_gone, reason): asked to, or when it found a neighbour lost
)
DECODED = "decoded"  # (DECODED, 0, number, outcome): answers DECODE
BYE = "bye"  # (BYE, run): the rank has left the run
ENDS = "ends"  # (ENDS, 0, status): the script of the rank has ended; from rank 0: the job ends

# A rank to a rank
ASKED = "asked"  # (ASKED, 0, answer): what rank 0's host has answered, between two runs, to a rank of this one
FETCH = "fetch"  # (FETCH, run, request id, task, codec, encoded callables the codec needs, via, limit_s)
VALUE = "value"  # (VALUE, run, request id, head) + buffers; head is (PLAIN, value) or (PICKLED, bytes)
NOT_FOUND = (
    "not_found"  # (NOT_FOUND, run, request id, reason); None, or (status, error) of encoding it for the rank that asks
)
REDIRECT = (
    "redirect"  # (REDIRECT, run, request id, rank, nbytes or 0): ask that rank, which has the value or is getting it
)

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
    """

    kind: str
    message: str
    traceback: str = ""
    lineage: tuple[str, ...] = ()
    place: str = ""
    input: int = -1
    output: str = ""


#: One ended call: (task, attempt, status, value, nbytes, started, duration). ``value`` is a payload if it
#: is sent inline to rank 0, else None; for the other statuses it is an :class:`ErrorReport`. ``started`` is in seconds
#: since the epoch, ``duration`` in seconds. ``nbytes`` is negative if the value was persisted.
Entry: TypeAlias = "tuple[int, int, int, Any, int, float, float]"

#: (task, attempt, id, call template, sources, timeout_s, flags); a source is (task, codec, payload or None, holders).
#: Without payload and holders the value lies in a file.
Assignment: TypeAlias = "tuple[int, int, Any, Any, tuple[Any, ...], float | None, int]"

#: Flags of an assignment.
ISOLATE = 1  # run it in a child process
KEEP = 2  # its value must outlast the run
KEEP_REMOTE = 4  # its value stays on the rank at any size

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
RANK_LOSS = "rank-lost"
VALUE_LOSS = "value-lost"
