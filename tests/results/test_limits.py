"""The summary of a run says how well it used what there was, and what limited it."""

from __future__ import annotations

import time

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function, execute_local
from handoff_mpi.results.limits import describe_use
from handoff_mpi.results.records import RecordTable

CPU = {"cpu": 1}


def describe(calls, duration, slots=2, cores=2, **capacity):
    """``calls`` are (start, duration, inputs, cost, attempts), the last three if they matter."""
    table = RecordTable()
    for number, (start, length, *rest) in enumerate(calls):
        inputs, cost, attempts = (*rest, *((), CPU, 1)[len(rest) :])
        table.ids.append(f"f{number}")
        table.inputs.append(inputs)
        table.costs.append(cost)
        table.attempts.append(attempts)
        table.ranks.append(number % slots)
        table.started.append(100.0 + start)
        table.durations.append(length)
    return describe_use(table, dict.fromkeys(range(slots), 1), {"cpu": cores, **capacity}, duration)


def test_slots_that_the_cores_cannot_fill_do_not_count():
    calls = [(i // 2, 1.0) for i in range(8)]
    assert describe(calls, 4.1, slots=7) == [
        "  busy: calls on 7 ranks took 8.00 s: 98 % of 2 cores, which 7 slots share"
    ]


def test_slots_count_where_there_are_fewer_than_cores():
    assert describe([(0, 1.0), (1, 1.0)], 2.1, slots=1, cores=64)[0].endswith("95 % of 1 slot")


def test_calls_of_several_cores_count_them():
    calls = [(0, 1.0, (), {"cpu": 4}), (1, 1.0, (), {"cpu": 4})]
    assert describe(calls, 2.0, slots=4, cores=4) == ["  busy: calls on 2 ranks took 2.00 s: 100 % of 4 cores"]


@pytest.mark.parametrize(
    ("name", "amount", "words"), [("gpu", 1, "1 gpu"), ("license", 2, "2 license"), ("memory", 1000, "1000 memory")]
)
def test_the_resource_that_is_used_most_is_named(name, amount, words):
    calls = [(i, 1.0, (), {"cpu": 1, name: amount}) for i in range(4)]
    assert describe(calls, 4.0, 8, 8, **{name: amount}) == [f"  busy: calls on 4 ranks took 4.00 s: 100 % of {words}"]


def test_more_than_all_is_all():
    assert describe([(0, 5.0), (0, 5.0)], 4.0)[0].endswith("100 % of 2 cores")


def limit(*args, **kwargs):
    first, second = describe(*args, **kwargs)
    assert " busy: " in first
    return second.removeprefix("  limited by ")


def test_a_chain_limits():
    calls = [(i, 1.0, (i - 1,) if i else ()) for i in range(4)] + [(0, 0.1)] * 5
    assert limit(calls, 4.2) == "a chain of 4 functions, the last one 'f3': 4.00 s"


def test_one_long_function_limits():
    assert limit([(0, 3.0), (0, 0.1), (0.1, 0.1), (0.2, 0.1)], 3.1, slots=4, cores=4) == "'f0' alone: 3.00 s"


def test_what_is_around_the_calls_limits():
    assert limit([(1.5, 0.2)] * 2, 2.0) == "the time before the first call and after the last: 1.80 s"


def test_short_calls_limit():
    calls = [(i / 10_000, 0.000_01) for i in range(2000)]
    assert limit(calls, 0.21) == "short calls: they take 10 µs each, and their overhead is 190 µs each"


def test_waits_within_a_chain_limit():
    calls = [(i, 0.2, (i - 1,) if i else ()) for i in range(4)]
    waits = "waits: 2.40 s in which the chain of 4 functions up to 'f3' waited for values or for a free slot"
    assert limit(calls, 3.3) == waits


def test_nothing_is_said_where_nothing_is_known():
    assert describe([], 1.0) == []
    assert describe([(0, 1.0, (), CPU, 0)], 1.0) == []  # an earlier launch made it
    assert describe([(0, 1.0)], 0.0) == ["  busy: calls on 1 rank took 1.00 s"]
    calls = [(0, 0.3), (0.3, 0.3), (0.6, 0.3), (0, 0.2)]
    assert len(describe(calls, 0.9)) == 1


def test_chains_end_where_records_are_odd():
    calls = [(0, 1.0, (1,)), (0, 1.0, (0,)), (0, 0.1, (2,))]
    assert "a chain of" in limit(calls, 1.9, slots=8, cores=8)


@pytest.mark.parametrize("load", [False, True], ids=["run", "loaded"])
def test_an_array_is_no_slow_call(tmp_path, load):
    dag = DAG("slow")
    dag.add_function(Function("one", (), time.sleep, [0.02]))
    dag.map(time.sleep, [0.02, 0.02, 0.02], id="many")
    results = execute_local(dag, run_dir=tmp_path / "run", slots=1, keep="all")
    table = (handoff.load(tmp_path / "run") if load else results)._records
    assert [id for _, id, _ in table.slowest(3)] == ["one"]
    assert "slowest: 'one' 0.0" in results.summary() and "'many' 0." not in results.summary()


def test_the_use_is_left_out_where_the_times_of_an_array_are_not_known(tmp_path):
    dag = DAG("used")
    dag.add_function(Function("one", (), time.sleep, [0.01]))
    dag.map(time.sleep, [0.02, 0.02, 0.02], id="many")
    results = execute_local(dag, run_dir=tmp_path / "run", slots=1, keep="all")
    assert "  busy: calls on 1 rank took 0.0" in results.summary()
    assert "busy: " not in handoff.load(tmp_path / "run").summary(), "the journal tells when leases ended"


@pytest.mark.parametrize("load", [False, True], ids=["run", "loaded"])
def test_failed_and_repeated_calls_are_busy_time(tmp_path, load):
    def fit(last):
        time.sleep(0.05)
        if handoff.current_task().attempt < last:
            raise OSError("as asked")

    dag = DAG("repeated")
    dag.add_function(Function("succeeds", (), fit, [3]))
    dag.add_function(Function("fails", (), fit, [9], max_retries=1))
    results = execute_local(dag, run_dir=tmp_path / "run", slots=1, check=False)
    table = (handoff.load(tmp_path / "run") if load else results)._records
    (busy_s,) = table.busy().values()
    assert 5 * 0.05 <= busy_s < results.duration_s
    assert table.claimed()["cpu"] == pytest.approx(busy_s)
    assert {(id, failed) for _, id, failed in table.slowest(2)} == {("succeeds", False), ("fails", True)}
    assert results.summary().count(" s (failed)") == 1


@pytest.mark.long
@pytest.mark.parametrize("load", [False, True], ids=["run", "loaded"])
def test_runs_tell_it(tmp_path, monkeypatch, load):
    monkeypatch.setenv("HANDOFF_CORES", "3")
    dag = DAG("limited")
    for _ in range(2):
        dag.add_function(Function(dag.unique_id("f"), (), time.sleep, [0.2], cost={"cpu": 3}))
    results = execute_local(dag, run_dir=tmp_path / "run", slots=5, isolation="process")
    assert results.capacity["cpu"] == 3
    summary = (handoff.load(tmp_path / "run") if load else results).summary()
    assert " of 3 cores, which 5 slots share" in summary
