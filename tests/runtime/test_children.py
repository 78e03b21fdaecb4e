"""Calls that a child was sent ahead of their turn: what it does without its rank, and what is certain of each."""

from __future__ import annotations

import itertools
import os
import random
import select
import time
from pathlib import Path

import pytest

from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.messages import (
    DIED,
    DISPATCH,
    FINISHED,
    INLINE_RESULT_NBYTES,
    OK,
    RAISED,
    RETRACT,
    RETRACTED,
    STOP,
    TIMED_OUT,
)
from handoff_mpi.runtime import children, worker_driver
from handoff_mpi.runtime.worker_driver import RunSetup, WorkerDriver
from handoff_mpi.serialization import PLAIN, decode, encode_code
from handoff_mpi.worker.call_pipeline import MAX_SENT
from handoff_mpi.worker.child_process import ChildProcess
from tests.worker.transcript import sent, value

SOURCE = """
import os, time
def note(place, name): os.close(os.open(os.path.join(place, name), os.O_CREAT | os.O_EXCL))
def wait(place, name):
    end = time.monotonic() + 30
    while not os.path.exists(os.path.join(place, name)):
        assert time.monotonic() < end
        time.sleep(0.001)
def nothing(*values): return None
def after(value): return value + 1
def begin(place, task): note(place, f"begun {task}")
def hold(place, task):
    note(place, f"begun {task}")
    wait(place, f"end {task}")
def crash(place, task):
    note(place, f"begun {task}")
    os._exit(3)
def fail(place, task): raise ValueError(task)
def break_context(place, task):
    class CUDARuntimeError(RuntimeError): pass
    note(place, f"begun {task}")
    raise CUDARuntimeError("cudaErrorIllegalAddress")
def text(nbytes): return "x" * nbytes
def take_slowly(rank):
    from handoff_mpi.worker.shared_semaphore import SharedSemaphore
    take = SharedSemaphore.take
    SharedSemaphore.take = lambda tokens: time.sleep(0.05) or take(tokens)
def linger(place, task, seconds):
    note(place, f"begun {task}")
    time.sleep(seconds)
"""
FUNCTIONS: dict = {"__name__": "__main__"}
exec(SOURCE, FUNCTIONS)
NAMES = [name for name, each in FUNCTIONS.items() if type(each) is type(lambda: 0)]


class Rank:
    """Rank 1, whose calls run in one child, and the messages to rank 0."""

    def __init__(self, place, setup=None):
        self.place = str(place)
        self.network = MemoryNetwork(2)
        self.driver = WorkerDriver(
            self.network.transport(1), RunSetup("now", 1, 1, "process", 60.0, 1 << 40, None, None, [], setup)
        )
        self.finished = {}
        self.returned = []
        self.claim = (1.0, ())
        self._codes = [(number, encode_code(FUNCTIONS[name])) for number, name in enumerate(NAMES)]

    def task(self, number, name, *sources, timeout_s=None):
        """An assignment; without sources the function gets the place and the task's number."""
        sources = sources or (sent_text(self.place), sent(number))
        codes = (NAMES.index(name), *range(len(NAMES)))  # so that a child knows all from its first call on
        return (number, 1, f"id-{number}", (codes, 0, None, ()), sources, timeout_s, 0, None)

    def receive(self, kind, *rest):
        self.network.transport(0).send(1, (kind, 1, *rest))
        self.driver.turn(self.driver.transport.poll())

    def dispatch(self, *tasks):
        codes, self._codes = self._codes, []
        self.receive(DISPATCH, codes, [(0, self.claim, list(tasks))])

    def recall(self, *tasks):
        self.receive(RETRACT, [(task, 1) for task in tasks])
        self.hear()

    def hear(self):
        """Take in the messages to rank 0."""
        for each in self.network.transport(0).poll():
            if each.message[0] == FINISHED:
                for task, _, status, payload, *_ in each.message[2]:
                    assert task not in self.finished, "each call ends once"
                    self.finished[task] = (status, payload)
            elif each.message[0] == RETRACTED:
                self.returned += [task for task, _ in each.message[2]]

    def run_until(self, is_enough):
        end = time.monotonic() + 30
        while not is_enough():
            assert time.monotonic() < end, (self.finished, self.returned)
            select.select(self.driver.sockets(), (), (), 0.002)
            self.driver.turn()
            self.hear()

    def run(self, *tasks):
        self.run_until(lambda: self.finished.keys() >= set(tasks))

    def is_begun(self, task):
        return Path(self.place, f"begun {task}").exists()

    def end(self, task):
        Path(self.place, f"end {task}").touch()

    def statuses(self):
        return {task: status for task, (status, _) in self.finished.items()}


def sent_text(text):
    return (None, None, (PLAIN, text), ())


@pytest.fixture
def rank(tmp_path):
    rank = Rank(tmp_path)
    yield rank
    rank.driver.close()


@pytest.fixture
def messages(monkeypatch):
    """How many calls each message to a child held: [1] for one in its turn."""
    sizes = []
    call, call_ahead = ChildProcess.call, ChildProcess.call_ahead

    def counted(self, spec):
        sizes.append(1)
        call(self, spec)

    def counted_ahead(self, frames):
        sizes.append(len(frames))
        call_ahead(self, frames)

    monkeypatch.setattr(ChildProcess, "call", counted)
    monkeypatch.setattr(ChildProcess, "call_ahead", counted_ahead)
    return sizes


# -- few messages ---------------------------------------------------------------------------------------


def test_short_calls_go_to_a_child_in_few_messages(rank, messages):
    rank.dispatch(*[rank.task(k, "nothing") for k in range(MAX_SENT)])
    assert messages == [1, MAX_SENT - 1]
    rank.run(*range(MAX_SENT))
    assert messages == [1, MAX_SENT - 1]
    assert set(rank.statuses().values()) == {OK}


def test_a_child_is_sent_a_bounded_number_of_calls(rank, messages):
    rank.dispatch(rank.task(0, "hold"), *[rank.task(k, "nothing") for k in range(1, 10 * MAX_SENT)])
    rank.run_until(lambda: rank.is_begun(0))
    assert sum(messages) == MAX_SENT
    rank.end(0)
    rank.run(*range(10 * MAX_SENT))
    assert sum(messages) == 10 * MAX_SENT


def test_the_values_of_a_chain_stay_in_the_child(rank, messages):
    links = [rank.task(k, "after", value(k - 1, 1)) for k in range(1, 10)]
    rank.dispatch(rank.task(0, "after", sent(100)), *links)
    assert messages == [1, 9]
    rank.run(*range(10))
    assert [decode(rank.finished[k][1]) for k in range(10)] == list(range(101, 111))
    assert messages == [1, 9]


def test_a_value_too_large_to_stay_goes_through_the_rank(rank):
    rank.dispatch(
        rank.task(0, "text", sent(INLINE_RESULT_NBYTES + 1)),
        rank.task(1, "nothing", value(0, 1)),
        rank.task(2, "begin"),
    )
    rank.run(0, 1, 2)
    assert rank.statuses() == {0: OK, 1: OK, 2: OK}


def test_a_large_call_is_sent_in_its_turn(rank, messages):
    large = rank.task(1, "nothing", sent_text("x" * 5000))
    rank.dispatch(rank.task(0, "hold"), large, rank.task(2, "begin"))
    rank.run_until(lambda: rank.is_begun(0))
    assert messages == [1]
    rank.end(0)
    rank.run(0, 1, 2)
    assert messages == [1, 1, 1]


def test_a_child_that_never_stops_talking_does_not_keep_its_rank_from_receiving(rank, monkeypatch):
    """A function may call update_node_resources as fast as it can."""
    rank.dispatch(rank.task(0, "hold"))
    (child,) = rank.driver.sockets()
    with monkeypatch.context() as patch:
        patch.setattr(child, "poll", lambda: (("update", 1, {"license": 1}), []))
        rank.driver.turn()
    rank.end(0)
    rank.run(0)
    assert rank.statuses() == {0: OK}


def test_updates_without_end_do_not_keep_a_rank_from_receiving(rank, monkeypatch):
    """A thread of the user's may bring the next while one is sent."""
    send = rank.driver.transport.send
    update = rank.driver.update_resources
    monkeypatch.setattr(rank.driver.transport, "send", lambda *about: (update(1, {}), send(*about)))
    update(1, {})
    rank.driver.turn()
    monkeypatch.undo()
    rank.dispatch(rank.task(0, "begin"))
    rank.run(0)
    assert rank.is_begun(0)


# -- calls that fail --------------------------------------------------------------------------------------


def test_what_waits_for_a_call_that_fails_is_given_back_and_the_next_runs(rank):
    rank.dispatch(
        rank.task(0, "fail"),
        rank.task(1, "after", value(0, 1)),
        rank.task(2, "after", value(1, 1)),
        rank.task(3, "begin"),
    )
    rank.run(0, 3)
    assert rank.statuses() == {0: RAISED, 3: OK}
    assert rank.returned == [1, 2]
    assert not rank.driver.sockets(), "nothing is awaited of the child"


@pytest.mark.parametrize(
    "frames_per_turn", [1, *(pytest.param(each, marks=pytest.mark.long) for each in (2, 3, 4)), 100]
)
def test_calls_behind_one_that_broke_its_context_run_once_in_another_child(rank, monkeypatch, frames_per_turn):
    """The answers of the spent child, which is replaced while it is listened to, are not those of the new one."""
    monkeypatch.setattr(children, "_MAX_FRAMES_PER_TURN", frames_per_turn)
    rank.dispatch(rank.task(0, "hold"))
    rank.run_until(lambda: rank.is_begun(0))
    rank.claim = (1.0, ((0, "declared-0"),))
    rank.dispatch(rank.task(1, "break_context"), *[rank.task(k, "begin") for k in range(2, 9)])
    rank.end(0)
    rank.run(*range(9))
    assert rank.statuses() == {k: RAISED if k == 1 else OK for k in range(9)}


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long), 3])
def test_the_answers_of_calls_that_were_taken_back_are_not_those_of_other_calls(rank, monkeypatch, count):
    """A child that has yet to answer for void calls, and serves no slot for a while, does not come back to one."""
    monkeypatch.setattr(children, "_MAX_FRAMES_PER_TURN", 1)
    rank.dispatch(rank.task(0, "begin"), rank.task(1, "hold"), *[rank.task(k, "begin") for k in range(2, 2 + count)])
    rank.run_until(lambda: rank.is_begun(1))
    rank.recall(*range(2, 2 + count))
    rank.claim = (1.0, ((0, "declared-0"),))
    rank.dispatch(rank.task(6, "begin"))
    rank.claim = (1.0, ())
    rank.dispatch(rank.task(7, "begin"), rank.task(8, "begin"))
    rank.end(1)
    rank.run(0, 1, 6, 7, 8)
    assert rank.statuses() == dict.fromkeys((0, 1, 6, 7, 8), OK)


def test_a_death_costs_the_call_that_ran_and_no_other(rank):
    rank.dispatch(rank.task(0, "begin"), rank.task(1, "crash"), *[rank.task(k, "begin") for k in range(2, 8)])
    rank.run(*range(8))
    assert rank.statuses() == {k: DIED if k == 1 else OK for k in range(8)}
    assert "exit status 3" in rank.finished[1][1][1]


def test_what_has_not_begun_is_given_back_when_it_is_recalled(rank):
    rank.dispatch(rank.task(0, "hold"), *[rank.task(k, "begin") for k in range(1, 8)])
    rank.run_until(lambda: rank.is_begun(0))
    rank.recall(*range(1, 6))
    assert rank.returned == [1, 2, 3, 4, 5]
    rank.end(0)
    rank.run(0, 6, 7)
    assert not any(map(rank.is_begun, range(1, 6)))


def test_calls_are_sent_ahead_again_after_a_recall(rank, messages):
    rank.dispatch(rank.task(0, "hold"), *[rank.task(k, "nothing") for k in range(1, 8)])
    rank.run_until(lambda: rank.is_begun(0))
    rank.recall(*range(1, 8))
    rank.end(0)
    rank.run(0)
    del messages[:]
    rank.dispatch(*[rank.task(k, "nothing") for k in range(10, 20)])
    rank.run(*range(10, 20))
    rank.dispatch(*[rank.task(k, "nothing") for k in range(20, 30)])
    rank.run(*range(20, 30))
    assert sum(messages) == 20, "none is sent twice"
    assert messages[-2:] == [1, 9]


def test_what_was_taken_back_does_not_take_the_token_of_another(tmp_path):
    rank = Rank(tmp_path, encode_code(FUNCTIONS["take_slowly"]))
    try:
        rank.dispatch(rank.task(0, "hold"), *[rank.task(k, "begin") for k in range(1, 5)])
        rank.run_until(lambda: rank.is_begun(0))
        rank.recall(1, 2)
        rank.end(0)
        rank.run(0, 3, 4)
        assert not rank.is_begun(1)
        assert not rank.is_begun(2)
    finally:
        rank.driver.close()


def test_what_has_begun_is_not_given_back(rank):
    rank.dispatch(rank.task(0, "begin"), rank.task(1, "hold"), rank.task(2, "begin"))
    end = time.monotonic() + 30
    while not rank.is_begun(1):  # the rank knows nothing of it yet
        assert time.monotonic() < end
    rank.recall(0, 1, 2)
    assert rank.returned == [2]
    rank.end(1)
    rank.run(0, 1)
    assert not rank.is_begun(2)


def test_recalls_at_any_moment_lose_nothing_and_run_nothing_twice(rank):
    rng = random.Random(5)
    count = 400
    for first in range(0, count, 40):
        rank.dispatch(
            *[
                rank.task(k, "linger", sent_text(rank.place), sent(k), sent(rng.choice((0, 0, 1e-4, 1e-3))))
                for k in range(first, first + 40)
            ]
        )
        for _ in range(rng.randrange(20)):
            time.sleep(rng.random() * 1e-3)
            rank.driver.turn()
        rank.recall(*rng.sample(range(first, first + 40), 20))
    rank.run_until(lambda: len(rank.finished) + len(rank.returned) == count)
    assert set(rank.finished) | set(rank.returned) == set(range(count))
    assert set(rank.statuses().values()) == {OK}, "a call that runs twice fails"
    assert len(rank.returned) > 50
    assert not any(map(rank.is_begun, rank.returned))


# -- time -------------------------------------------------------------------------------------------------


def test_a_timeout_ends_the_call_that_took_too_long_and_no_other(rank):
    rank.dispatch(rank.task(0, "begin"), rank.task(1, "hold", timeout_s=0.05), rank.task(2, "begin"))
    rank.run(0, 1, 2)
    assert rank.statuses() == {0: OK, 1: TIMED_OUT, 2: OK}


def test_a_call_that_has_begun_meanwhile_is_not_ended_for_the_one_before(rank, monkeypatch):
    """The time is up just when the call ends: what its child does by then is the next call."""
    now = [1000.0]
    monkeypatch.setattr(worker_driver, "clock", lambda: now[0])
    monkeypatch.setattr(children, "clock", lambda: now[0])
    rank.dispatch(rank.task(0, "begin", timeout_s=5.0), rank.task(1, "hold"), rank.task(2, "begin"))
    end = time.monotonic() + 30
    while not rank.is_begun(1):
        assert time.monotonic() < end
    now[0] += 5.0
    with monkeypatch.context() as patch:
        patch.setattr(rank.driver._calls._children, "listen", lambda: None)  # it has looked just before
        rank.driver.turn()
    rank.end(1)
    rank.run(0, 1, 2)
    assert set(rank.statuses().values()) == {OK}


def test_calls_follow_one_another_by_their_times(rank):
    """They began when the child says, however late the rank hears of it."""
    begun = []
    end = rank.driver._call_io.end
    rank.driver._calls._children._ended = lambda work, outcome, started: (
        begun.append((started, outcome.duration)),
        end(work, outcome, started),
    )
    rank.dispatch(*[rank.task(k, "linger", sent_text(rank.place), sent(k), sent(0.005)) for k in range(4)])
    while not rank.is_begun(3):
        time.sleep(0.001)
    rank.run(*range(4))
    for (started, duration), (after, _) in itertools.pairwise(begun):
        assert after >= started + duration - 1e-4


def test_the_end_of_a_run_ends_a_child_that_has_calls_ahead(rank):
    rank.dispatch(rank.task(0, "hold"), *[rank.task(k, "begin") for k in range(1, 8)])
    rank.run_until(lambda: rank.is_begun(0))
    (child,) = rank.driver.sockets()
    rank.receive(STOP, None)
    rank.driver.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    assert not rank.is_begun(1)
