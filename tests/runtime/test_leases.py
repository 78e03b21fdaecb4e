"""Leases at a rank, computed by itself and by real child processes: killed, overdue, stopped and slow in the middle."""

from __future__ import annotations

import os
import random
import select
import sys
import threading
import time
from pathlib import Path

import pytest

from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.messages import (
    DIED,
    DISPATCH,
    ELEMENTS,
    FINISHED,
    LEASE,
    OK,
    RAISED,
    RETRACT,
    RETRACTED,
    STOP,
    TIMED_OUT,
    ErrorReport,
)
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.serialization import PLAIN, encode_code
from handoff_mpi.worker.child_process import ChildProcess
from tests.worker.leases import EACH, elements, failures_of, indices, template, values_of

SOURCE = """
import os, time
def note(place, name): os.close(os.open(os.path.join(place, name), os.O_CREAT | os.O_EXCL))
def wait(place, name):
    end = time.monotonic() + 30
    while not os.path.exists(os.path.join(place, name)):
        assert time.monotonic() < end
        time.sleep(0.001)
def square(place, x): return x * x
def hold(place, x):
    note(place, f"begun {x}")
    wait(place, f"end {x}")
    return x
def crash_at_2(place, x):
    note(place, f"begun {x}")
    if x == 2:
        wait(place, "end 2")
        os._exit(3)
    return x
def linger_at_3(place, x):
    note(place, f"begun {x}")
    time.sleep(60 if x == 3 else 0.12)
    return x
def fail_at_2(place, x):
    if x == 2: raise ValueError(x)
    return x
def big(place, x): return bytes(x)
"""
FUNCTIONS: dict = {"__name__": "__main__"}
exec(SOURCE, FUNCTIONS)
NAMES = [name for name, each in FUNCTIONS.items() if type(each) is type(lambda: 0)]


class Rank:
    """Rank 1, which computes leases itself ("rank") or in children ("process"), and what it reports to rank 0.

    What it computes itself, it computes in a thread of its own: the test is its progress thread.
    """

    def __init__(self, place, isolation):
        self.place = str(place)
        self.network = MemoryNetwork(2)
        setup = RunSetup("now", 1, 1, isolation, 60.0, 1 << 40, None, None, [], None)
        self.shell = WorkerDriver(self.network.transport(1), setup)
        self.said = []
        self._codes = [(number, encode_code(FUNCTIONS[name])) for number, name in enumerate(NAMES)]
        self._is_over = False
        self._thread = threading.Thread(target=self._run_own)
        if isolation == "rank":
            self._thread.start()

    def _run_own(self):
        while not self._is_over:
            if not self.shell.run_own_calls():
                time.sleep(0.001)

    def close(self):
        self._is_over = True
        if self._thread.is_alive():
            self._thread.join(30)
        self.shell.close()

    def lease(self, number, name, count, start=0, timeout_s=None):
        """An assignment of ``count`` elements, which are their indices."""
        _, pieces, tries = elements(range(start, start + count))
        shares = ((start, start + count),), pieces, tries
        call = template(args=[self.place, EACH], code=NAMES.index(name))
        return (number, 1, "sweep", call, (), timeout_s, LEASE, shares)

    def receive(self, kind, *rest):
        self.network.transport(0).send(1, (kind, 1, *rest))
        with self.shell.lock:
            self.shell.turn(self.shell.transport.poll())

    def dispatch(self, *leases):
        codes, self._codes = self._codes, []
        self.receive(DISPATCH, codes, [(0, (1.0, ()), list(leases))])

    def hear(self):
        """Take in what the rank has reported: ("part", lease, report) or ("ended", lease, status, report or error)."""
        for each in self.network.transport(0).poll():
            kind, _, *fields = each.message
            if kind == FINISHED:
                self.said += [("ended", task, status, result) for task, _, status, result, *_ in fields[0]]
            elif kind == ELEMENTS:
                self.said.append(("part", fields[0], fields[2]))
            elif kind == RETRACTED:
                self.said.append(("returned", fields[0]))

    def run_until(self, is_enough):
        end = time.monotonic() + 30
        while not is_enough():
            assert time.monotonic() < end, self.said
            select.select(self.shell.sockets(), (), (), 0.002)
            with self.shell.lock:
                self.shell.turn()
            self.hear()

    def run(self, lease=7):
        """Wait for the end of a lease; return its status, and its report or error."""
        self.run_until(lambda: self.ends(lease))
        ((_, _, status, result),) = self.ends(lease)
        return status, result

    def ends(self, lease):
        return [each for each in self.said if each[:2] == ("ended", lease)]

    def parts(self, lease=7):
        return [each[2] for each in self.said if each[:2] == ("part", lease)]

    def begun(self):
        return sorted(int(path.name.split()[1]) for path in Path(self.place).glob("begun *"))

    def end(self, element):
        Path(self.place, f"end {element}").touch()


@pytest.fixture(params=["rank", "process"])
def rank(request, tmp_path):
    rank = Rank(tmp_path, request.param)
    yield rank
    rank.close()


@pytest.fixture
def isolated(tmp_path):
    """A rank whose leases run in children."""
    rank = Rank(tmp_path, "process")
    yield rank
    rank.close()


def test_leases_are_computed_one_after_the_other(rank):
    rank.dispatch(rank.lease(7, "square", 5), rank.lease(8, "square", 3, start=5))
    (status, first), (_, second) = rank.run(7), rank.run(8)
    assert status == OK
    assert {**values_of(first), **values_of(second)} == {k: k * k for k in range(8)}


def test_an_element_that_raises_fails_alone(rank):
    rank.dispatch(rank.lease(7, "fail_at_2", 4))
    status, report = rank.run()
    assert (status, values_of(report)) == (OK, {0: 0, 1: 1, 3: 3})
    assert failures_of(report) == [([2], "ValueError", "2")]


def test_what_cannot_be_put_together_has_raised(rank):
    *rest, shares = rank.lease(7, "square", 4)
    rest[3] = (*rest[3][:2], (PLAIN, ((), b"no pickle")), ())
    rank.dispatch((*rest, shares))
    status, error = rank.run()
    assert status == RAISED and "cannot be put together" in ErrorReport(*error).message


def test_the_elements_behind_one_that_lasts_are_left_at_once_when_their_lease_is_retracted(rank):
    rank.dispatch(rank.lease(7, "hold", 5), rank.lease(8, "square", 3, start=5))
    rank.end(0)
    rank.run_until(lambda: rank.begun() == [0, 1])
    rank.receive(RETRACT, [(7, 1), (8, 1)])
    rank.run_until(lambda: any(part.left for part in rank.parts()))
    assert not rank.ends(7), "the second element still runs"
    assert [indices(part.left) for part in rank.parts() if part.left] == [[2, 3, 4]]
    assert ("returned", [(8, 1)]) in rank.said
    rank.end(1)
    status, report = rank.run()
    assert (status, report.left) == (OK, ())
    assert {**values_of_parts(rank), **values_of(report)} == {0: 0, 1: 1}
    assert rank.begun() == [0, 1]


def test_a_lease_that_has_not_begun_is_left_whole(rank):
    rank.dispatch(rank.lease(7, "hold", 2), rank.lease(8, "square", 3, start=5))
    rank.run_until(lambda: rank.begun() == [0])
    rank.receive(RETRACT, [(8, 1)])
    rank.hear()
    assert ("returned", [(8, 1)]) in rank.said
    rank.end(0)
    rank.end(1)
    assert values_of(rank.run()[1])[1] == 1


def test_no_further_element_begins_once_the_run_is_over(rank):
    rank.dispatch(rank.lease(7, "hold", 5))
    rank.run_until(lambda: rank.begun() == [0])
    rank.receive(STOP, None)
    rank.end(0)
    rank.end(1)
    rank.close()
    assert rank.begun() == [0]


def test_what_has_ended_is_reported_while_an_element_lasts(rank):
    rank.dispatch(rank.lease(7, "hold", 3))
    rank.end(0)
    rank.run_until(lambda: rank.begun() == [0, 1])
    rank.run_until(rank.parts)
    assert values_of_parts(rank) == {0: 0}
    rank.end(1)
    rank.end(2)
    _, report = rank.run()
    before, last = values_of_parts(rank), values_of(report)
    assert {**before, **last} == {0: 0, 1: 1, 2: 2} and not before.keys() & last.keys()


def values_of_parts(rank, lease=7):
    """Index to value of the elements that were reported before the end of their lease; each once."""
    values = {}
    for part in rank.parts(lease):
        assert not values.keys() & values_of(part).keys()
        values |= values_of(part)
    return values


# -- in children ------------------------------------------------------------------------------------------


def test_a_death_is_charged_to_the_element_that_ran_and_what_had_ended_is_reported_before(isolated):
    isolated.dispatch(isolated.lease(7, "crash_at_2", 5), isolated.lease(8, "square", 3, start=5))
    isolated.run_until(lambda: values_of_parts(isolated) == {0: 0, 1: 1})
    isolated.end(2)
    status, error = isolated.run()
    assert (status, ErrorReport(*error).element) == (DIED, 2)
    assert "exit status 3" in error[1]
    assert values_of(isolated.run(8)[1]) == {k: k * k for k in (5, 6, 7)}, "another child computes the next lease"
    assert isolated.begun() == [0, 1, 2]


def test_a_child_that_is_killed_is_charged_to_the_element_that_ran(isolated):
    isolated.dispatch(isolated.lease(7, "hold", 3, start=10))
    isolated.end(10)
    isolated.run_until(lambda: isolated.begun() == [10, 11])
    (child,) = isolated.shell.sockets()
    os.kill(child.pid, 9)
    status, error = isolated.run()
    assert (status, ErrorReport(*error).element) == (DIED, 11)
    assert "SIGKILL" in error[1]


@pytest.mark.long
def test_a_timeout_is_that_of_each_element(isolated):
    isolated.dispatch(isolated.lease(7, "linger_at_3", 5, timeout_s=0.3))
    status, error = isolated.run()
    assert (status, ErrorReport(*error).element) == (TIMED_OUT, 3)
    assert "timeout of 0.3 s" in error[1]
    assert values_of_parts(isolated) == {0: 0, 1: 1, 2: 2}


def test_leases_go_to_a_child_in_their_turn(isolated, monkeypatch):
    sent = []
    call, call_ahead = ChildProcess.call, ChildProcess.call_ahead
    monkeypatch.setattr(ChildProcess, "call", lambda child, spec: (sent.append(spec.elements[0]), call(child, spec)))
    monkeypatch.setattr(
        ChildProcess, "call_ahead", lambda child, frames: (sent.append("ahead"), call_ahead(child, frames))
    )
    isolated.dispatch(*[isolated.lease(k, "square", 2, start=2 * k) for k in range(5)])
    isolated.run(4)
    assert sent == [((2 * k, 2 * k + 2),) for k in range(5)]


def test_large_columns_come_back_whole(rank):
    rank.dispatch(rank.lease(7, "big", 3, start=1_000_000), rank.lease(8, "big", 3, start=2_000_000))
    for lease in (7, 8):
        status, report = rank.run(lease)
        assert status == OK
        assert all(len(value) == index for index, value in values_of(report).items())


@pytest.fixture
def quick_switches():
    """Threads take turns so often that a lease of a rank's own can be stopped in its middle."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def test_each_element_is_reported_once_whenever_its_lease_is_retracted(rank, quick_switches):
    rng = random.Random(3)
    count = 50_000
    rank.dispatch(rank.lease(0, "square", 1))
    rank.run(0)
    were_stopped = 0
    for lease in range(1, 25):
        rank.dispatch(rank.lease(lease, "square", count))
        time.sleep(rng.random() * 0.004)
        rank.receive(RETRACT, [(lease, 1)])
        status, report = rank.run(lease)
        values = values_of_parts(rank, lease)
        assert status == OK and not values.keys() & values_of(report).keys()
        values |= values_of(report)
        left = [index for part in [*rank.parts(lease), report] for index in indices(part.left)]
        assert sorted([*values, *left]) == [*range(count)]
        assert [*values] == [*range(len(values))] and all(value == index**2 for index, value in values.items())
        were_stopped += bool(values and left)
    assert were_stopped
