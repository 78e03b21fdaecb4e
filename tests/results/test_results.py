"""The results of a run tell its end."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import pytest

from handoff_mpi import Handle
from handoff_mpi.errors import DAGFailed, ValueUnavailable
from handoff_mpi.results import Results
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.records import RecordTable
from handoff_mpi.results.results import PreparedResults
from handoff_mpi.serialization import encode


def ended(status, kind="", **told):
    errors = {"f": FunctionError("'f'", kind, "", 1, (1,))} if kind else {}
    return Results(PreparedResults(dag_id="dag", run="run", status=status, errors=errors, run_dir=None, **told))


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (ended("done"), 0),
        (ended("failed", "ValueError"), 1),
        (ended("failed", "no-room"), 4),
        (ended("stopped"), 75),
        (ended("stopped", "ValueError"), 75),
        (ended("stopped", "no-room"), 75),
        (ended("stopped", "ValueError", stopped_on_failure=True), 1),
        (ended("stopped", "no-room", stopped_on_failure=True), 4),
    ],
)
def test_a_run_that_was_asked_to_stop_is_to_be_resumed_even_if_functions_failed(results, code):
    assert results.exit_code == code
    assert DAGFailed("why", results).exit_code == code


def available():
    records = RecordTable(ids=["c", "failed", "a", "gone"], states=["done", "failed", "done", "done"])
    results = ended("done", records=records, payloads={"a": encode(1), "c": encode(3)})
    results.errors["failed"] = FunctionError("'failed': ValueError: no", "ValueError", "", 1, (1,))
    return results


def test_results_are_a_mapping_of_what_is_available_in_the_order_of_the_dag():
    results = available()
    assert isinstance(results, Mapping)
    assert list(results) == list(results.keys()) == ["c", "a"]
    assert len(results) == 2 and dict(results) == {"c": 3, "a": 1}
    assert list(results.items()) == [("c", 3), ("a", 1)]
    assert list(results.values()) == [3, 1] and results.values["a"] == 1 and dict(results.values) == dict(results)
    assert "a" in results and Handle("a") in results and "failed" not in results and [] not in results


def test_functions_that_failed_are_no_part_of_the_mapping_and_raise_when_asked_for():
    results = available()
    with pytest.raises(FunctionError):
        results["failed"]
    assert results.get("failed") is None and results.get("failed", 7) == 7 and results.get("a") == 1
    assert results.get("unknown", 5) == 5
    with pytest.raises(KeyError):
        results.values["failed"]
    with pytest.raises(KeyError):
        results["unknown"]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda results: pickle.loads(pickle.dumps(results))])
def test_results_can_be_copied_and_pickled(duplicate):
    other = duplicate(available())
    assert dict(other) == {"c": 3, "a": 1} and other.counts()["failed"] == 1
    assert repr(other) == repr(available())
    with pytest.raises(FunctionError):
        other["failed"]


@pytest.mark.parametrize("args", [(), ("dag", "run", "done", {}, None, 1.0), ({"a": 1},)])
def test_results_are_made_by_runs_and_load_alone(args):
    with pytest.raises(TypeError, match=r"cannot be constructed: execute\(dag\) and load\(RUN_DIR\) return them"):
        Results(*args)
    with pytest.raises(TypeError, match="cannot be constructed"):
        Results(dag_id="dag")


def test_ids_are_iterated_over_and_counted_without_loading_a_value(tmp_path):
    records = RecordTable(ids=["a"], states=["done"])
    results = ended("done", records=records, persisted={"a": ("run", 0)})
    assert list(results) == [], "there is no run-dir to load it from"
    results.run_dir = tmp_path  # which holds no value files
    assert list(results) == list(results.values) == ["a"] and len(results) == 1 and "a" in results
    with pytest.raises(ValueUnavailable, match="which no longer exists"):
        results["a"]


def test_results_without_any_value_are_true():
    assert ended("done") and len(ended("done")) == 0


def test_equal_failures_are_told_together():
    results = ended("failed")
    results.errors.update(
        {n: FunctionError(f"{n}: ValueError: bad {n}", "ValueError", "", 4, (1,), "dag.py:4") for n in range(5000)}
    )
    results.errors["x"] = FunctionError("'x': KeyError: 'y'", "KeyError", "", 1, (1,), "dag.py:9")
    results.errors["z"] = FunctionError("'z': ValueError: ", "ValueError", "", 1, (1,), "dag.py:12")
    first = results.first_failures()
    alike = "0: ValueError: bad 0; and 4,999 others (1, 2, 3, 4, …) failed alike"
    assert first == f"{alike}; 'x': KeyError: 'y'; 'z': ValueError: "
    lines = [line for line in results.summary().splitlines() if line.startswith("  failed: ")]
    assert lines == [
        "  failed: 0 and 4,999 others (1, 2, 3, 4, …): ValueError at dag.py:4: bad 0",
        "  failed: 'x': KeyError at dag.py:9: 'y'",
        "  failed: 'z': ValueError at dag.py:12",
    ]
