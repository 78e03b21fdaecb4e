"""Pools: maps over the ranks of a job, as samplers and optimisers call them."""

from __future__ import annotations

import pickle
import threading
from functools import partial
from itertools import count, repeat

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Cluster, DAGError, Unsatisfiable, UsageError, current_task, execute, task
from handoff_mpi.errors import TaskError
from handoff_mpi.launch import open_run
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.testing import fake_ranks


@pytest.fixture(params=["ranks", "one process"])
def cluster(request):
    """A Cluster that leads fake ranks, and one that is alone."""
    if request.param == "one process":
        with Cluster() as cluster:
            yield cluster
        return
    with fake_ranks(4), Cluster() as cluster:
        yield cluster


@pytest.fixture
def led():
    """A Cluster that leads fake ranks."""
    with fake_ranks(4), Cluster() as cluster:
        yield cluster


def square(x):
    return x * x


class Diverged(Exception):
    """An exception of the user, with more than a message."""

    def __init__(self, message, at):
        super().__init__(message, at)
        self.at = at


class Unsendable(Exception):
    """An exception that can be pickled, and not unpickled."""

    def __init__(self, first, second):
        super().__init__(first)


class Sampler:
    """An object that holds its pool, and whose state changes from step to step."""

    def __init__(self, pool=None):
        self.pool = pool
        self.scale = 1

    def weigh(self, x):
        return self.scale * x

    def weigh_all(self, xs):
        return self.pool.map(self.weigh, xs)


def diverge(x):
    if x >= 3:
        raise Diverged("too far", at=x)
    return x


def take(table, x):
    return int(table[x])


CALLED = []


def note_and_fail(x):
    CALLED.append(x)
    raise ValueError(x)


# -- values ------------------------------------------------------------------------------------------------


def test_a_map_returns_a_list_of_the_values_in_order(cluster):
    assert cluster.map(square, range(100)) == [x * x for x in range(100)]
    assert cluster.map(square, [1.5, 2.5], chunksize=1) == [2.25, 6.25]
    assert cluster.map(square, range(100), chunksize=numpy.int64(3)) == [x * x for x in range(100)]


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, True, "a"])
def test_a_wrong_chunksize_is_refused(cluster, chunksize):
    with pytest.raises(UsageError, match="chunksize must be a whole number from 1, or None, not "):
        cluster.map(square, [1], chunksize=chunksize)


def test_handles_of_a_dag_are_refused(cluster):
    with DAG() as dag:
        handle = dag.map(square, range(3))
    with pytest.raises(UsageError, match=r"map takes values, and .* stands for values of a DAG"):
        cluster.map(square, handle)


def test_elements_may_come_from_anything_that_can_be_iterated_over(cluster):
    assert cluster.map(square, (x for x in range(5))) == [0, 1, 4, 9, 16]
    assert sorted(cluster.map(square, {1, 2, 3})) == [1, 4, 9]
    assert cluster.map(square, []) == []
    assert cluster.map(square, iter(())) == []


def test_several_iterables_are_zipped_and_iterators_end_with_the_sequences(cluster):
    assert cluster.map(pow, [2, 3], [3, 2]) == [8, 9]
    assert cluster.map(pow, [2, 3], repeat(2)) == [4, 9]
    assert cluster.map(pow, count(), range(3)) == [1, 1, 4]
    with pytest.raises(UsageError, match="argument 1 has 2, argument 2 has 3"):
        cluster.map(pow, [1, 2], [1, 2, 3])


def test_tuples_of_arguments_are_spread(cluster):
    with cluster.pool() as pool:
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]


def test_a_chunk_size_may_stand_behind_the_iterable_as_in_multiprocessing(cluster):
    assert cluster.map(square, range(10), 3) == [x * x for x in range(10)]


def test_rows_of_an_array_are_copies_that_a_function_may_write_to(cluster):
    def double(row):
        row *= 2
        return row

    rows = numpy.arange(6.0).reshape(3, 2)
    found = cluster.map(double, rows.copy())
    assert all(type(each) is numpy.ndarray for each in found)
    assert numpy.array_equal(numpy.stack(found), 2 * rows)
    found[0][0] = 7.0  # the values are the caller's


def test_values_have_the_types_that_the_function_returned(cluster):
    found = cluster.map(lambda x: [1, 2.0, None, "a", (1,), numpy.float64(2)][x], range(6))
    assert [type(each) for each in found] == [int, float, type(None), str, tuple, numpy.float64]


# -- functions ---------------------------------------------------------------------------------------------


def test_lambdas_closures_partials_methods_and_tasks_can_be_mapped(cluster):
    table = {"a": 1}

    @task(cost={"cpu": 1})
    def of_task(x):
        return x + 1

    async def later(x):
        return x + 2

    assert cluster.map(lambda key: table[key], ["a", "a"]) == [1, 1]
    assert cluster.map(partial(pow, 2), [1, 2]) == [2, 4]
    assert cluster.map("-".join, [["a", "b"]]) == ["a-b"]
    assert cluster.map(of_task, [1]) == [2]
    assert cluster.map(later, [1]) == [3]


def test_what_a_function_holds_is_sent_as_it_is_now(cluster):
    sampler = Sampler()
    for scale in range(5):
        sampler.scale = scale
        assert cluster.map(sampler.weigh, [1, 2]) == [scale, 2 * scale]


def test_an_object_that_holds_its_pool_can_be_sent(cluster):
    for pool in (cluster, cluster.pool()):
        sampler = Sampler(pool)
        assert sampler.weigh_all(range(4)) == [0, 1, 2, 3]
        assert cluster.map(sampler.weigh_all, [[1, 2], [3]]) == [[1, 2], [3]]  # computed where it is called


def test_elements_have_seeds_and_ids_of_their_own_in_each_map(led):
    def seed(_):
        return current_task().seed

    def draw(_):
        return numpy.random.random()

    for function in (seed, draw):
        drawn = [*led.map(function, range(10)), *led.map(function, range(10))]
        assert len(set(drawn)) == 20


def test_what_cannot_be_sent_is_refused_before_anything_starts(led):
    lock = threading.Lock()
    with pytest.raises(DAGError, match="cannot be sent"):
        led.map(partial(next, (x for x in [1])), [1])
    with pytest.raises(DAGError, match="element 1 of argument 1 cannot be sent"):
        led.map(square, [1, lock])
    assert led.map(square, [1]) == [1]
    with pytest.raises(DAGError, match="element 0"):
        led.map(square, [lock])
    assert led.map(square, [2]) == [4]
    with pytest.raises(UsageError, match="takes a function first"):
        led.map([1], square)
    with pytest.raises(UsageError, match="at least one iterable"):
        led.map(square)
    with pytest.raises(DAGError, match="not iterable"):
        led.map(square, 3.0)


# -- exceptions --------------------------------------------------------------------------------------------


def test_the_exception_of_the_first_element_that_fails_is_raised_as_it_is(cluster):
    with pytest.raises(Diverged, match="too far") as caught:
        cluster.map(diverge, range(100))
    assert caught.value.at == 3
    assert cluster.map(diverge, [1]) == [1]


def test_the_cause_of_an_exception_is_its_traceback_on_the_rank(led):
    with pytest.raises(Diverged) as caught:
        led.map(diverge, range(4, 8))
    text = str(caught.value.__cause__)
    assert "in diverge" in text and "raise Diverged" in text and "mapped_calls" not in text


def test_an_exception_that_cannot_be_sent_is_told_with_what_to_do(led):
    def fail(x):
        raise Unsendable("a", "b")

    remedy = r"element 0 of map\(fail\): Unsendable: a .*give Unsendable a __reduce__"
    with pytest.raises(TaskError, match=remedy) as caught:
        led.map(fail, [1, 2])
    assert "in fail" in caught.value.traceback


def test_a_function_is_not_called_again_in_a_process_where_it_has_raised(led):
    CALLED.clear()
    with pytest.raises(ValueError, match="0"):
        led.map(note_and_fail, range(1000), chunksize=10)
    assert len(CALLED) <= led.size
    CALLED.clear()
    with pytest.raises(ValueError, match="7"):
        led.map(note_and_fail, [7])
    assert CALLED == [7]  # another map calls it again


def test_a_value_that_cannot_be_pickled_fails_its_element(led):
    with pytest.raises(FunctionError, match="cannot be pickled"):
        led.map(lambda x: threading.Lock(), [1])
    assert led.map(square, [2]) == [4]


def test_an_exit_of_a_function_fails_its_element(led):
    def leave(x):
        raise SystemExit(3)

    with pytest.raises(FunctionError, match="SystemExit"):
        led.map(leave, [1])
    assert led.map(square, [2]) == [4]


# -- the protocol of pools -----------------------------------------------------------------------------------


def test_a_pool_has_a_size_and_can_be_closed(led):
    with led.pool() as pool:
        assert pool.size == pool._processes == led.size == 3
        assert pool.map(square, [3]) == [9]
    pool.join()
    with pytest.raises(UsageError, match="this pool is closed"):
        pool.map(square, [3])
    pool.terminate()
    assert led.map(square, [3]) == [9]


def test_a_pool_of_a_cluster_that_has_ended_says_so():
    with Cluster() as cluster:
        pool = cluster.pool()
        assert pool.size == 1
    with pytest.raises(UsageError, match="has ended"):
        pool.map(square, [1])


def test_options_of_a_pool_hold_for_each_element_and_are_checked_at_once(led):
    with led.pool(cost={"cpu": 1}, max_retries=0) as pool:
        assert pool.map(square, [2]) == [4]
    with pytest.raises(DAGError, match="cost"):
        led.pool(cost="much")
    with pytest.raises(UsageError, match="no option id"):
        led.pool(id="a")
    with pytest.raises(Unsatisfiable), led.pool(cost={"cpu": 1000}) as pool:
        pool.map(square, [2])
    assert led.map(square, [2]) == [4]


def test_maps_of_several_threads_wait_for_one_another(cluster):
    found = {}

    def step(number):
        for _ in range(5):
            found[number] = cluster.map(square, range(number))

    threads = [threading.Thread(target=step, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {number: [x * x for x in range(number)] for number in range(4)}


def test_a_map_during_a_run_is_refused_and_a_run_between_maps_is_not(led):
    errors = []

    def handler(*_):
        try:
            led.map(square, [1])
        except UsageError as error:
            errors.append(str(error))

    with handoff.DAG() as dag:
        task(square)(3)
    handoff.telemetry.attach("pool", ("handoff", "execution", "dag", "start"), handler, None)
    try:
        assert led.map(square, [2]) == [4]
        assert execute(dag, run_dir=False)["square"] == 9
    finally:
        handoff.telemetry.detach("pool")
    assert "executes a run" in errors[-1]
    assert led.map(square, [2]) == [4]


# -- runs that stay open -------------------------------------------------------------------------------------


@pytest.fixture
def sent(led, monkeypatch):
    """The messages that rank 0 sends, as (kind, size)."""
    messages = []
    send = led.job.transport.send

    def note(dest, message, buffers=()):
        messages.append((message[0], len(pickle.dumps(message))))
        send(dest, message, buffers)

    monkeypatch.setattr(led.job.transport, "send", note)
    return messages


def kinds(sent, kind):
    return [each for each, _ in sent].count(kind)


def test_the_ranks_stay_in_one_run_and_get_a_code_once(led, sent):
    table = numpy.arange(100_000)

    def look_up(x):
        return int(table[x])

    for _ in range(10):
        assert led.map(look_up, [5, 7, 9]) == [5, 7, 9]
    assert kinds(sent, "start") == 3
    assert sum(nbytes for kind, nbytes in sent if kind == "dispatch") < 4 * table.nbytes
    assert kinds(sent, "stop") == 0
    led.job.leave_open_run()
    assert kinds(sent, "stop") == 3


def test_a_run_is_left_after_some_arrays_or_when_old_codes_take_much_memory(led, sent, monkeypatch):
    monkeypatch.setattr(open_run, "MAX_ARRAYS", 3)
    for _ in range(7):
        led.map(square, [1])
    assert kinds(sent, "start") == 3 * 3
    sent.clear()
    monkeypatch.setattr(open_run, "MAX_ARRAYS", 100)
    monkeypatch.setattr(open_run, "MAX_STALE_NBYTES", 1 << 20)
    for number in range(5):
        table = numpy.full(100_000, number)
        assert led.map(partial(take, table), [5]) == [number]
    assert kinds(sent, "start") == 3
