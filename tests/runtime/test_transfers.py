"""How large values go from rank to rank: what is copied, what passes rank 0, and who sleeps meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from handoff_mpi.comm import MemoryNetwork
from handoff_mpi.comm.doorbell import Doorbell
from handoff_mpi.messages import DISPATCH, FETCH, INLINE_RESULT_NBYTES, INPUT_UNAVAILABLE, NOT_FOUND
from handoff_mpi.runtime import backoff, own_calls, worker_driver
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.runtime.worker_reactor import HASTE_S
from handoff_mpi.serialization import decode, encode_code
from handoff_mpi.worker import shared_memory
from handoff_mpi.worker.broadcast_tree import FAN_OUT
from handoff_mpi.worker.events import Spill
from tests.worker.transcript import sent, task, value

SCRIPT = """
import gc, tracemalloc
import numpy
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world

NBYTES = 64 * 10**6

def make(): return numpy.ones(NBYTES, numpy.uint8)
def look(array): return array[::4096].sum(), array.flags.writeable, array.nbytes

tracemalloc.start()
dag = DAG("copies")
dag.add_function(Function("make", (), make, node=1))
dag.add_function(Function("look", ["make"], look, node=2))
results = handoff.execute(dag, isolation="rank", run_dir="run", checkpoint="none")
peaks = world().gather(tracemalloc.get_traced_memory()[1] / NBYTES)
if results is not None:
    assert results["look"] == (NBYTES / 4096, False, NBYTES), results["look"]
    print("PEAKS", *(f"{peak:.2f}" for peak in peaks), flush=True)
"""


@pytest.mark.long
def test_an_array_is_in_memory_once_where_it_was_made_once_where_it_is_used_and_never_at_rank_0(mpirun, tmp_path):
    (tmp_path / "copies.py").write_text(SCRIPT)
    ended = mpirun(3, "copies.py")
    assert ended.rc == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("PEAKS ")]
    rank_0, maker, user = map(float, line.split()[1:])
    assert rank_0 < 0.5, "the array was at rank 0"
    assert 1 <= maker < 1.5, "it was copied where it was made"
    assert 1 <= user < 1.5, "it was not received into its final memory"


IN_CHILDREN = """
import numpy
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world
from handoff_mpi.worker import shared_memory
from handoff_mpi.worker.events import Spill

written = []
write_at = shared_memory._write_at
def watch(descriptor, view, offset):
    written.append(view.nbytes)
    write_at(descriptor, view, offset)
shared_memory._write_at = watch

dag = DAG("children")
dag.add_function(Function("make", (), numpy.arange, [1_000_000], node=1))
for number in range(3):
    dag.add_function(Function(number, ["make"], lambda array: int(array.sum()), node=2))
results = handoff.execute(dag, isolation="process", run_dir="run", checkpoint="none")
written = world().gather(sum(written))
if results is not None:
    assert [results[number] for number in range(3)] == [499_999_500_000] * 3
    print("WRITTEN", *written, flush=True)
"""


@pytest.mark.long
def test_what_is_received_is_not_copied_for_the_children_that_take_it(mpirun, tmp_path):
    (tmp_path / "children.py").write_text(IN_CHILDREN)
    ended = mpirun(3, "children.py")
    assert ended.rc == 0, ended.err
    assert "WRITTEN 0 0 0" in ended.out.splitlines(), ended.out


ALL = """
import numpy
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

told = []
handoff.telemetry.attach("t", handoff.telemetry.TRANSFER_STOP, lambda _, seen, about, __: told.append(about))
dag = DAG("all")
dag.add_function(Function("make", (), numpy.arange, [100_000], node=1))
for rank in range(2, 7):
    dag.add_function(Function(rank, ["make"], lambda array: int(array.sum()), node=rank))
results = handoff.execute(dag, isolation="rank", run_dir="run", checkpoint="none")
if results is not None:
    assert all(results[rank] == 4_999_950_000 for rank in range(2, 7))
    assert sorted(about["target"] for about in told) == [*range(2, 7)], told
    print("SOURCES", *(about["source"] for about in told), flush=True)
    told.clear()

dag = DAG("array")
rows = dag.map(lambda x: numpy.arange(10_000) + x, range(10), id="rows", node=1)
for rank in range(1, 7):
    dag.add_function(Function(rank, [rows[2:]], lambda rows: [int(row[0]) for row in rows], node=rank))
results = handoff.execute(dag, isolation="rank", run_dir=False)
if results is not None:
    assert all(results[rank] == [*range(2, 10)] for rank in range(1, 7))
    assert sorted(about["target"] for about in told) == [*range(1, 7)], told
    assert {repr(about["function_id"]) for about in told} == {"rows[2:10]"}, told
    print("SOURCES OF A SLICE", *(about["source"] for about in told), flush=True)
"""


@pytest.mark.long
def test_beyond_a_few_ranks_have_a_value_from_those_that_got_it(mpirun, tmp_path):
    (tmp_path / "all.py").write_text(ALL)
    ended = mpirun(7, "all.py")
    assert ended.rc == 0, ended.err
    of_value, of_slice = [Counter(line.split()) for line in ended.out.splitlines() if line.startswith("SOURCES ")]
    assert 1 <= of_value["1"] <= FAN_OUT, "one of the five has it from another"
    assert 1 <= of_slice["0"] <= FAN_OUT, "two of the six have it from others"


@pytest.fixture
def time(monkeypatch):
    """A clock that stands still, for the drivers: [now]."""
    now = [1000.0]
    for module in (worker_driver, own_calls):
        monkeypatch.setattr(module, "clock", lambda: now[0])
    return now


def driver_of_rank_1():
    network = MemoryNetwork(3)
    setup = RunSetup("now", 1, 1, "rank", 60.0, 1 << 40, None, None, [])
    return WorkerDriver(network.transport(1), setup), network


def receive(driver, network, source, *message):
    network.transport(source).send(1, message)
    driver.turn(driver.transport.poll())


def test_a_rank_that_waits_for_a_value_does_not_sleep_for_a_moment(time):
    driver, network = driver_of_rank_1()
    assert not driver.is_hasty
    receive(driver, network, 0, DISPATCH, 1, [], [(0, (1.0, ()), [task(5, value(4, 2))])])
    (asked,) = network.transport(2).poll()
    assert asked.message[:4] == (FETCH, 1, 0, 4)
    assert driver.is_hasty
    time[0] += HASTE_S
    assert not driver.is_hasty, "the value may take hours"
    receive(driver, network, 2, NOT_FOUND, 1, 0, None)
    assert not driver.is_hasty


def test_a_rank_that_made_a_large_value_expects_to_be_asked_for_it_at_once(time):
    driver, network = driver_of_rank_1()
    groups = [(0, (1.0, ()), [task(5, sent(INLINE_RESULT_NBYTES + 1))])]
    receive(driver, network, 0, DISPATCH, 1, [(0, encode_code(bytes))], groups)
    assert driver.run_own_calls()
    assert 5 in driver.machine.held
    assert driver.is_hasty
    time[0] += HASTE_S
    assert not driver.is_hasty


def test_a_loop_that_awaits_a_transfer_never_sleeps(monkeypatch):
    monkeypatch.setattr(backoff.time, "sleep", lambda seconds: pytest.fail("it slept"))
    now = [0.0]
    monkeypatch.setattr(backoff, "clock", lambda: now[0])
    waiting = backoff.Backoff()
    for _ in range(100):
        now[0] += 1.0
        waiting.wait(False, True, 1e9)


def test_a_loop_that_sleeps_is_woken_by_the_doorbell(monkeypatch):
    """With sleeps this long a rank that does not hear the doorbell does not end in time."""
    monkeypatch.setattr(backoff, "MAX_SLEEP_S", 60.0)
    monkeypatch.setattr(backoff, "_SLEEP_SHARE", 1e9)
    one, other = Doorbell(), Doorbell()
    one.can_ring({1: other.address})
    waiting = backoff.Backoff(other)
    threading.Timer(0.05, one.ring, [1]).start()
    waiting.wait(False, False, 1e18)
    assert not backoff.wait_for([other], 0.0), "it was heard"
    for each in (one, other):
        each.close()


def test_a_loop_that_is_rung_for_all_that_comes_looks_less_often(monkeypatch):
    now = [0.0]

    def sleep(wake, seconds):
        now[0] += seconds
        return []

    monkeypatch.setattr(backoff, "clock", lambda: now[0])
    monkeypatch.setattr(backoff, "wait_for", sleep)

    def looks(all_rings):
        waiting, count = backoff.Backoff(SimpleNamespace()), 0
        waiting.was_busy()
        end = now[0] + 0.1
        while now[0] < end:
            count += 1
            if waiting.spin(False, False):
                now[0] += backoff.SPIN_S
            else:
                waiting.sleep(end, (), all_rings)
        return count

    assert looks(all_rings=True) < looks(all_rings=False) / 2


def test_descriptors_of_any_number_can_be_waited_for():
    """select() knows none from 1024 on."""
    one, other = Doorbell(), Doorbell()
    one.can_ring({1: other.address})
    one.ring(1)
    high = fcntl.fcntl(other, fcntl.F_DUPFD, backoff._FD_SETSIZE)
    thing = SimpleNamespace(fileno=lambda: high)
    assert backoff.wait_for([thing], 60.0) == [thing]
    os.close(high)
    for each in (one, other):
        each.close()


def test_without_memory_to_share_values_are_received_as_ever(monkeypatch):
    def fail(*_):
        raise OSError("there is no space")

    open_files = len([*Path("/proc/self/fd").iterdir()])
    monkeypatch.setattr(shared_memory.os, "posix_fallocate", fail)
    target, kept = worker_driver._memory_for_children(shared_memory.SHARED_NBYTES)
    assert target is kept
    assert len([*Path("/proc/self/fd").iterdir()]) == open_files


def test_a_value_that_was_moved_out_and_removed_is_lost_as_any_other_and_the_next_are_moved_out_again(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    driver, network = driver_of_rank_1()
    made = [task(number, sent(INLINE_RESULT_NBYTES + number)) for number in range(3)]
    receive(driver, network, 0, DISPATCH, 1, [(0, encode_code(bytes))], [(0, (1.0, ()), made)])
    while driver.run_own_calls():
        pass
    for number in (0, 1):
        driver.reactor._spill(Spill(number, INLINE_RESULT_NBYTES))
    (spilled,) = tmp_path.iterdir()
    shutil.rmtree(spilled)
    network.transport(0).poll()

    receive(driver, network, 2, FETCH, 1, 7, 0, None, (), -1, None)
    assert [each.message for each in network.transport(2).poll()] == [(NOT_FOUND, 1, 7, None)]
    receive(driver, network, 0, DISPATCH, 1, [], [(0, (1.0, ()), [task(5, value(1, 1))])])
    driver.run_own_calls()
    told = [each.message for each in network.transport(0).poll()]
    assert (INPUT_UNAVAILABLE, 1, 5, 1, [(1, [1])]) in told
    assert 1 not in driver.machine.held

    driver.reactor._spill(Spill(2, INLINE_RESULT_NBYTES))
    assert driver._memory_monitor.can_spill
    assert len([*tmp_path.glob("*/*.value")]) == 1
    assert decode(driver._call_io.value(2)) == bytes(INLINE_RESULT_NBYTES + 2)
    driver.close()
    assert not [*tmp_path.iterdir()]


def test_values_are_moved_out_before_memory_is_set_aside_for_one_that_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    driver, network = driver_of_rank_1()
    made = [task(number, sent(100_000 + number)) for number in range(3)]
    receive(driver, network, 0, DISPATCH, 1, [(0, encode_code(bytes))], [(0, (1.0, ()), made)])
    while driver.run_own_calls():
        pass
    driver.machine.budget.measured(250_000, True)
    moved = []
    for _ in range(4):
        driver._allocate(100_000)
        moved.append(len([*tmp_path.glob("*/*.value")]))
    assert moved == [0, 0, 1, 2]
    assert [decode(driver._call_io.value(number)) for number in range(3)] == [
        bytes(100_000 + number) for number in range(3)
    ]
    driver.close()
