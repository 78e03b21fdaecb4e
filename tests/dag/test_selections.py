"""Elements and slices of arrays as inputs: their handles, what a plan makes of them, and what is refused."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest

from handoff_mpi import DAG, Argument, ArrayHandle, DAGError, Fixed, Function, Handle
from handoff_mpi.dag import Plan
from handoff_mpi.dag.call_template import build_call
from handoff_mpi.dag.fingerprint import fingerprints
from handoff_mpi.dag.handle import ArrayElement, ArraySlice
from handoff_mpi.dag.selections import Selection, SelectionTable
from handoff_mpi.dag.validation import are_right_at_first_sight
from handoff_mpi.serialization import dumps, loads

XS = ArrayHandle("xs", 10)


def double(x):
    return 2 * x


def told(*args, **kwargs):
    return args, kwargs


def with_array(*args, count=10, **kwargs):
    """A DAG whose function "f" is called with these arguments, behind an array "xs"."""
    dag = DAG("d")
    dag.map(double, range(count), id="xs")
    dag.add_function(Function("f", (), told, args, kwargs))
    return dag


# -- handles -----------------------------------------------------------------------------------------------


def test_an_index_gives_a_handle_of_an_element_and_a_slice_one_of_a_list():
    assert (type(XS[3]), XS[3].id, XS[3].index, XS[-1].index) == (ArrayElement, "xs", 3, 9)
    assert (XS[np.int64(3)].index, XS[np.uint8(4)].index) == (3, 4)
    assert (type(XS[2:5]), len(XS[2:5]), XS[2:5].elements) == (ArraySlice, 3, range(2, 5))
    assert [XS[:].elements, XS[-3:].elements, XS[8:100].elements] == [range(10), range(7, 10), range(8, 10)]
    assert [*XS[::-3].elements] == [9, 6, 3, 0]
    assert [*XS[::-3][1:].elements] == [6, 3, 0]
    assert XS[::-3][-1].index == 0 and XS[2:5][0].index == 2
    assert len(XS[5:2]) == 0
    assert isinstance(XS[3], Handle) and isinstance(XS[1:], Handle)


@pytest.mark.parametrize(
    ("handle", "text"),
    [
        (XS[3], "ArrayElement('xs'[3])"),
        (XS[2:5], "ArraySlice('xs'[2:5])"),
        (XS[1:9:2], "ArraySlice('xs'[1:9:2])"),
        (XS[5:1:-1], "ArraySlice('xs'[5:1:-1])"),
        (XS[::-1], "ArraySlice('xs'[9::-1])"),
    ],
)
def test_a_handle_shows_itself_as_it_is_written(handle, text):
    assert repr(handle) == text
    assert copy.copy(handle) is handle is copy.deepcopy(handle)


BAD_INDICES = {
    "too large": (10, r"there is no element 10 of ArrayHandle\('xs', 10\): it has 10 elements; use an index from -10"),
    "too small": (-11, "there is no element -11"),
    "huge": (10**30, "there is no element 10000"),
    "beyond what text can hold": (10**5000, "there is no element"),
    "a truth value": (True, "with True, which is no whole number; use a whole number"),
    "one of numpy": (np.bool_(True), "which is no whole number"),
    "a float": (1.0, "with 1.0, which is no whole number"),
    "a fraction": (Fraction(1), "which is no whole number"),
    "text": ("3", "with '3', which is no whole number; use a whole number, a slice"),
    "nothing": (None, "with None"),
    "a tuple": ((1, 2), r"with \(1, 2\)"),
    "a list": ([1], r"with \[1\]"),
    "everything": (..., "with Ellipsis"),
    "a mask": (np.ones(10, bool), "cannot index .*, which is no whole number"),
    "a slice of floats": (slice(0.0, 3), "with 0.0, which is no whole number"),
    "a slice of text": (slice("a", None), "with 'a'"),
    "no step": (slice(None, None, 0), "slice of .* with step 0: no element follows another; use a step like 1"),
}


@pytest.mark.parametrize("kind", BAD_INDICES)
def test_what_is_no_index_is_refused_with_a_remedy(kind):
    index, says = BAD_INDICES[kind]
    with pytest.raises(DAGError, match=f"(?s){says}"):
        XS[index]


def test_no_index_fits_an_empty_array():
    with pytest.raises(DAGError, match=r"there is no element 0 of .*: it has 0 elements$"):
        ArrayHandle("xs", 0)[0]
    assert len(ArrayHandle("xs", 0)[:]) == 0


def test_an_index_that_is_not_known_before_the_run_is_refused():
    with pytest.raises(TypeError, match="does not exist until the run"):
        XS[Handle("n")]


@pytest.mark.parametrize("handle", [XS, XS[2:5]])
def test_a_loop_over_values_is_refused_with_a_remedy(handle):
    for use in (iter, list, reversed, lambda values: [*values], lambda values: dict.fromkeys(values)):
        with pytest.raises(TypeError, match=r"cannot iterate over .*: the values .* take \[index\] of it"):
            use(handle)
    for use in (bool, lambda values: 1 in values, lambda values: values + 1, pickle.dumps):
        with pytest.raises(TypeError, match="does not exist until the run"):
            use(handle)


def test_a_function_travels_with_its_handles_of_elements():
    references = [XS[3], XS[1:4], Argument(XS[2:], missing="skip"), Argument(XS[5])]
    function = Function("f", references, told, [{"a": XS[7]}])
    again = loads(dumps(function, {}))
    assert [type(each) for each in again.args] == [ArrayElement, ArraySlice, Argument, Argument]
    assert (again.args[0].index, again.args[1].elements, again.args[1].array_count) == (3, range(1, 4), 10)
    assert (again.args[2].missing, again.args[2].handle.elements) == ("skip", range(2, 10))
    assert (again.args[3].missing, again.args[3].handle.index) == (None, 5)
    assert again.extra_args[0]["a"].index == 7


# -- plans -------------------------------------------------------------------------------------------------


def frozen(dag):
    plan = Plan()
    return plan, plan.add(dag.validate())


def test_elements_have_numbers_behind_those_of_functions():
    dag = with_array(XS[3], [XS[-1], {"k": XS[2:5]}], XS, z=XS[3], w=Argument(XS[0:2], missing="skip"))
    dag.add_function(Function("g", [XS[2:5], Argument(XS[3]), XS[:]], told))
    plan, specs = frozen(dag)
    assert plan.selections.all == [
        Selection(0, 3),
        Selection(0, 9),
        Selection(0, range(2, 5)),
        Selection(0, range(2), True),
    ]
    assert [specs[1].inputs, specs[2].inputs] == [(0,), (0,)]
    assert [specs[1].takes, specs[2].takes] == [(3, 4, 5, 0, 6), (5, 3, 0)]
    assert [spec.keep for spec in specs] == [False, True, True]
    assert [plan.shown_source(number) for number in (0, 3, 5)] == ["'xs'", "xs[3]", "xs[2:5]"]
    values = [value for value, _ in zip("abcde", plan.sources[1], strict=True)]
    _, args, kwargs = build_call(plan.call_templates[1], values, lambda number: told, lambda number: None)
    assert ([*args], kwargs) == (["a", ["b", {"k": "c"}], "d"], {"z": "a", "w": "e"})


def test_a_function_may_come_before_the_array_of_which_it_takes_an_element():
    dag = DAG("d")
    dag.add_function(Function("f", [XS[3], Argument("xs", missing="skip")], told))
    dag.map(double, range(10), id="xs")
    plan, specs = frozen(dag)
    assert plan.selections.all == [Selection(1, 3), Selection(1, range(10), True)]
    assert (specs[0].inputs, specs[0].takes) == ((1,), (2, 3))


def test_all_elements_of_an_array_are_the_array():
    plan, specs = frozen(with_array(XS[:], Argument(XS[0:10])))
    assert (plan.selections.all, specs[1].takes, specs[1].inputs) == ([], None, (0,))


def test_an_array_takes_elements_of_another_one_whole():
    dag = DAG("d")
    xs = dag.map(double, range(10), id="xs")
    dag.map(told, range(3), xs[3], Fixed(xs[2:4]), fixed={"k": xs[5]}, id="ys")
    plan, specs = frozen(dag)
    assert specs[1].takes == (2, 3, 4)
    assert plan.selections.all == [Selection(0, 3), Selection(0, range(2, 4)), Selection(0, 5)]


def test_an_inline_function_takes_an_element():
    dag = DAG("d")
    xs = dag.map(double, range(10), id="xs")
    inline = dag.add_function(Function("i", [xs[3]], told, type="inline"))
    dag.add_function(Function("f", [inline], told))
    plan, specs = frozen(dag)
    assert (plan.selections.all, specs[1].takes) == ([Selection(0, 3)], (2,))


def test_a_selection_has_its_indices_upwards():
    assert Selection(0, 3).indices == range(3, 4)
    assert [*Selection(0, range(9, 0, -3)).indices] == [3, 6, 9]
    assert (SelectionTable({}).get(3), bool(SelectionTable({}))) == (None, False)


# -- what is refused ---------------------------------------------------------------------------------------

WRONG = {
    "another DAG's array": ((ArrayHandle("xs", 20)[3],), "array of 20 elements, and 'xs' has 10; take the handle"),
    "a slice of it": ((ArrayHandle("xs", 20)[3:],), "of an array of 20 elements"),
    "inside a list": (([ArrayHandle("xs", 20)[3]],), "of an array of 20 elements"),
    "inside an Argument": ((Argument(ArrayHandle("xs", 20)[3]),), "of an array of 20 elements"),
    "an unknown array": ((ArrayHandle("xz", 20)[3],), "there is no function 'xz', which 'f' takes"),
    "no array": ((ArrayHandle("g", 20)[3],), r"takes ArrayElement\('g'\[3\]\), and 'g' is no array; take its whole"),
    "missing of an element": ((Argument(XS[3], missing="skip"),), "is for lists of elements, not for .*pass a slice"),
    "missing of a function": ((Argument("g", missing="skip"),), "is for arrays, and 'g' is none; leave it out"),
    "another word": ((Argument(XS, missing="drop"),), "missing is 'skip' or None, not 'drop'"),
    "no word": ((Argument(XS, missing=3),), "missing is 'skip' or None, not 3"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_elements_that_are_not_there_are_refused(kind):
    args, says = WRONG[kind]
    dag = with_array(*args)
    dag.add_function(Function("g", (), told))
    with pytest.raises(DAGError, match=says):
        dag.validate()


def test_they_are_refused_among_args_too():
    dag = with_array()
    dag.add_function(Function("h", [ArrayHandle("xs", 20)[3]], told))
    with pytest.raises(DAGError, match=r"function 'h': it takes ArrayElement\('xs'\[3\]\) of an array of 20 elements"):
        dag.validate()


def test_a_dag_with_elements_is_looked_at_function_by_function():
    assert not are_right_at_first_sight(list(with_array(XS[3])))
    assert not are_right_at_first_sight([*with_array(), Function("g", [XS[3]], told)])
    assert are_right_at_first_sight(list(with_array(XS)))


# -- fingerprints ------------------------------------------------------------------------------------------


def marks_of(values, *args, code=double):
    dag = DAG("d")
    dag.map(code, values, id="xs")
    dag.add_function(Function("f", (), told, args))
    plan = Plan()
    plan.add(dag)  # which encodes the elements
    return fingerprints(dag).of("f")


LISTS = [[0, 1], "b", 2.5, None, (1,), 5, 6, 7, 8, 9]


@pytest.mark.parametrize("taken", [XS[3], XS[2:5], XS[::2], XS[8:3:-1], Argument(XS[2:5], missing="skip")])
@pytest.mark.parametrize("values", [range(10), LISTS, np.arange(10.0), np.ones((10, 3))])
def test_a_function_is_the_same_if_the_elements_that_it_takes_are(taken, values):
    mark = marks_of(values, taken)
    assert mark is not None and mark == marks_of(values, taken)
    handle = taken.handle if type(taken) is Argument else taken
    elements = {handle.index} if type(handle) is ArrayElement else {*handle.elements}
    for index in range(10):
        changed = [*values] if not isinstance(values, np.ndarray) else values.copy()
        changed[index] = -1
        assert (marks_of(changed, taken) == mark) == (index not in elements), index
    assert marks_of(values, taken, code=told) != mark


def test_functions_that_take_other_elements_are_others():
    taken = [XS, XS[3], XS[4], XS[3:4], XS[3:5], XS[4:2:-1]]
    taken += [Argument(XS, missing="skip"), Argument(XS[3:5], missing="skip")]
    marks = [marks_of(range(10), each) for each in taken]
    assert len({*marks}) == len(taken)
