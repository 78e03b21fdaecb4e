"""One set of figures: the summary, ``status.json``, ``load``, ``explain`` and the report count a run alike."""

from __future__ import annotations

import json
import os
from operator import add

import pytest

from handoff_mpi import DAG, Argument, Fixed, Function, execute, load
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.results.story_reader import read_story
from handoff_mpi.verbs.run_explanation import explain_run, run_explanation_lines
from handoff_mpi.visualization.report.tables import state_counts


def bad_at_3(x):
    if x % 10 == 3:
        raise ValueError("bad")
    return x


def first(x, *others):
    return x


def a_chain(dag):
    """A run that is stopped by its first failure: elements that take the one that failed are skipped, others wait."""
    xs = dag.map(bad_at_3, range(40), id="xs", chunk=1)
    dag.map(first, xs, range(40), id="ys", chunk=1)
    dag.add_function(Function("all", [xs], first))
    return {"on_failure": "stop"}


def a_fold(dag):
    dag.reduce(add, dag.map(first, range(200), id="xs"), fan_in=10, id="total")
    return {}


def a_fold_of_what_failed(dag):
    dag.reduce(add, dag.map(bad_at_3, range(40), id="xs"), fan_in=10, id="total")
    return {}


def an_array_with_too_many_failures(dag):
    xs = dag.map(bad_at_3, range(40), max_failures=0, chunk=1, id="xs")
    dag.map(first, xs[5:], id="ys")
    return {}


def an_array_that_never_began(dag):
    bad = dag.add_function(Function("bad", [], bad_at_3, [3]))
    xs = dag.map(first, range(7), bad, id="xs")
    dag.add_function(Function("pairs", [Argument(xs, missing="skip")], len))
    dag.add_function(Function("all", [xs], first))
    return {}


def an_array_of_which_all_failed(dag):
    dag.map(first, dag.map(bad_at_3, [3, 13], id="xs"), id="ys")
    return {}


def a_windowed_array(dag):
    dag.map(bad_at_3, iter(range(25)), window=5, id="xs")
    return {}


def arrays_over_a_windowed_one(dag):
    xs = dag.map(bad_at_3, iter(range(25)), window=5, id="xs")
    dag.map(first, xs, id="ys")
    dag.reduce(add, xs, fan_in=4, id="total")
    return {}


def a_windowed_array_that_raises(dag):
    xs = dag.map(first, (6 // (3 - each) for each in range(9)), window=2, id="xs")
    dag.map(first, xs, id="ys")
    dag.reduce(add, xs, id="total")
    return {}


RUNS = {
    a_chain: None,
    a_fold: {"done": 200 + 20 + 2 + 1},
    a_fold_of_what_failed: {"done": 36, "failed": 4, "skipped": 4 + 1},
    an_array_with_too_many_failures: None,
    an_array_that_never_began: {"done": 1, "failed": 1, "skipped": 7 + 1},
    an_array_of_which_all_failed: {"failed": 2, "skipped": 2},
    a_windowed_array: {"done": 22, "failed": 3},
    arrays_over_a_windowed_one: None,
    a_windowed_array_that_raises: None,
}


@pytest.mark.parametrize("declare", RUNS, ids=lambda declare: declare.__name__)
def test_all_count_alike(declare, tmp_path):
    dag = DAG("counted")
    options = declare(dag)
    results = execute(dag, run_dir=tmp_path / "r", check=False, max_retries=0, output="off", **options)
    counts = results.counts()
    if RUNS[declare] is not None:
        assert {name: count for name, count in counts.items() if count} == RUNS[declare]
    assert load(tmp_path / "r").counts() == counts
    status, summary = (json.loads((tmp_path / "r" / f"{name}.json").read_text()) for name in ("status", "summary"))
    assert {name: status[name] for name in counts} == counts
    for told in (status, summary):
        assert told["counts"] == {**told["counts"], **counts, "running": 0, "ready": 0}
        rows = told["by_name"].values()
        assert sum(row["total"] for row in rows) == sum(counts.values()) == status["functions"]
        for name in ("done", "failed", "skipped"):
            assert sum(row[name] for row in rows) == counts[name], name
        assert not any(row["running"] for row in rows)
    story = read_story(tmp_path / "r")
    explained = explain_run(story, "r")
    assert explained["counts"] == {**counts, "running": 0}
    assert ("No function has failed" in "\n".join(run_explanation_lines(explained))) == (not results.errors)
    assert state_counts(story) == {name: count for name, count in counts.items() if count or name == "done"}
    (tmp_path / "r" / "status.json").unlink()  # as where a launch died: no file has its counts
    left = load(tmp_path / "r").counts()
    assert [left["done"], left["failed"], sum(left.values())] == [
        counts["done"],
        counts["failed"],
        sum(counts.values()),
    ]


def test_what_a_failed_rerun_has_skipped_has_no_value(tmp_path, monkeypatch):
    """Its value of the launch before was made of another value."""

    def first():
        if "FAILS" in os.environ:
            raise ValueError("it fails this time")
        return 1

    def made():
        dag = DAG("rerun")
        handle = dag.add_function(Function("first", [], first, max_retries=0))
        dag.add_function(Function("second", [handle], abs))
        dag.map(pow, range(3), Fixed(handle), id="powers")
        dag.add_function(Function("other", [], list))
        return dag

    execute(made(), run_dir=tmp_path)
    monkeypatch.setenv("FAILS", "1")
    results = execute(made(), run_dir=tmp_path, check=False, rerun=["first"])
    for each in (results, load(tmp_path)):
        assert each.counts() == {"done": 1, "failed": 1, "skipped": 4, "waiting": 0}
        assert {*each} == {"other", "powers"}
        assert each["powers"].get(0) is None
        with pytest.raises(ValueUnavailable, match="was skipped: a function it depends on failed"):
            each["second"]


def test_calls_of_a_run_that_ends_before_any_element_has_come_are_counted_alike(tmp_path):
    def stuck():
        raise OSError("nothing comes")
        yield

    dag = DAG("early")
    dag.reduce(add, dag.map(first, stuck(), window=4, id="xs"), id="sum")
    dag.map(first, range(3), id="others")
    results = execute(dag, run_dir=tmp_path, check=False)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["functions"] == sum(results.counts().values()) == sum(load(tmp_path).counts().values())


def test_an_element_that_has_failed_is_tried_again_though_all_that_was_taken_of_its_array_is_done(
    tmp_path, monkeypatch
):
    def fails(x):
        if x == 7 and "FAILS" in os.environ:
            raise ValueError("it fails this time")
        return x

    def made():
        dag = DAG("parts")
        xs = dag.map(fails, range(10), id="xs", max_retries=0)
        dag.add_function(Function("some", [xs[2:4]], len))
        return dag

    monkeypatch.setenv("FAILS", "1")
    assert execute(made(), run_dir=tmp_path, check=False).status == "failed"
    assert execute(made(), run_dir=tmp_path, check=False).status == "failed"
    monkeypatch.delenv("FAILS")
    results = execute(made(), run_dir=tmp_path)
    assert results["xs"][7] == 7 and results.counts()["done"] == 11
