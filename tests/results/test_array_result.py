"""The result of an array, compared with a list of values and errors; and what the results of a run say of arrays."""

from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.results import Results
from handoff_mpi.results.array_result import ArrayResult, FailedElements
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.origins import Origins
from handoff_mpi.results.records import RecordTable
from handoff_mpi.results.results import PreparedResults
from handoff_mpi.serialization import EncodingError

DONE, ODD, EVEN, NOT_RUN = "done", "odd", "even", "not run"


def result_of(states, value=float, id="sweep"):
    """The result of an array whose elements have the values ``value(i)``, failed in one of two ways, or did not run."""
    indices = {
        state: IntervalSet((i, i + 1) for i, each in enumerate(states) if each == state) for state in set(states)
    }
    values = ArrayValues(len(states))
    for start, stop in indices.get(DONE, ()):
        values.put([(start, stop)], pack([*map(value, range(start, stop))]))
    failures = [
        FailedElements(
            indices[each].intervals(), "ValueError", f"{each} input", "Traceback", 2, (1, 2), f"dag.py:{each}"
        )
        for each in (ODD, EVEN)
        if each in indices
    ]
    return ArrayResult(id, values, failures, "did not run: the run was stopped (why)")


def outcome(ask):
    """The value, or what was raised in its place."""
    try:
        return ask()
    except (FunctionError, ValueUnavailable, IndexError) as error:
        return type(error), str(error)


def expected(states, index):
    """The value of an element, or what it raises."""
    if states[index] == DONE:
        return float(index)
    if states[index] == NOT_RUN:
        return ValueUnavailable, f"sweep[{index}] did not run: the run was stopped (why)"
    return FunctionError, f"sweep[{index}]: ValueError: {states[index]} input"


STATES = st.lists(st.sampled_from([DONE, DONE, DONE, ODD, EVEN, NOT_RUN]), max_size=30)


@given(STATES, st.data())
@settings(max_examples=40, deadline=None)
def test_an_array_result_is_a_sequence_of_values_and_errors(states, data):
    result = result_of(states)
    assert len(result) == len(states)
    wanted = [expected(states, index) for index in range(len(states))]
    assert [outcome(lambda i=i: result[i]) for i in range(len(states))] == wanted
    assert [outcome(lambda i=i: result[i - len(states)]) for i in range(len(states))] == wanted
    assert [result.get(i, "none") for i in range(len(states))] == [
        float(i) if state == DONE else "none" for i, state in enumerate(states)
    ]
    where = data.draw(st.slices(len(states)))
    of_slice = range(len(states))[where]
    raised = [wanted[i] for i in of_slice if states[i] != DONE]
    assert outcome(lambda: result[where]) == (raised[0] if raised else [float(i) for i in of_slice])
    failed = [i for i, state in enumerate(states) if state in (ODD, EVEN)]
    assert [*result.errors] == failed and len(result.errors) == len(failed)
    assert [str(error) for error in result.errors.values()] == [wanted[i][1] for i in failed]
    assert sum(result.counts().values()) == len(states)
    assert result.counts()["failed"] == len(failed)


@given(STATES)
@settings(max_examples=50, deadline=None)
def test_iterating_gives_values_up_to_the_first_element_without_one(states):
    found, iterator = [], iter(result_of(states))
    end = outcome(lambda: found.extend(iterator))
    first = next((i for i, state in enumerate(states) if state != DONE), None)
    assert end == (None if first is None else expected(states, first))
    assert found == [float(i) for i in range(len(states) if first is None else first)]


def test_iterating_decodes_large_values_a_few_at_a_time():
    result = result_of([DONE] * 100, lambda i: np.full(100_000, i))
    decoded = []
    result._values = Recording(result._values, decoded)
    assert next(iter(result))[0] == 0
    assert decoded == [1]


class Recording:
    """Notes how many values are asked for."""

    def __init__(self, values, asked):
        self._wrapped, self._asked = values, asked

    def __getattr__(self, name):
        return getattr(self._wrapped, name)

    def __len__(self):
        return len(self._wrapped)

    def values(self, start, stop, step=1):
        self._asked.append(len(range(start, stop, step)))
        return self._wrapped.values(start, stop, step)


def test_an_index_that_does_not_exist_is_an_error_as_of_a_list():
    result = result_of([DONE, ODD])
    for index in (2, -3):
        with pytest.raises(IndexError):
            result[index]
        assert result.get(index, 7) == 7
    with pytest.raises(TypeError):
        result["a"]
    for key in (0, 5, -1, "a"):
        with pytest.raises(KeyError):
            result.errors[key]


def test_an_error_tells_what_is_known_of_the_failure():
    error = result_of([DONE, ODD]).errors[1]
    assert (error.kind, error.traceback, error.attempts, error.ranks, error.place) == (
        "ValueError",
        "Traceback",
        2,
        (1, 2),
        "dag.py:odd",
    )


@pytest.mark.parametrize(
    ("value", "missing", "wanted"),
    [
        (int, -1, np.array([0, 1, -1, 3])),
        (int, np.nan, np.array([0.0, 1.0, np.nan, 3.0])),
        (np.float32, np.nan, np.array([0, 1, np.nan, 3], "f4")),
        (bool, False, np.array([False, True, False, True])),
        (str, None, np.array(["0", "1", None, "3"], object)),
        (lambda i: np.full(2, float(i)), 0, np.array([[0.0, 0], [1, 1], [0, 0], [3, 3]])),
    ],
    ids=["int", "int and nan", "float32", "bool", "str", "rows"],
)
def test_values_become_an_array_of_numpy_in_which_a_value_stands_for_missing_ones(value, missing, wanted):
    result = result_of([DONE, DONE, ODD, DONE], value)
    found = result.to_numpy(missing=missing)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(FunctionError, match=r"^sweep\[2\]: ValueError: odd input$"):
        result.to_numpy()
    np.testing.assert_array_equal(result_of([DONE] * 4, value).to_numpy(), [value(i) for i in range(4)])


def test_an_array_without_any_value_becomes_one_of_what_stands_for_them():
    assert result_of([NOT_RUN, ODD]).to_numpy(missing=np.nan).tolist() == pytest.approx([np.nan] * 2, nan_ok=True)
    assert result_of([]).to_numpy().shape == (0,)


def test_values_can_be_written_to_and_are_fresh_each_time():
    for value in (lambda i: np.zeros(2), lambda i: [np.zeros(2)], lambda i: {"a": i}):
        result = result_of([DONE] * 3, value)
        for found in (result[1], result[0:2][1], [*result][1]):
            found[0] = 5.0
        assert pickle.dumps(result[1]) == pickle.dumps(value(1))


def test_a_value_whose_module_is_missing_is_named_by_its_index(monkeypatch):
    module = ModuleType("passing")
    exec("class Point: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "passing", module)
    values = ArrayValues(3)
    values.put([(0, 3)], pack([[0], module.Point(), [2]]))
    result = ArrayResult("sweep", values, origins=Origins("node7", (), {"passing": "/data/code"}))
    monkeypatch.delitem(sys.modules, "passing")
    for ask in (lambda: result[1], lambda: result[:], lambda: [*result], lambda: result.to_numpy()):
        with pytest.raises(EncodingError) as caught:
            ask()
        if "to_numpy" not in ask.__code__.co_names:
            assert str(caught.value).startswith("the value of sweep[1] cannot be decoded: class passing.Point needs")
            assert "it lay in /data/code on node7" in str(caught.value)
    assert result[0] == [0]


def test_a_result_shows_how_many_elements_have_values():
    assert repr(result_of([DONE] * 1200 + [ODD, NOT_RUN])) == (
        "ArrayResult('sweep', 1,202 elements: 1,200 done, 1 failed, 1 not run)"
    )
    assert repr(result_of([])) == "ArrayResult('sweep', 0 elements: none)"


# -- in the results of a run -------------------------------------------------------------------------------


def results_with(states, state="failed", **told):
    """A run of the functions "a", done, and "b", which failed, and of an array between them."""
    error = FunctionError("'b': ValueError: odd input", "ValueError", "", 1, (1,), "dag.py:odd")
    nowhere = {"attempts": [0] * 3, "ranks": [-1] * 3, "started": [-1.0] * 3, "durations": [0.0] * 3, "costs": [{}] * 3}
    records = RecordTable(ids=["a", "sweep", "b"], states=["done", state, "failed"], **nowhere)
    array = result_of(states)
    return Results(
        PreparedResults(
            dag_id="dag",
            run="run",
            status="failed",
            run_dir=None,
            errors={"b": error},
            records=records,
            arrays={"sweep": array},
            payloads={"a": (0, 1)},
            **told,
        )
    )


@pytest.mark.parametrize("duplicate", [lambda each: each, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_an_array_is_one_id_whose_result_never_raises(duplicate):
    results = duplicate(results_with([DONE, ODD, NOT_RUN]))
    assert [*results] == ["a", "sweep"] and len(results) == 2 and "sweep" in results
    assert results["sweep"][0] == results.get("sweep")[0] == results.values["sweep"][0] == 0.0
    assert outcome(lambda: results["sweep"][1]) == (FunctionError, "sweep[1]: ValueError: odd input")


def test_errors_of_elements_are_beside_those_of_functions():
    results = results_with([DONE, ODD, EVEN, ODD])
    assert [*results.errors] == ["b", ("sweep", 1), ("sweep", 2), ("sweep", 3)] and len(results.errors) == 4
    assert str(results.errors["sweep", 2]) == "sweep[2]: ValueError: even input"
    assert ("sweep", 1) in results.errors and results.errors["b"].kind == "ValueError"
    for key in ("sweep", ("sweep", 0), ("sweep", 9), ("a", 1), "c", ("sweep",)):
        assert key not in results.errors
    assert repr(results.errors).startswith("{'b': FunctionError(")
    assert "sweep[1]: FunctionError" in repr(results.errors) and repr(results.errors).endswith(", ...}")


@pytest.mark.parametrize(("state", "without"), [("failed", "skipped"), ("skipped", "skipped"), ("waiting", "waiting")])
def test_counts_are_those_of_elements(state, without):
    counts = results_with([DONE, DONE, ODD, NOT_RUN, NOT_RUN, NOT_RUN], state).counts()
    wanted = {"done": 3, "failed": 2, "skipped": 0, "waiting": 0}
    wanted[without] += 3
    assert counts == wanted


def test_a_summary_groups_elements_and_functions_that_failed_alike():
    results = results_with([DONE, ODD, ODD, EVEN])
    lines = results.summary().splitlines()
    assert lines[0].startswith("handoff: DAG 'dag' failed: 2 done, 4 failed of 6 calls in")
    assert lines[1:3] == [
        "  failed: 'b' and 2 others (sweep[1], sweep[2]): ValueError at dag.py:odd: odd input",
        "  failed: sweep[3]: ValueError at dag.py:even: even input",
    ]
    assert results.first_failures().startswith("'b': ValueError: odd input; and 2 others (sweep[1], sweep[2])")
    assert "failed: 1 done, 50,001 failed of 50,002 calls in" in results_with([ODD] * 50_000).summary()
    assert results_with([ODD] * 50_000).first_failures().startswith("'b': ValueError: odd input; and 50,000 others")


@pytest.mark.parametrize(("kind", "code"), [("ValueError", 1), ("no-room", 4)])
def test_failed_elements_decide_the_exit_code(kind, code):
    failed = ArrayResult("sweep", ArrayValues(2), [FailedElements([(0, 2)], kind, "why")])
    prepared = PreparedResults(dag_id="dag", run="run", status="failed", run_dir=None, arrays={"sweep": failed})
    assert Results(prepared).exit_code == code
    prepared.arrays = {"sweep": ArrayResult("sweep", ArrayValues(0))}
    assert Results(prepared).exit_code == 0


def test_no_error_is_made_of_a_million_failed_elements_unless_it_is_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(FailedElements, "error", lambda self, key: made.append(key))
    results = results_with([DONE])
    results._arrays["sweep"] = ArrayResult(
        "sweep", ArrayValues(1_000_000), [FailedElements([(0, 1_000_000)], "ValueError", "no", place="dag.py:9")]
    )
    results.summary()
    assert (results.exit_code, results.counts()["failed"], len(results.errors)) == (1, 1_000_001, 1_000_001)
    assert not made
