"""A dialogue with a scheduler: its events, its commands, and the log it keeps, in lines one can read.

After every turn the books are derived from scratch, and the log is replayed by the table of transitions: it must
lead from the states of the last turn to those of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from handoff_mpi.allocation import FirstAvailable, Ledger
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.membership import Membership
from handoff_mpi.messages import DEATH, DIED, OK, RAISED, TIMED_OUT, TIMEOUT, LeaseReport
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import (
    TRANSITIONS,
    BroadcastLoss,
    Cause,
    Closed,
    Dispatch,
    Finished,
    Forget,
    Policy,
    RankLost,
    Retract,
    Scheduler,
    State,
    Submitted,
)
from handoff_mpi.scheduler import transitions as log
from handoff_mpi.serialization import PLAIN
from handoff_mpi.simulation import check

CPU = {"cpu": UNIT}
GPU = {"gpu": UNIT}
#: Long enough that functions are sent one at a time; short enough that four are in flight at a slot.
LONG, SHORT = 3.0, 0.002


def cpus(count):
    return {"cpu": count * UNIT}


def task(*inputs, cost=CPU, **options):
    """A task that takes the values of ``inputs``."""
    return TaskSpec(inputs, cost, **options)


def selecting(inputs, *takes, **options):
    """A task that takes the values of ``takes``, tasks and selections of arrays; it goes before those."""
    return task(*inputs, takes=takes, **{"priority": 1, **options})


def array(count, *inputs, chunk=None, max_failures=None, **options):
    """An array of so many elements, each of which takes the values of ``inputs``."""
    return task(*inputs, array=ArraySpec(count, chunk, max_failures), **options)


def ranks(*slots, gpus=()):
    """The ledger of ranks 1, 2, ... with so many slots each, on hosts h1, h2, ... with as many cores."""
    return Ledger(
        [
            Capability(rank, f"h{rank}", cpus(count), (Device(0, f"gpu-of-{rank}"),) if rank in gpus else ())
            for rank, count in enumerate(slots, 1)
        ],
        dict(enumerate(slots, 1)),
    )


# -- what a rank reports: numbers of tasks stand for their first attempts -------------------------------


def _named(tasks):
    return [each if isinstance(each, tuple) else (each, 1) for each in tasks]


def done(rank, *tasks, lasted=LONG):
    """Calls ended well, and their small values came home."""
    return Finished(rank, [(*each, OK, (PLAIN, None), 8, 0.0, lasted, False) for each in _named(tasks)])


def elements(rank, lease, attempt=1, error=None):
    """A lease of the first element ended well, or failed."""
    ended, failures = (((0, 1),), ()) if error is None else ((), ((((0, 1),), error),))
    report = LeaseReport(ended, None, failures)
    return Finished(rank, [(lease, attempt, OK, report, 8, 0.0, SHORT, False)])


def made(rank, *tasks, nbytes=10**6, is_persisted=False):
    """Calls ended well, and their large values stay at the rank, or lie in a file as well."""
    return Finished(rank, [(*each, OK, None, nbytes, 0.0, LONG, is_persisted) for each in _named(tasks)])


def raised(rank, *tasks):
    return _ended_badly(rank, tasks, RAISED, ("ValueError", "oops", "Traceback: oops"))


def timed_out(rank, *tasks):
    return _ended_badly(rank, tasks, TIMED_OUT, (TIMEOUT, "too long", ""))


def died(rank, *tasks):
    return _ended_badly(rank, tasks, DIED, (DEATH, "killed by signal 11", ""))


def _ended_badly(rank, tasks, status, error):
    return Finished(rank, [(*each, status, error, 0, 0.0, LONG, False) for each in _named(tasks)])


#: What the log says of a rank or a claim, in words.
WORDS = {
    log.Suspected: "suspect",
    log.Returned: "returned",
    log.Lost: "lost",
    log.Blamed: "blamed on",
    log.Forgiven: "forgiven",
    log.ProbationBegun: "probation",
    log.ProbationEnded: "trusted",
    log.DeviceWithdrawn: "device withdrawn",
    log.MemoryHigh: "memory high",
    log.MemoryNormal: "memory normal",
    log.LetGo: "let go",
    log.Updated: "updated",
    log.NotUpdated: "not updated",
    log.RefusedForLong: "refused for long",
    log.Claimed: "claimed",
    log.Released: "released",
}


@dataclass
class HeartbeatReceived:
    """Messages came from these ranks."""

    ranks: Sequence[int]


@dataclass
class ProcessFoundAlive:
    """The process of a silent rank was checked, and lives."""

    rank: int


# -- the dialogue ---------------------------------------------------------------------------------------


class Dialogue:
    """One scheduler with the table of its ranks, and what was said.

    Attributes:
        membership: stands before the scheduler as in the coordinator.
        log: the lines of the last turn's log.
        moves: every transition so far, as (state before, cause, state after).
    """

    def __init__(self, ledger, strategy=None, **policy):
        self.scheduler = Scheduler(ledger, strategy or FirstAvailable(), Policy(**policy))
        self.membership = Membership()
        self.membership.begin_run(ledger.rank_states, self.scheduler.policy.heartbeat_timeout_s)
        self.log = []
        self.moves = []
        self._states = []

    def submit(self, *specs, now=0.0, closed=True, **also):
        """Submit ``specs``; no more will follow if ``closed``."""
        return self.tell(now, Submitted(specs, **also), *([Closed()] if closed else []))

    def tell(self, now, *events):
        """Let table and scheduler handle ``events`` at time ``now``; return what is to be done, a line each."""
        for_scheduler = [each for event in events for each in self._note(event, now)]
        unclear = []
        if now >= self.membership.next_check:
            silent, unclear = self.membership.look(now)
            for_scheduler += silent
        commands = self.scheduler.handle(for_scheduler, now)
        check(self.scheduler)
        rows = [*self.scheduler.tasks.log]
        self.scheduler.tasks.log.clear()
        self._replay(rows)
        self.log = [_row(row) for row in rows]
        return [*(_command(command) for command in commands), *(f"check the process of {rank}" for rank in unclear)]

    def _note(self, event, now):
        """Take in what is known of a rank; return the scheduler's events."""
        if isinstance(event, HeartbeatReceived):
            return self.membership.hear([rank for rank in event.ranks if rank not in self.membership.lost], now)
        if isinstance(event, ProcessFoundAlive):
            self.membership.find_alive(event.rank, now)
            return []
        if isinstance(event, RankLost):
            return self.membership.lose(event.rank, event.reason, event.with_its_host)
        return [event]

    def _replay(self, rows):
        first = len(self._states)
        restored = {number for number, _, cause, _, _, _ in rows if cause == Cause.RESTORED}
        for number, spec in enumerate(self.scheduler.specs[first:], first):
            self._states.append(State.WAITING if spec.inputs or number in restored else State.READY)
        leases, selections = self.scheduler.tasks.leases, self.scheduler.tasks.selections
        for number, then, cause, _, _, _ in rows:
            if number < 0:
                continue
            before = self._states[number]
            if number in leases and TRANSITIONS.get((before, Cause(cause))) == then:  # else it began in this turn
                self.moves.append((before, Cause(cause), State(then)))
            elif number not in leases:
                assert TRANSITIONS[before, Cause(cause)] == then, f"{before!r} by {Cause(cause)!r} gave {State(then)!r}"
                self._states[number] = State(then)
                self.moves.append((before, Cause(cause), State(then)))
        for number in (*leases, *selections):  # numbers of leases are used again, selections are not logged
            self._states[number] = State(self.scheduler.tasks.state[number])
        assert self._states == list(self.scheduler.tasks.state), "the log does not tell how the states came to be"

    @property
    def states(self):
        return " ".join(State(state).name for state in self.scheduler.tasks.state)

    @property
    def status(self):
        return self.scheduler.status

    def why(self, number):
        """Kind and message of a failure."""
        failure = self.scheduler.tasks.failures[number]
        return failure.kind, failure.message


def _pairs(tasks):
    return " ".join(f"{number}#{attempt}" for number, attempt in tasks)


def _command(command):
    if isinstance(command, Dispatch):
        what = "continues with" if command.claim is None else "claims for"
        return f"{command.rank}.{command.slot} {what} {_pairs(command.tasks)}"
    if isinstance(command, Retract):
        return f"recall from {command.rank}: {_pairs(command.tasks)}"
    if isinstance(command, Forget):
        return f"forget at {command.rank}: {' '.join(map(str, command.tasks))}"
    assert isinstance(command, BroadcastLoss)
    return f"announce the loss of {command.rank}"


def _row(row):
    number, then, cause, attempt, rank, detail = row
    why = ""
    if isinstance(detail, tuple) and detail:
        why = f": {detail[0] if len(detail) == 1 else tuple(detail)}"
    elif isinstance(detail, str):
        why = f": {detail}"
    if number < 0:
        return f"rank {rank} {WORDS[type(detail)]}{why}"
    where = f" on {rank}" if rank >= 0 else ""
    return f"{number}#{attempt} {State(then).name} by {Cause(cause).name}{where}{why}"
