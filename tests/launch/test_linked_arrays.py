"""Arrays over arrays, and folds, from one end to the other: values, failures, resume, words."""

from __future__ import annotations

import operator
from collections import Counter

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Fixed, Function, load
from handoff_mpi.errors import ValueUnavailable

DAG_FILE = """
import os
from handoff_mpi import DAG, current_task

def note():
    if os.environ.get("NOTES"):
        id, index = current_task().id
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{id}:{index} ")

def half(x):
    note()
    if str(x) in os.environ.get("KILLS", "").split():
        os.kill(os.getpid(), 9)
    return x / 2

def plus(x, y):
    note()
    return x + y

with DAG("linked") as dag:
    xs = dag.map(half, range(int(os.environ.get("COUNT", 3000))), id="xs", max_retries=0)
    ys = dag.map(plus, xs, xs[::-1], id="ys")
    total = dag.reduce(lambda a, b: a + b, ys[100:], id="total")
"""


def counts_of(path):
    return Counter(path.read_text().split())


@pytest.mark.parametrize(
    "place",
    [
        ["-n", "3"],
        pytest.param(["--isolation", "process"], marks=pytest.mark.long),
        pytest.param(["-n", "3", "--isolation", "process"], marks=pytest.mark.soak),
    ],
)
def test_elements_are_passed_on_and_each_runs_once(handoff, tmp_path, place):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    ended = handoff("run", *place, "--run-dir", "run", "dag.py", env={"NOTES": str(tmp_path / "notes")})
    assert ended.rc == 0, ended.err
    assert counts_of(tmp_path / "notes") == Counter(f"{id}:{index}" for id in ("xs", "ys") for index in range(3000))
    results = load(tmp_path / "run")
    assert results["ys"][:] == [2999 / 2] * 3000
    assert results["total"] == 2900 * 2999 / 2


@pytest.mark.long
def test_a_resume_runs_what_is_new_what_failed_and_what_takes_it(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    command = "run", "-n", "3", "--isolation", "process", "--run-dir", "run", "dag.py"
    notes = tmp_path / "notes"
    ended = handoff(*command, env={"KILLS": "7", "COUNT": "200"})
    assert ended.rc == 1 and "xs[7] failed" in ended.err
    results = load(tmp_path / "run")
    assert set(results["ys"].errors) == set() and len(results["ys"].failures) == 0
    with pytest.raises(ValueUnavailable, match=r"ys\[192\] was skipped|did not run"):
        results["ys"][192]
    ended = handoff(*command, env={"NOTES": str(notes), "COUNT": "200"})
    assert ended.rc == 0, ended.err
    assert counts_of(notes) == Counter(["xs:7", "ys:7", "ys:192"])
    notes.unlink()
    ended = handoff(*command[:-1], "--rerun", "xs[3]", "dag.py", env={"NOTES": str(notes), "COUNT": "200"})
    assert counts_of(notes) == Counter(["xs:3", "ys:3", "ys:196"])
    assert load(tmp_path / "run")["total"] == 100 * 199 / 2


def run(dag, **options):
    return handoff.execute_local(dag, run_dir=options.pop("run_dir", False), check=False, **options)


def test_arrays_of_arrays_have_the_values_of_plain_maps():
    values = [numpy.full(3, index) for index in range(300)]
    with DAG() as dag:
        xs = dag.map(lambda x: x * 2, values)
        ys = dag.map(lambda x, y, by: (x.sum() * by, y), xs[50::-2], range(26), Fixed(3))
        zs = dag.map(lambda y, x: [y[1], int(x[0])], ys, xs[:26])
        total = dag.reduce(lambda a, b, by: a + b, zs, fan_in=3, fixed={"by": 0}, id="total")
        dag.map(lambda x, all: len(all) + x, [1], total, id="takes it")
    results = run(dag)
    assert results.status == "done"
    assert results[ys.id][3] == (44 * 2 * 3 * 3, 3)
    assert results["total"] == [each for index in range(26) for each in (index, 2 * index)]
    assert results["takes it"][0] == 53


def test_floats_are_folded_in_the_same_order_by_leases_of_any_size():
    def total(**options):
        with DAG() as dag:
            xs = dag.map(lambda index: 1 / (index + 1), range(3000), chunk=options.get("chunk"))
            dag.reduce(operator.add, xs, id="total", fan_in=7, **options)
        return run(dag)["total"]

    assert total() == total(chunk=1) == total(chunk=11)


def test_values_that_handles_stand_for_are_folded_in_their_places():
    with DAG() as dag:
        nine = dag.add_function(Function("nine", (), int, ["9"]))
        fails = dag.add_function(Function("fails", (), int, ["x"], max_retries=0))
        xs = dag.map(int, range(4), id="xs")
        dag.reduce(pair, [nine, 5], id="handles")
        dag.reduce(pair, (each for each in [xs[1], nine, xs[2]]), fan_in=2, id="elements")
        dag.reduce(pair, [xs[1:3], xs[2:]], id="slices")
        dag.reduce(pair, [nine], id="one")
        dag.reduce(pair, [fails, 5], id="skipped")
    results = run(dag)
    assert results["handles"] == [9, 5]
    assert dag.functions[-1].id == "skipped" and dag.functions[-2].id == "skipped-values"
    assert results["elements"] == [[1, 9], 2]
    assert results["slices"] == [[1, 2], [2, 3]]
    assert results["one"] == 9
    assert results.errors.keys() >= {"fails"} and results.counts()["failed"] <= 2
    with pytest.raises(handoff.HandoffError):
        results["skipped"]


def pair(one, other):
    return [one, other]


def test_what_takes_an_element_that_failed_is_skipped_and_the_results_say_so():
    with DAG() as dag:
        xs = dag.map(lambda x: 1 / x, [1, 0, 2], id="xs", max_retries=0)
        dag.map(operator.neg, xs, id="ys")
        dag.reduce(operator.add, xs, id="total")
        dag.reduce(operator.add, xs[1:2], id="nothing")
        dag.reduce(operator.truediv, [1, 1, 0, 1], id="bad", fan_in=2, max_retries=0)
    results = run(dag)
    assert results.status == "failed"
    assert results["ys"].get(0) == -1 and results["ys"].counts() == {"done": 2, "failed": 0, "not run": 1}
    with pytest.raises(ValueUnavailable, match=r"ys\[1\].* was skipped: an element that it takes failed"):
        results["ys"][1]
    with pytest.raises(ValueUnavailable, match=r"'total'.* skipped"):
        results["total"]
    assert str(results.errors["nothing"]).endswith("all elements that it takes failed, or were skipped")
    assert results.errors.keys() == {("xs", 1), "nothing", "bad"}
    assert results.errors["bad"].kind == "ZeroDivisionError"
    assert "folding values 0:4 failed" in str(results.errors["bad"])


def test_a_fold_that_an_earlier_launch_has_done_is_not_done_again(tmp_path):
    notes = tmp_path / "notes"

    def add(a, b):
        with notes.open("a") as file:
            file.write(".")
        return a + b

    with DAG() as dag:
        dag.reduce(add, range(100), id="total", fan_in=10)
    assert run(dag, run_dir=tmp_path / "run")["total"] == 4950
    assert load(tmp_path / "run")["total"] == 4950
    run(dag, run_dir=tmp_path / "run")
    assert len(notes.read_text()) == 99
    with DAG(dag.id) as dag:
        dag.reduce(add, range(105), id="total", fan_in=10)
    assert run(dag, run_dir=tmp_path / "run")["total"] == 5460
    assert len(notes.read_text()) == 99 + 4 + 9 + 1
