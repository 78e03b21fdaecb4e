"""Cases for type checkers: mypy checks this file, and nobody runs it. ``# E: code`` is an error that it must find."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

import handoff_mpi as handoff
from handoff_mpi import (
    DAG,
    Argument,
    ArrayHandle,
    Cluster,
    Fixed,
    Function,
    Handle,
    Results,
    RunOptions,
    WindowedHandle,
    collocated,
    task,
)

# -- options of a run -----------------------------------------------------------------------------------

dag = DAG("typed")
assert_type(handoff.execute(dag), Results | None)
assert_type(handoff.execute_local(dag, max_retries=1, retry_on=(OSError, ValueError), keep="all"), Results)
handoff.execute(dag, on_failure="stop", run_dir=Path("runs"), deadline="2026-01-31T12:00", resources={"license": 5})
handoff.execute(dag, run_dir=False, cache_size="1GB", prices={"gpu": 2.5}, setup=lambda rank: {"tape": rank})
handoff.execute_local(dag, max_retrys=1)  # E: call-arg
handoff.execute_local(dag, max_retries="1")  # E: arg-type
handoff.execute_local(dag, on_failure="halt")  # E: arg-type
handoff.execute_local(dag, run_dir=7)  # E: arg-type
handoff.execute_local(dag, resource_tracker=object())  # E: arg-type
handoff.execute(dag, heartbeat_timeout=None)  # E: arg-type
handoff.execute("dag.py")  # E: arg-type
handoff.start(progress="none", grace_period=5)
handoff.start(progres="none")  # E: call-arg
RunOptions(isolation="process", slots=2)
RunOptions(isolation="proces")  # E: arg-type
RunOptions(slot=2)  # E: call-arg

with Cluster(run_dir=False) as cluster:
    assert_type(cluster.execute(dag, rank0_computes=True, check=False), Results)
    cluster.execute(dag, checks=False)  # E: call-arg
Cluster(slots=2)  # E: arg-type

# -- functions ------------------------------------------------------------------------------------------

handle = dag.add_function(Function("a", (), abs, [-1], cost={"cpu": 1}, node=collocated("b")))
assert_type(handle, Handle)
Function("a", (), abs, [-1], costs={"cpu": 1})  # E: arg-type
Function("a", (), abs, [-1], max_retries="3")  # E: arg-type
Function("a", (), abs, [-1], type="inlined")  # E: arg-type
dag.add_function(abs)  # E: arg-type

# -- tasks ----------------------------------------------------------------------------------------------


@task
def load(path: str, rows: int = 10) -> list[float]:
    return [0.0] * rows


@task(cost={"gpu": 1, "memory": "4GB"}, max_retries=1, retry_on=OSError)
def fit(data: list[float], *, degree: int) -> dict[str, float]:
    return {"degree": degree}


@task
async def ask(url: str) -> str:
    return url


@task(timeouts=3)  # E: call-overload, untyped-decorator
def misspelt() -> None: ...


@task(timeout="an hour")  # E: call-overload, untyped-decorator
def wrong_type() -> None: ...


class Model:
    @task
    def score(self, data: list[float]) -> float:
        return sum(data)


with dag:
    data = load("a.csv", rows=5)
    assert_type(data, list[float])
    model = fit(data, degree=2)
    assert_type(model, dict[str, float])
    assert_type(fit.options(cost={"cpu": 4}, id="fit-4")(data, degree=3), dict[str, float])
    assert_type(task(fit.code, priority=2)(data, degree=3), dict[str, float])
    assert_type(Model().score(data), float)
    assert_type(ask("http://localhost"), Any)
    load(ask("http://localhost"))  # in a DAG its value is what the coroutine returns
    fit(handle, degree=2)  # a handle stands for a value of any type
    fit(Argument(data), degree=2)
    load()  # E: call-arg
    load(5)  # E: arg-type
    load("a.csv", row=5)  # E: call-arg
    fit(model, degree=2)  # E: arg-type
    fit.options(prio=2)  # E: call-arg
    Model().score("data")  # E: arg-type

# -- arrays ---------------------------------------------------------------------------------------------


def power(base: float, exponent: int, *, modulus: int = 0) -> float:
    return float(base**exponent)


class Pictures:
    """A data set that reads its items when it is indexed."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> bytes:
        return b""


xs = dag.map(abs, range(10), id="xs", chunk=5, max_failures=0.1, cost={"cpu": 2}, retry_on=OSError)
assert_type(xs, ArrayHandle)
assert_type(len(xs), int)
dag.map(power, [1.0, 2.0], range(2))
dag.map(power, [1.0, 2.0], Fixed(3))
dag.map(power, handle, range(2), fixed={"modulus": 7})
dag.map(power, Argument(handle), (each for each in range(2)))
dag.map(len, Pictures())
dag.map(fit, [[1.0]], fixed={"degree": 2})
dag.map(lambda a, b, c, d, e: a, [1], [2], [3], [4], [5])
windowed = dag.map(abs, iter([1, 2]), window=100, max_failures=3)
assert_type(windowed, WindowedHandle)
assert_type(dag.map(abs, windowed), WindowedHandle)
assert_type(dag.map(power, windowed, Fixed(3), fixed={"modulus": 7}), WindowedHandle)
assert_type(dag.map(power, [1.0], Fixed(3), window=100), WindowedHandle)
assert_type(dag.map(power, [1.0], [2], window=100, fixed={"modulus": 7}), WindowedHandle)
assert_type(dag.map(abs, [1, 2], window=None), ArrayHandle)
dag.map(len, [1, 2], window=100)  # E: arg-type
dag.map(len, [1, 2])  # E: arg-type
dag.map(power, [1.0])  # E: arg-type
dag.map(power, [1.0], Fixed("3"))  # E: arg-type
dag.map(power, [1.0], 3)  # E: call-overload
dag.map(power, [1.0], [2], cost=[{"cpu": 1}])  # E: call-overload
dag.map(power, [1.0], [2], chunksize=7)  # E: call-overload, call-overload
dag.map(power, xs, xs[::-1], id="powers")
assert_type(dag.reduce(max, xs[2:], fan_in=8, id="largest"), Handle)
dag.reduce(math.gcd, [12, 18], cost={"cpu": 1}, timeout=5)
dag.reduce(math.gcd, ["a"])  # E: arg-type
dag.reduce(math.gcd, [12, 18], max_failures=1)  # E: call-arg
with dag:
    squares = load.map(["a.csv", "b.csv"], max_retries=2)
    assert_type(squares, list[list[float]])
    assert_type(load.map(["a.csv"], [5]), list[list[float]])
    assert_type(fit.map(squares, fixed={"degree": 2}), list[dict[str, float]])
    fit(xs, degree=2)  # its value is the whole list
    load.map([1, 2])  # E: list-item, list-item
    load.map(["a.csv"], timeout=[1, 2])  # E: call-overload

# -- results --------------------------------------------------------------------------------------------

results = handoff.load("handoff-runs/last")
Results("dag")  # E: arg-type
Results(dag_id="dag")  # E: arg-type
results[model], results["fit"], results.get(data), results.output(model), dag[model]
for id, value in results.items():
    print(id, value)
assert_type(len(results), int)
for value in results.values():
    print(value)
