"""Rank 0's loop against ranks that answer by script: what it does that no machine decides."""

from __future__ import annotations

import time

import pytest

from handoff_mpi import DAG, Function, execute_local
from handoff_mpi.allocation import FirstAvailable, Ledger
from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.dag import Plan
from handoff_mpi.membership import Membership
from handoff_mpi.messages import (
    DEATH,
    DIED,
    DIRECT,
    DISPATCH,
    FETCH,
    FILES,
    FINISHED,
    INPUT_UNAVAILABLE,
    NOT_FOUND,
    OK,
    VALUE,
)
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.results.store import DirectoryStore, MemoryStore
from handoff_mpi.runtime import scheduler_loop
from handoff_mpi.runtime.backoff import Backoff
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.runtime.scheduler_loop import LoopSettings, SchedulerLoop
from handoff_mpi.scheduler import Closed, Scheduler, Submitted, ValueLocation
from handoff_mpi.serialization import PLAIN, decode

LARGE = 10**6


class Script:
    """A transport whose ranks say what ``answer(dest, message)`` returns, at the next poll."""

    rank, size, is_transferring, all_rings, doorbell = 0, 9, False, False, None

    def __init__(self, answer):
        self.answer = answer
        self.sent = []
        self._arriving = []

    def send(self, dest, message, buffers=()):
        self.sent.append((dest, message))
        self._arriving += [self.envelope(each) for each in self.answer(dest, message) or ()]

    @staticmethod
    def envelope(each):
        return each if isinstance(each, RankFailed) else Envelope(*each)

    def poll(self):
        arriving, self._arriving = self._arriving, []
        return arriving

    def drop(self, rank):
        pass


class Records(list):
    """A journal in memory."""

    def commit(self):
        pass


class Run:
    """One run of ``dag`` on ranks 1, 2 and 3 with a slot each."""

    def __init__(self, dag, tmp_path, answer, tracker=None, keep=()):
        self.plan = Plan()
        self.plan.add(dag.validate())
        for spec in [self.plan.specs[self.plan.number_of[id]] for id in keep]:
            spec.keep = True
        self.transport = Script(answer)
        self.kept = DirectoryStore(tmp_path / "values")
        capabilities = [Capability(rank, f"h{rank}", {"cpu": UNIT}) for rank in (1, 2, 3)]
        ledger = Ledger(capabilities, dict.fromkeys((1, 2, 3), 1))
        recorder = Recorder(self.plan, dag.id, {})
        recorder.grow()
        self.records = Records()
        settings = LoopSettings("now", 1, (1, 2, 3), 1.0, tracker)
        journal_writer = JournalWriter(
            self.records, self.plan, lambda task: self.loop.coordinator.dispatcher.file_key(task)
        )
        self.loop = SchedulerLoop(
            self.transport,
            Scheduler(ledger, FirstAvailable()),
            self.plan,
            recorder,
            MemoryStore(),
            self.kept,
            journal_writer,
            settings,
            None,
            Membership(),
        )

    def run(self, **restored):
        self.loop.run([Submitted(self.plan.specs, **restored), Closed()])
        return self.loop.scheduler.status

    def sent(self, kind):
        return [(dest, message) for dest, message in self.transport.sent if message[0] == kind]


def assigned(message):
    """Return (task, attempt) of what a dispatch brings."""
    return [(each[0], each[1]) for _, _, assignments in message[3] for each in assignments]


def finished(rank, task, attempt, nbytes=8, is_persisted=False):
    value = (PLAIN, task) if nbytes < LARGE else None
    return rank, (FINISHED, 1, [(task, attempt, OK, value, nbytes, 0.0, 0.1, is_persisted)])


def dag_of(*functions):
    dag = DAG("script")
    for id, inputs, node in functions:
        dag.add_function(Function(id, inputs, print, node=node))
    return dag


@pytest.mark.parametrize("what_happens", ["its rank dies", "its rank has lost it"])
def test_a_kept_value_that_cannot_be_brought_from_its_rank_is_brought_from_a_copy(tmp_path, what_happens):
    """Rank 1 made it and does not see the run-dir; rank 2 has fetched it."""

    asked = []

    def answer(dest, message):
        if message[0] == FETCH and dest == 1:
            asked.append(message[2])
        elif message[0] == FETCH:
            return [(2, (VALUE, 1, message[2], (PLAIN, "the value")))]
        elif message[0] == DISPATCH and dest == 1:
            return [finished(1, 0, 1, LARGE)]
        elif message[0] == DISPATCH:
            fails = RankFailed(1, "it died") if what_happens == "its rank dies" else (1, (NOT_FOUND, 1, asked[0], None))
            return [finished(2, 1, 1), fails]
        return None

    run = Run(dag_of(("make", (), 1), ("use", ("make",), 2)), tmp_path, answer, keep=["make"])
    assert run.run() == "done"
    assert [dest for dest, _ in run.sent(FETCH)] == [1, 2]
    assert decode(run.kept.get(("now", 0))) == "the value"


def made_into_a_file_that_cannot_be_read(dest, message):
    """Task 0 writes its value to a file; the first attempt of task 1 does not find it there."""
    ((task, attempt),) = assigned(message)
    if (task, attempt) == (1, 1):
        return [(dest, (INPUT_UNAVAILABLE, 1, 1, 1, [(0, [])]))]
    return [finished(dest, task, attempt, *((LARGE, True) if task == 0 else ()))]


def test_a_kept_value_whose_file_is_damaged_is_brought_from_a_rank_that_holds_it_still(tmp_path):
    def answer(dest, message):
        if message[0] == FETCH:
            return [(dest, (VALUE, 1, message[2], (PLAIN, "the value")))]
        if message[0] == DISPATCH:
            return made_into_a_file_that_cannot_be_read(dest, message)
        return None

    run = Run(dag_of(("make", (), 1), ("use", ("make",), 2)), tmp_path, answer, keep=["make"])
    assert run.run() == "done"
    assert [dest for dest, _ in run.sent(FETCH)] == [1]
    assert decode(run.kept.get(("now", 0))) == "the value"


def test_what_a_tracker_grants_of_a_batch_is_sent(tmp_path):
    """Several short functions go to a slot at once; one of them is refused."""

    class Tracker:
        requests = 0

        def request(self, rank, cost):
            self.requests += 1
            return self.requests % 3 != 0

        def release(self, rank, cost):
            pass

    def answer(dest, message):
        if message[0] == DISPATCH:
            return [(dest, (FINISHED, 1, [(*each, OK, (PLAIN, 0), 8, 0.0, 1e-5, False) for each in assigned(message)]))]
        return None

    run = Run(dag_of(*[(f"f{number}", (), None) for number in range(30)]), tmp_path, answer, Tracker())
    assert run.run() == "done"
    refused = [task for record in run.records if record[0] == "returned" for task in record[1]]
    assert len(refused) >= 10, "the journal tells which tasks came back"


def test_a_rank_that_asks_for_a_missing_file_learns_that(tmp_path):
    """Rank 0 takes no part in this run, so that nobody else would answer."""

    def answer(dest, message):
        if message[0] == DISPATCH:
            ((task, attempt),) = assigned(message)
            if (task, attempt) == (1, 1):
                return [(3, (INPUT_UNAVAILABLE, 1, 1, 0, [(0, [])]))]  # another has found that the file is damaged
            late = (
                [(2, (FETCH, 1, 7, 0, None, (), DIRECT, None))] if task == 0 else []
            )  # rank 2 does not see it, and asks
            return [*late, finished(dest, task, attempt)]
        if message[0] == NOT_FOUND:
            return [(dest, (INPUT_UNAVAILABLE, 1, 1, 1, [(0, [0])]))]
        return None

    run = Run(dag_of(("make", (), 1), ("use", ("make",), 2)), tmp_path, answer, keep=["use"])
    assert run.run(restored={0: ValueLocation.FILE}) == "done"
    assert run.sent(NOT_FOUND) == [(2, (NOT_FOUND, 1, 7, None))]


def test_a_value_that_was_made_again_is_not_looked_for_in_the_file_of_an_earlier_launch(tmp_path):
    def answer(dest, message):
        if message[0] == DISPATCH:
            return made_into_a_file_that_cannot_be_read(dest, message)
        return None

    run = Run(dag_of(("make", (), 1), ("use", ("make",), 2)), tmp_path, answer, keep=["use"])
    run.loop.coordinator.dispatcher.file_keys = {0: ("before", 0)}
    assert run.run(restored={0: ValueLocation.FILE}) == "done"
    assert [message[2] for _, message in run.sent(FILES)] == [[(0, ("before", 0))], [(0, ("now", 0))]]
    turns = [record for record in run.records if record[0] == "turn"]
    assert [entry[-1] for turn in turns for entry in turn[2] if entry[0] == 0] == [("now", 0)]


def test_what_a_rank_said_before_it_died_counts(tmp_path):
    """Its death and its last words are found by the same look."""

    def answer(dest, message):
        if message[0] == DISPATCH:
            ((task, attempt),) = assigned(message)
            return [RankFailed(dest, "it died"), finished(dest, task, attempt)]
        return None

    run = Run(dag_of(("only", (), None)), tmp_path, answer)
    assert run.run() == "done"
    assert run.loop.scheduler.tasks.attempts == [1]


def test_the_death_of_a_rank_that_ran_one_function_alone_is_journalled_as_its_death(tmp_path):
    def answer(dest, message):
        if message[0] == DISPATCH:
            ((task, attempt),) = assigned(message)
            return [RankFailed(1, "it died")] if attempt == 1 else [finished(dest, task, attempt)]
        return None

    run = Run(dag_of(("only", (), None)), tmp_path, answer)
    assert run.run() == "done"
    failed = [entry for record in run.records if record[0] == "turn" for entry in record[3]]
    assert failed == [(0, 1, 1, DIED, DEATH, "it died")]


def test_updates_without_end_do_not_keep_rank_0_from_its_work(tmp_path, monkeypatch):
    """A thread of the user's may bring the next while one is taken in."""

    def answer(dest, message):
        return [finished(dest, *each) for each in assigned(message)] if message[0] == DISPATCH else None

    run = Run(dag_of(("only", (), None)), tmp_path, answer)
    coordinator, update = run.loop.coordinator, run.loop.update_resources
    reports = coordinator._reports
    absorb = reports.on_update
    monkeypatch.setattr(reports, "on_update", lambda *about: (update(1, {"license": 1}), absorb(*about)))
    update(1, {"license": 1})
    assert run.run() == "done"


@pytest.mark.long
def test_rank_0_rests_while_a_child_of_its_own_works(tmp_path, monkeypatch):
    waits = []

    class Counted(Backoff):
        def spin(self, was_busy, *rest):
            waits.append(was_busy)
            return super().spin(was_busy, *rest)

    monkeypatch.setattr(scheduler_loop, "Backoff", Counted)
    dag = DAG("nap")
    dag.add_function(Function("nap", (), lambda: time.sleep(0.5)))
    execute_local(dag, run_dir=tmp_path / "run", isolation="process")
    assert waits.count(True) < 20 < len(waits)
