"""The order in which rank 0 stores values, writes its journal, and acts: a death between two effects loses nothing.

Every port that rank 0 acts through is a fake that notes what it is asked to do, in one list.
"""

from __future__ import annotations

import numpy
import pytest

from handoff_mpi import DAG, Function
from handoff_mpi.allocation import FirstAvailable, Ledger
from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.dag import Plan
from handoff_mpi.errors import JournalError
from handoff_mpi.membership import Membership
from handoff_mpi.messages import (
    CONSTANT,
    DISPATCH,
    FETCH,
    FILES,
    FINISHED,
    INPUT_UNAVAILABLE,
    LOST,
    OK,
    RETRACT,
    RETRACTED,
    VALUE,
)
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.results.store import MemoryStore
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.runtime.scheduler_loop import LoopSettings, SchedulerLoop
from handoff_mpi.scheduler import (
    Closed,
    Finished,
    RankLost,
    Retract,
    Scheduler,
    StopRequested,
    Submitted,
    ValueLocation,
)
from handoff_mpi.serialization import PLAIN

LARGE = 10**6
RANKS = (1, 2, 3)


class Transport:
    """Its ranks say what ``answer(dest, message)`` returns, at the next poll."""

    rank, size, is_transferring, all_rings, doorbell = 0, 4, False, False, None

    def __init__(self, effects, answer):
        self._effects, self._answer, self._arriving = effects, answer, []

    def send(self, dest, message, buffers=()):
        self._effects.append(("send", dest, message))
        answers = self._answer(dest, message) or ()
        self._arriving += [each if isinstance(each, RankFailed) else Envelope(*each) for each in answers]

    def poll(self):
        arriving, self._arriving = self._arriving, []
        return arriving

    def drop(self, rank):
        self._effects.append(("drop", rank))


class Store(MemoryStore):
    """Notes what is put into it."""

    def __init__(self, effects, name):
        super().__init__()
        self._effects, self._name = effects, name

    def put(self, key, payload):
        self._effects.append((f"put {self._name}", key))
        super().put(key, payload)


class Journal:
    """Notes each record, and each commit; commit number ``fails_at`` fails."""

    epoch, fails_at = 1, 0

    def __init__(self, effects):
        self._effects, self._commits = effects, 0

    def append(self, record):
        self._effects.append(("append", record))

    def commit(self):
        self._commits += 1
        if self._commits == self.fails_at:
            raise JournalError("the journal cannot be written: no space is left")
        self._effects.append(("commit",))


class Tracker:
    """Notes what it is asked for, and what is released; it refuses the requests whose number is in ``refuses``."""

    def __init__(self, refuses=()):
        self.effects, self._refuses, self._requests = [], refuses, 0

    def request(self, rank, cost):
        self._requests += 1
        is_granted = self._requests not in self._refuses
        self.effects.append(("request", rank, is_granted))
        return is_granted

    def release(self, rank, cost):
        self.effects.append(("release", rank))


class Run:
    """A run of ``dag`` on three ranks, whose effects are in :attr:`effects`."""

    def __init__(self, dag, answer, tracker=None, keep=(), slots=1):
        self.effects = [] if tracker is None else tracker.effects
        self.plan = Plan()
        self.plan.add(dag.validate())
        for id in keep:
            self.plan.specs[self.plan.number_of[id]].keep = True
        capabilities = [Capability(rank, f"h{rank}", {"cpu": slots * UNIT}) for rank in RANKS]
        self.scheduler = Scheduler(Ledger(capabilities, dict.fromkeys(RANKS, slots)), FirstAvailable())
        self._handle, self.scheduler.handle = self.scheduler.handle, self._note_turn
        self.more_commands = []
        recorder = Recorder(self.plan, dag.id, {})
        recorder.grow()
        self.journal = Journal(self.effects)
        self.loop = SchedulerLoop(
            Transport(self.effects, answer),
            self.scheduler,
            self.plan,
            recorder,
            Store(self.effects, "home"),
            Store(self.effects, "kept"),
            JournalWriter(self.journal, self.plan, lambda task: self.loop.coordinator.dispatcher.file_key(task)),
            LoopSettings("now", 1, RANKS, 1.0, tracker),
            None,
            Membership(),
        )

    def _note_turn(self, events, now):
        self.effects.append(("handle", list(events)))
        commands, self.more_commands = [*self._handle(events, now), *self.more_commands], []
        return commands

    def run(self, **restored):
        self.loop.run([Submitted(self.plan.specs, **restored), Closed()])
        return self.scheduler.status

    def where(self, kind, is_it=lambda *about: True, since=0):
        """Return the position of the first effect of ``kind`` for which ``is_it`` holds."""
        for position, (name, *about) in enumerate(self.effects):
            if position >= since and name == kind and is_it(*about):
                return position
        raise AssertionError(f"no such {kind} among {self.effects[since:]}")

    def sends(self, kind, is_it=lambda dest, message: True):
        """Return the position of the first message of ``kind`` for which ``is_it`` holds."""
        return self.where("send", lambda dest, message: message[0] == kind and is_it(dest, message))

    def handles(self, kind):
        """Return the position of the first turn of the machine with an event of ``kind``."""
        return self.where("handle", lambda events: any(isinstance(event, kind) for event in events))

    def check(self):
        """A message follows the committed record of its content; a value is stored before a record says so."""
        stored, appended, committed = set(), set(), set()
        for name, *about in self.effects:
            if name.startswith("put"):
                stored.add(about[0][1])
            elif name == "append" and about[0][0] == "turn":
                _, sent, done, *_ = about[0]
                assert stored.issuperset(task for task, *_, payload, key in done if payload is not None)
                appended.update(sent)
            elif name == "append" and about[0][0] == "persisted":
                assert about[0][1] in stored
            elif name == "commit":
                committed |= appended
            elif name == "send" and about[1][0] == DISPATCH:
                assert committed.issuperset((*each, about[0]) for each in assigned(about[1]))


def assigned(message):
    """Return (task, attempt) of the calls that a dispatch brings."""
    return [(each[0], each[1]) for _, _, assignments in message[3] for each in assignments]


def brings(task, attempt=1):
    """Return what tells whether a dispatch brings an attempt of ``task``."""
    return lambda dest, message: (task, attempt) in assigned(message)


def finished(rank, task, attempt, nbytes=8):
    value = (PLAIN, task) if nbytes < LARGE else None
    return rank, (FINISHED, 1, [(task, attempt, OK, value, nbytes, 0.0, 0.1, False)])


def finish_all(dest, message):
    return [finished(dest, *each) for each in assigned(message)] if message[0] == DISPATCH else None


def dag_of(*functions):
    dag = DAG("order")
    for id, inputs, node, *constants in functions:
        dag.add_function(Function(id, inputs, print, node=node, extra_args=tuple(constants)))
    return dag


CHAIN = ("make", (), 1), ("use", ("make",), 2)


def is_turn(record, number, task):
    """Whether ``record`` is a turn whose field ``number`` has an entry of ``task``."""
    return record[0] == "turn" and any(entry[0] == task for entry in record[number])


def test_a_value_is_stored_and_its_record_is_committed_before_anything_acts_on_it():
    run = Run(dag_of(*CHAIN), finish_all)
    assert run.run() == "done"
    stored = run.where("put home", lambda key: key == ("now", 0))
    handled = run.handles(Finished)
    appended = run.where("append", lambda record: is_turn(record, 2, 0))
    committed = run.where("commit", since=appended)
    assert stored < handled < appended < committed < run.sends(DISPATCH, brings(1))
    run.check()


def test_a_dispatch_is_in_the_journal_before_it_is_sent():
    run = Run(dag_of(*[(f"f{number}", (), None) for number in range(20)]), finish_all)
    assert run.run() == "done"
    appended = run.where("append", lambda record: is_turn(record, 1, 0))
    assert appended < run.where("commit", since=appended) < run.sends(DISPATCH, brings(0))
    run.check()


def test_the_last_words_of_a_rank_are_handled_before_its_loss():
    def answer(dest, message):
        if message[0] == DISPATCH:
            return [RankFailed(dest, "it died"), *finish_all(dest, message)]
        return None

    run = Run(dag_of(("only", (), 1)), answer)
    assert run.run() == "done"
    (events,) = run.effects[run.handles(RankLost)][1:]
    kinds = [type(event) for event in events]
    assert kinds.index(Finished) < kinds.index(RankLost)
    assert run.where("put home") < run.handles(RankLost)
    assert run.where("drop") < run.handles(RankLost), "nothing is sent to a rank once the machine knows of its loss"


def test_the_loss_of_a_rank_is_in_the_journal_before_others_hear_of_it():
    def answer(dest, message):
        if message[0] == DISPATCH:
            return [RankFailed(1, "it died")] if dest == 1 else finish_all(dest, message)
        return None

    run = Run(dag_of(("first", (), None), ("second", (), None)), answer)
    assert run.run() == "done"
    noted = run.where("append", lambda record: record[:3] == ("rank", 1, "lost"))
    committed = run.where("commit", since=noted)
    assert noted < committed < run.sends(LOST)
    repeated = run.sends(DISPATCH, lambda dest, message: any(attempt == 2 for _, attempt in assigned(message)))
    assert committed < repeated
    assert not [effect for effect in run.effects[run.where("drop") :] if effect[:2] == ("send", 1)]
    run.check()


def test_nothing_is_sent_to_a_rank_that_is_lost():
    """Its last words are that it has made a value, which rank 0 would ask it for."""

    def answer(dest, message):
        if message[0] == DISPATCH and dest == 1:
            return [RankFailed(1, "it died"), finished(1, 0, 1, LARGE)]
        return finish_all(dest, message) if message[0] == DISPATCH else None

    run = Run(dag_of(("only", (), None)), answer, keep=["only"])
    assert run.run() == "done"
    assert not [effect for effect in run.effects[run.where("drop") :] if effect[:2] == ("send", 1)]
    run.check()


def test_what_was_packed_for_a_rank_is_sent_before_it_is_asked_for_it_again():
    """A rank that hears of the recall first would have nothing to give back, and would run the call all the same."""

    def answer(dest, message):
        if message[0] == RETRACT:
            return [(dest, (RETRACTED, 1, message[2]))]
        return finish_all(dest, message) if message[0] == DISPATCH and (0, 1) not in assigned(message) else None

    run = Run(dag_of(("only", (), 1)), answer)
    run.more_commands = [Retract(1, [(0, 1)])]
    assert run.run() == "done"
    assert run.sends(DISPATCH, brings(0, 1)) < run.sends(RETRACT)


def test_a_rank_gets_one_message_a_turn_with_each_code_once():
    run = Run(dag_of(*[(f"f{number}", (), 1) for number in range(6)]), finish_all, slots=2)
    assert run.run() == "done"
    since, sent = 0, []
    for position, effect in enumerate(run.effects):
        if effect[0] == "handle":
            since = position
        elif effect[0] == "send" and effect[2][0] == DISPATCH:
            sent.append((since, effect[2][2]))
    assert len({turn for turn, _ in sent}) == len(sent)
    assert [number for _, codes in sent for number, _ in codes] == [0]


def test_a_large_constant_is_sent_once_and_before_the_first_call_that_takes_it():
    large = numpy.zeros(10**5)
    run = Run(dag_of(*[(f"f{number}", (), 1, large) for number in range(3)]), finish_all)
    assert run.run() == "done"
    assert run.sends(CONSTANT) < run.sends(DISPATCH)
    constants = [effect for effect in run.effects if effect[0] == "send" and effect[2][0] == CONSTANT]
    assert len(constants) == 1


def test_ranks_hear_that_an_old_file_counts_no_more_before_the_new_value_is_stored():
    """They would read what an earlier launch wrote, and somebody may have found that damaged."""

    def answer(dest, message):
        if message[0] == DISPATCH and (1, 1) in assigned(message):
            return [(dest, (INPUT_UNAVAILABLE, 1, 1, 1, [(0, [])]))]
        return finish_all(dest, message) if message[0] == DISPATCH else None

    run = Run(dag_of(*CHAIN), answer, keep=["use"])
    run.loop.coordinator.dispatcher.file_keys = {0: ("before", 0)}
    assert run.run(restored={0: ValueLocation.FILE}) == "done"
    renamed = run.sends(FILES, lambda dest, message: message[2] == [(0, ("now", 0))])
    assert renamed < run.where("put home", lambda key: key == ("now", 0))


@pytest.mark.parametrize("is_written", [True, False])
def test_a_kept_value_is_in_its_file_before_the_journal_says_so(is_written):
    def answer(dest, message):
        if message[0] == FETCH:
            return [(dest, (VALUE, 1, message[2], (PLAIN, "the value")))]
        if message[0] == DISPATCH:
            return [finished(dest, *each, LARGE if each[0] == 0 else 8) for each in assigned(message)]
        return None

    run = Run(dag_of(*CHAIN), answer, keep=["make"])
    if not is_written:
        run.loop.coordinator._kept_values._kept.put = _fail
    assert run.run() == "done"
    said = [position for position, effect in enumerate(run.effects) if effect[0] == "append" and _is_persisted(effect)]
    if not is_written:
        assert not said
        return
    assert run.sends(FETCH) < run.where("put kept") < said[0] < run.where("commit", since=said[0])
    run.check()


def _fail(key, payload):
    raise OSError("no space is left")


def _is_persisted(effect):
    return effect[1][:2] == ("persisted", 0)


def test_a_tracker_is_asked_before_a_call_is_sent_and_hears_of_its_end_once_that_is_written():
    tracker = Tracker(refuses=(2,))
    run = Run(dag_of(*CHAIN), finish_all, tracker)
    assert run.run() == "done"
    written = run.where("append", lambda record: is_turn(record, 2, 0))
    assert run.where("request") < run.sends(DISPATCH, brings(0))
    assert written < run.where("commit", since=written) < run.where("release")
    granted = run.where("request", lambda rank, is_granted: is_granted, since=run.where("release"))
    refused = run.where("request", lambda rank, is_granted: not is_granted)
    sent = run.sends(DISPATCH, lambda dest, message: any(task == 1 for task, _ in assigned(message)))
    assert run.where("release") < refused < granted < sent
    run.check()


def test_a_journal_that_fails_stops_the_run_but_not_the_turn():
    """The decision is carried out: it is not lost, only not recorded."""
    run = Run(dag_of(*CHAIN), finish_all)
    run.journal.fails_at = 1
    assert run.run() == "stopped"
    assert run.sends(DISPATCH, brings(0)) < run.handles(StopRequested)
    assert run.loop.coordinator.trouble.startswith("the journal cannot be written")
    assert run.loop.coordinator.running_at_stop == []
