"""The order in which a worker takes in what has happened, stores values, and reports: no report is ahead of its effect.

The ports that a worker acts through note what they are asked to do, in one list.
"""

from __future__ import annotations

import select
from types import SimpleNamespace

import pytest

from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.comm.in_memory import MemoryTransport
from handoff_mpi.messages import (
    BYE,
    CHECK_PROCESS,
    CRITICAL,
    DISPATCH,
    FETCH,
    FILES,
    FINISHED,
    FREE_VALUES,
    INLINE_RESULT_NBYTES,
    INPUT_UNAVAILABLE,
    KEEP,
    LOST,
    MEMORY,
    OK,
    PROCESS_STATUS,
    RAISED,
    RETRACT,
    RETRACTED,
    STOP,
    UPDATE,
    VALUE,
)
from handoff_mpi.results.spilling import SpillingStore
from handoff_mpi.runtime.children import Children
from handoff_mpi.runtime.memory_monitor import MemoryMonitor
from handoff_mpi.runtime.output import RankOutput
from handoff_mpi.runtime.process_monitor import GONE, ProcessMonitor
from handoff_mpi.runtime.run_setup import OutputSetup, RunSetup
from handoff_mpi.runtime.value_store import RankValues
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.serialization import PLAIN, encode, encode_code
from handoff_mpi.worker.budget import Budget
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.events import Begun, Ended, InputMissing, Pressed, Received
from handoff_mpi.worker.machine import Worker
from tests.worker.transcript import sent, task, value

LARGE = INLINE_RESULT_NBYTES + 1
FILE = encode("from the file")
SOURCE = """
import os, time
def block(seconds):
    time.sleep(seconds)
def wait(path):
    while not os.path.exists(path):
        time.sleep(0.001)
"""
FUNCTIONS: dict = {"__name__": "__main__"}
exec(SOURCE, FUNCTIONS)

#: What is noted: (class, method) to the name of the effect and what is noted of the arguments.
PORTS = {
    (MemoryTransport, "send"): lambda self, dest, message, buffers=(): ("send", message[0], dest),
    (Worker, "handle"): lambda self, events, now: ("handle", *map(kind_of, events)),
    (SpillingStore, "put"): lambda self, key, payload: ("put", key[1]),
    (SpillingStore, "get"): lambda self, key: ("get", key[1]),
    (SpillingStore, "delete"): lambda self, key: ("delete", key[1]),
    (RankValues, "are_filed"): lambda self, keys: ("filed", dict(keys)),
    (CallRunner, "learn"): lambda self, codes, constant: ("learn",),
    (CallRunner, "call"): lambda self, spec: ("call", spec.id),
    (Children, "call"): lambda self, work: ("child", work.task),
    (Children, "take_back"): lambda self: ("take back",),
    (Children, "listen"): lambda self: ("listen",),
    (Children, "prefill"): lambda self: ("prefill",),
    (Children, "relieve_idle"): lambda self: ("relieve",),
    (RankOutput, "close"): lambda self: ("close output",),
    (ProcessMonitor, "forget"): lambda self, rank: ("forget", rank),
    (Budget, "measured"): lambda self, room_nbytes, can_spill: ("measured", room_nbytes),
}


def kind_of(event):
    return event.message[0] if isinstance(event, Received) else type(event)


class Rank:
    """Rank 1 of three, and its effects."""

    def __init__(self, patch, isolation="rank", **options):
        self.effects = []
        for (owner, name), describe in PORTS.items():
            patch.setattr(owner, name, self._noting(getattr(owner, name), describe))
        self.network = MemoryNetwork(3)
        self.driver = WorkerDriver(
            self.network.transport(1),
            RunSetup("now", 1, 1, isolation, 60.0, 1 << 40, None, None, [], cache_nbytes=0, **options),
        )

    def _noting(self, method, describe):
        def noted(port, *about, **named):
            self.effects.append(describe(port, *about, **named))
            return method(port, *about, **named)

        return noted

    def receive(self, *messages, source=0):
        """Take in ``messages`` in one turn; what was noted before does not count."""
        for kind, *rest in messages:
            self.network.transport(source).send(1, (kind, 1, *rest))
        arrived = self.driver.transport.poll()
        self.effects.clear()
        self.driver.turn(arrived)

    def call_all(self):
        """Run the calls that wait in this very thread."""
        while self.driver.run_own_calls():
            pass

    def at(self, *effect):
        """Return where an effect is in the list, which it is in once."""
        found = [place for place, each in enumerate(self.effects) if each[: len(effect)] == effect]
        assert len(found) == 1, f"{effect} is {len(found)} times among {self.effects}"
        return found[0]

    def hear(self):
        """Return what rank 0 has received."""
        return [each.message for each in self.network.transport(0).poll()]

    def await_child(self):
        """Wait until the child that is awaited has something to say."""
        assert select.select(self.driver.sockets(), (), (), 30.0)[0]

    def run_until(self, is_enough):
        """Listen to the child until ``is_enough()``."""
        while not is_enough():
            self.await_child()
            self.receive()


def dispatch(function, *tasks, codes=True):
    return DISPATCH, [(0, encode_code(function))] if codes else [], [(0, (1.0, ()), list(tasks))]


def text(nbytes):
    return "x" * nbytes


@pytest.fixture
def rank(monkeypatch):
    made = Rank(monkeypatch)
    yield made
    made.driver.close()


@pytest.fixture
def processes(monkeypatch):
    """A rank whose calls run in a child."""
    made = Rank(monkeypatch, "process")
    yield made
    made.driver.close()


@pytest.fixture
def files(monkeypatch):
    """The rank sees the files of values: what is written, and how writing fails."""
    state = SimpleNamespace(problem="", written=[])

    def write(values, number, payload, nbytes):
        state.written.append(number)
        state.effects.append(("write", number))
        return state.problem

    monkeypatch.setattr(RankValues, "sees_files", property(lambda values: True))
    monkeypatch.setattr(RankValues, "write", write)
    return state


# -- calls that end ----------------------------------------------------------------------------------------


def test_code_is_taken_in_before_the_call_that_needs_it_and_its_end_is_handled_before_the_next_begins(rank):
    rank.receive(dispatch(text, task(5, sent(1)), task(6, sent(2))))
    rank.call_all()
    assert rank.at("handle", DISPATCH) < rank.at("learn") < rank.at("call", "id-5")
    ends = [place for place, each in enumerate(rank.effects) if each == ("handle", Ended)]
    assert rank.at("call", "id-5") < ends[0] < rank.at("call", "id-6") < ends[1]


def test_a_value_that_stays_is_stored_before_it_is_reported(rank):
    rank.receive(dispatch(text, task(5, sent(LARGE))))
    rank.call_all()
    assert rank.at("handle", Ended) < rank.at("put", 5) < rank.at("send", FINISHED)


@pytest.mark.parametrize("problem", ["", "could not be written: no space is left"])
def test_a_value_that_must_outlast_the_run_is_in_its_file_before_its_end_is_handled_and_reported(files, rank, problem):
    files.effects, files.problem = rank.effects, problem
    rank.receive(dispatch(text, task(5, sent(LARGE), flags=KEEP)))
    rank.call_all()
    assert rank.at("write", 5) < rank.at("handle", Ended) < rank.at("send", FINISHED)
    ((_, _, status, payload, _, _, _, is_persisted),) = next(each[2] for each in rank.hear() if each[0] == FINISHED)
    assert (status, is_persisted) == ((RAISED, False) if problem else (OK, True))
    assert problem == "" or payload[1] == f"its result {problem}"


def test_a_value_that_travels_to_rank_0_is_not_written_here(files, rank):
    files.effects = rank.effects
    rank.receive(dispatch(text, task(5, sent(8), flags=KEEP)))
    rank.call_all()
    assert not files.written


def test_resources_are_updated_before_the_call_that_changed_them_is_reported(rank):
    rank.receive(dispatch(text, task(5, sent(1))))
    rank.driver.update_resources(1, {"cpu": 2})
    rank.call_all()
    assert rank.at("send", UPDATE) < rank.at("handle", Ended) < rank.at("send", FINISHED)


def test_an_input_that_is_missing_is_reported_and_the_next_call_runs(files, rank):
    rank.receive(dispatch(text, task(5, value(4)), task(6, sent(1))))  # its file is not there
    rank.call_all()
    assert rank.at("handle", InputMissing) < rank.at("send", INPUT_UNAVAILABLE) < rank.at("call", "id-6")


# -- calls in children -------------------------------------------------------------------------------------


def test_calls_that_ended_are_noted_before_what_arrived_and_taken_back_before_a_retract_is_handled(processes, tmp_path):
    """Else a call that a child was sent ahead of its turn could not be returned."""
    rank = processes
    paths = [tmp_path / name for name in ("now", "now", "never", "never")]
    tasks = [task(number, (number, None, (PLAIN, str(path)), ())) for number, path in enumerate(paths)]
    rank.receive(dispatch(FUNCTIONS["wait"], *tasks))
    rank.run_until(lambda: ("handle", Begun) in rank.effects)
    paths[0].touch()
    rank.await_child()
    rank.receive((RETRACT, [(3, 1)]))
    handled = rank.effects[rank.at("handle", Ended)]
    assert handled[-1] == RETRACT
    assert set(handled[1:-1]) == {Ended}
    assert max(rank.at("listen"), rank.at("take back")) < rank.at(*handled)
    assert (RETRACTED, 1, [(3, 1)]) in rank.hear()


def test_calls_that_were_sent_ahead_are_returned(processes):
    rank = processes
    rank.receive(dispatch(FUNCTIONS["block"], task(0, sent(0)), *[task(number, sent(30)) for number in (1, 2)]))
    rank.run_until(lambda: rank.driver.machine.running[0].task == 1)
    assert all(work.is_ahead for work in rank.driver.machine.queues[0]), "the child has it"
    rank.receive((RETRACT, [(2, 1)]))
    assert (RETRACTED, 1, [(2, 1)]) in rank.hear()


def test_children_are_sent_calls_ahead_once_the_machine_wants_nothing_more(processes):
    rank = processes
    rank.receive(dispatch(FUNCTIONS["block"], *[task(number, sent(0)) for number in range(3)]))
    assert rank.at("handle", DISPATCH) < rank.at("child", 0) < rank.at("prefill")


# -- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frees_first", [False, True])
def test_values_are_served_and_freed_in_the_order_of_the_machine(rank, frees_first):
    rank.receive(dispatch(text, task(5, sent(LARGE)), task(6, sent(LARGE))))
    rank.call_all()
    messages = [(FETCH, 7, 5, None, (), -1, None), (FREE_VALUES, [6])]
    rank.receive(*(reversed(messages) if frees_first else messages))
    assert rank.at("get", 5) < rank.at("send", VALUE)
    assert (rank.at("delete", 6) < rank.at("get", 5)) == frees_first


def test_the_names_of_files_are_known_before_a_call_that_arrived_with_them_begins(files, processes, monkeypatch):
    keys = []

    def get(values, number, is_held):
        keys.append(values._file_keys.get(number))
        return FILE

    rank = processes
    monkeypatch.setattr(RankValues, "get", get)
    rank.receive(dispatch(text, task(9, value(5))), (FILES, [(5, ("before", 5))]))
    assert rank.at("filed", {5: ("before", 5)}) < rank.at("handle", DISPATCH) < rank.at("child", 9)
    assert keys == [("before", 5)]


def test_files_of_another_run_are_not_those_of_this_one(rank):
    rank.network.transport(0).send(1, (FILES, 2, [(5, ("before", 5))]))
    rank.receive()
    assert not [each for each in rank.effects if each[0] == "filed"]


# -- processes, memory, the end ----------------------------------------------------------------------------


def test_rank_0_gets_the_state_of_a_process_in_the_turn_in_which_it_asks(rank, monkeypatch):
    rank.driver._process_monitor.next_look = float("inf")
    monkeypatch.setattr(ProcessMonitor, "examine", lambda monitor, other, now: (GONE, "it has ended"))
    rank.receive((CHECK_PROCESS, 2))
    assert (PROCESS_STATUS, 1, 2, True, "it has ended") in rank.hear()


def test_what_a_lost_rank_has_left_is_ended_before_its_loss_is_handled(rank):
    rank.receive((LOST, 2))
    assert rank.at("forget", 2) < rank.at("handle", LOST)


def test_memory_is_counted_before_its_shortage_is_handled_and_idle_children_give_theirs_back(rank, monkeypatch):
    def look(monitor, now):
        monitor.next_look, monitor.room_nbytes = float("inf"), 12345
        return Pressed(CRITICAL, 10, True, "by the test")

    monkeypatch.setattr(MemoryMonitor, "look", look)
    rank.driver._memory_monitor.next_look = 0.0
    rank.receive((FREE_VALUES, [3]))
    handled = rank.at("handle", FREE_VALUES, Pressed)
    assert max(rank.at("measured", 12345), rank.at("relieve")) < handled < rank.at("send", MEMORY)


def test_output_is_closed_before_the_rank_says_goodbye(monkeypatch):
    rank = Rank(monkeypatch, output=OutputSetup(1, 1 << 20))
    rank.receive((STOP, (PLAIN, 3)))
    assert rank.at("close output") < rank.at("send", BYE)
    assert rank.driver.has_left
    assert rank.driver.reactor.results == (PLAIN, 3)
    rank.driver.close()
