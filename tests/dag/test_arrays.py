"""An array is one function of a DAG: it is declared, refused, frozen and fingerprinted as one, for all its elements."""

from __future__ import annotations

import copy
import pickle
import random
import re
import sys
import types
from dataclasses import fields, replace

import numpy as np
import pytest

from handoff_mpi import (
    DAG,
    Argument,
    ArrayHandle,
    DAGError,
    Fixed,
    Function,
    Handle,
    WindowedHandle,
    collocated,
    task,
)
from handoff_mpi.arrays.inputs import values_of
from handoff_mpi.dag import Plan, build_call, build_element_calls
from handoff_mpi.dag.call_template import ELEMENTS
from handoff_mpi.dag.dry_run import collect_pieces, decode_piece, explain
from handoff_mpi.dag.fingerprint import fingerprints
from handoff_mpi.dag.references import inputs_of
from handoff_mpi.dag.task_spec import TaskSpec
from handoff_mpi.dag.validation import are_right_at_first_sight, find_all_problems
from handoff_mpi.launch.admission import Fit, describe_fit
from handoff_mpi.serialization import PLAIN, decode, decode_code


def told(*args, **kwargs):
    return args, kwargs


def double(value):
    return 2 * value


def add(one, other, *, scale=1):
    return scale * (one + other)


def values_of_array(plan, number, load, inputs):
    """Return what the calls of an array return, put together as a rank does."""
    array = plan.arrays[number]
    code, args, kwargs, positions = build_element_calls(plan.call_templates[number], inputs, *load)
    pieces = [elements.piece(0, array.count) for elements in array.elements]
    columns = [values_of(piece, 0, array.count) for piece in pieces]
    values = []
    for index in range(array.count):
        for place, column in positions:
            args[place] = columns[column][index]
        values.append(code(*args, **kwargs))
    return values


def evaluate(dag):
    """Run a DAG serially through its call templates; return id to value."""
    plan = Plan()
    plan.add(dag.validate())
    load = [decode_code(blob) for blob in plan.codes].__getitem__, lambda number: decode(plan.constants[number])
    done = {}
    for number, id in enumerate(plan.ids):
        inputs = [done[plan.ids[each]] for each, _ in plan.sources[number]]
        if number in plan.arrays:
            done[id] = values_of_array(plan, number, load, inputs)
        else:
            code, args, kwargs = build_call(plan.call_templates[number], inputs, *load)
            done[id] = code(*args, **kwargs)
    return done


# -- declaration -------------------------------------------------------------------------------------------


def test_calls_are_zipped_as_by_the_builtin():
    dag = DAG()
    xs = dag.map(told, range(3), ["a", "b", "c"], np.arange(3.0))
    assert (type(xs), xs.id, len(xs), len(dag)) == (ArrayHandle, "told", 3, 1)
    assert evaluate(dag) == {"told": [((0, "a", 0.0), {}), ((1, "b", 1.0), {}), ((2, "c", 2.0), {})]}


def test_other_arguments_are_the_same_for_all_elements():
    dag = DAG()
    x = dag.add_function(Function("x", (), double, [21]))
    y = dag.add_function(Function("y", (), double, [4]))
    dag.map(told, x, [1, 2], Fixed([x, "b"]), Argument(y), Fixed(range(3)), fixed={"k": (y, 7), "l": Fixed(5)}, id="xs")
    assert inputs_of(dag["xs"]) == ["x", "y"]
    shared = [42, "b"], 8, range(3)
    assert evaluate(dag)["xs"] == [((42, each, *shared), {"k": (8, 7), "l": 5}) for each in (1, 2)]


def test_random_arrays_are_what_plain_calls_are():
    rng = random.Random(3)
    for _ in range(50):
        dag = DAG()
        count = rng.randrange(1, 9)
        x = dag.add_function(Function("x", (), double, [21]))
        kinds = {
            "range": (range(0, 2 * count, 2), lambda index: 2 * index),
            "list": ([str(index) for index in range(count)], str),
            "nested": ([(index, [index]) for index in range(count)], lambda index: (index, [index])),
            "array": (np.arange(count) / 2, lambda index: index / 2),
            "iterator": (iter("abcdefghi"[:count]), "abcdefghi".__getitem__),
            "fixed": (Fixed([1, x]), lambda index: [1, 42]),
            "handle": (x, lambda index: 42),
        }
        chosen = [*rng.sample(list(kinds), rng.randrange(1, 7)), "list"]
        dag.map(told, *[kinds[each][0] for each in chosen], fixed={"k": x}, id="xs")
        expected = [(tuple([kinds[each][1](index) for each in chosen]), {"k": 42}) for index in range(count)]
        assert evaluate(dag)["xs"] == expected


def test_a_function_takes_the_list_of_an_array():
    dag = DAG()
    xs = dag.map(double, [1, 2, 3])
    dag.add_function(Function("sum", [xs], sum))
    dag.add_function(Function("nested", (), told, [{"all": [xs]}]))
    ys = dag.map(add, [1, 2], Fixed(xs), fixed={"scale": xs}, id="ys")
    assert [inputs_of(dag[id]) for id in ("sum", "nested", ys)] == [["double"]] * 3
    del dag.functions[-1]
    done = evaluate(dag)
    assert (done["sum"], done["nested"]) == (12, (({"all": [[2, 4, 6]]},), {}))


def test_a_task_is_mapped_with_its_options():
    @task(cost={"cpu": 2}, max_retries=3, id="one")
    def scaled(value, *, by):
        return value * by

    with DAG() as dag:
        xs = scaled.map(range(3), fixed={"by": 10}, id="xs", max_retries=5)
        dag.map(scaled, [1], fixed={"by": 2}, chunk=4)
    assert (dag[xs].cost, dag[xs].max_retries, dag["one"].max_retries, dag["one"].chunk) == ({"cpu": 2}, 5, 3, 4)
    assert evaluate(dag) == {"xs": [0, 10, 20], "one": [2]}


class Model:
    def __init__(self, rate):
        self.rate = rate

    @task(cost={"cpu": 2})
    def score(self, value):
        return self.rate * value

    def plain(self, value):
        return self.rate + value


def test_methods_are_mapped():
    with DAG() as dag:
        dag.map(Model(10).score, [1, 2])
        Model.score.map(Fixed(Model(20)), [1, 2], id="by class")
        dag.map(Model(30).plain, [1, 2])
    assert evaluate(dag) == {"score": [10, 20], "by class": [20, 40], "plain": [31, 32]}
    assert [each.cost for each in dag] == [{"cpu": 2}, {"cpu": 2}, None]


def test_a_task_that_is_mapped_outside_a_dag_is_called_for_each_element():
    @task(cost={"cpu": 2})
    def scaled(value, other, *, by):
        return value * by + other

    assert scaled.map(range(3), Fixed(1), fixed={"by": Fixed(10)}, chunk=7) == [1, 11, 21]
    assert scaled.map(iter([2]), [5], fixed={"by": 1}) == [7]
    assert scaled.map([], [], fixed={"by": 1}) == []
    with pytest.raises(DAGError, match=r"^map\(scaled\): the iterables have different lengths"):
        scaled.map(range(3), [1])
    with pytest.raises(DAGError, match="did you mean chunk"):
        scaled.map(range(3), chunks=2)


def test_names_are_those_of_the_functions_and_are_free():
    dag = DAG()
    handles = [dag.map(each, [1]) for each in (double, double, lambda value: value, callable_object)]
    assert [each.id for each in handles] == ["double", "double-2", "<lambda>", "_Callable"]


class _Callable:
    def __call__(self, value):
        return value


callable_object = _Callable()


# -- refusals ----------------------------------------------------------------------------------------------

XS, X = ArrayHandle("xs", 3), Handle("x")
REFUSED = {
    "no iterable": (lambda dag: dag.map(double), "at least one iterable behind the function"),
    "no function": (lambda dag: dag.map([1, 2], double), r"function first.*\[1, 2\] cannot be called"),
    "a handle as function": (lambda dag: dag.map(X, [1]), "function first"),
    "a number": (lambda dag: dag.map(add, [1], 5), r"argument 2 is 5, which is not iterable; pass Fixed"),
    "a number of numpy": (lambda dag: dag.map(add, [1], np.float64(5)), "argument 2 .* not iterable; pass Fixed"),
    "a class": (lambda dag: dag.map(add, [1], int), "argument 2 .* not iterable"),
    "fixed that names nothing": (
        lambda dag: dag.map(add, [1], fixed=[1]),
        r"^map\(add\): fixed is \[1\], and must map names of parameters to values; write fixed=\{'name': value\}$",
    ),
    "fixed by numbers": (lambda dag: dag.map(add, [1], fixed={1: 2}), "fixed is {1: 2}, and must map names"),
    "too many iterables": (
        lambda dag: dag.map(double, range(9), range(9)),
        r"^map\(double\): double\(\) takes 1 positional argument but 2 were given$",
    ),
    "too few": (
        lambda dag: dag.map(add, range(3)),
        r"add\(\) missing 1 required positional argument: 'other'; give an iterable for it, or pass it by name",
    ),
    "a misspelt parameter": (
        lambda dag: dag.map(add, range(3), Fixed(1), fixed={"scales": 2}),
        "got an unexpected keyword argument 'scales'",
    ),
    "lengths": (
        lambda dag: dag.map(told, range(1000), Fixed(1), [2], range(7)),
        r"argument 1 has 1,000, argument 3 has 1, argument 4 has 7; give iterables of one length",
    ),
    "an unknown value": (
        lambda dag: dag.map(double, X),
        r"no argument has elements: Handle\('x'\) stands for a value that is not known .*; .*range\(count\)",
    ),
    "fixed alone": (lambda dag: dag.map(double, Fixed([1])), r"no argument has elements; give .*range\(count\)"),
    "an array of another length": (lambda dag: dag.map(add, XS, [1, 2]), "argument 1 has 3, argument 2 has 2; give"),
    "a slice": (lambda dag: dag.map(add, XS, XS[1:]), "argument 1 has 3, argument 2 has 2; give iterables of one"),
    "a codec of an element": (
        lambda dag: dag.map(double, (1, Argument(X, double))),
        "element 1 of argument 1 is Argument.*and an element has no codec; pass a handle without serialize",
    ),
    "a misspelt option": (
        lambda dag: dag.map(double, [1], costs={}),
        r"^map\(double\) got .* costs; did you mean cost\?",
    ),
    "a word of others": (lambda dag: dag.map(double, [1], chunksize=3), r"chunksize; did you mean chunk\?"),
    "kwargs": (lambda dag: dag.map(double, [1], kwargs={}), r"kwargs; did you mean fixed\?"),
    "a walltime": (lambda dag: dag.map(double, [1], walltime=3), r"walltime; did you mean timeout\?"),
    "window": (lambda dag: dag.map(double, [1], window=0), "window must be a whole number from 1, not 0"),
    "inline": (lambda dag: dag.map(double, [1], type="inline"), "cannot be inline.*leave out type="),
    "an inline task": (lambda dag: dag.map(task(double, type="inline"), [1]), "cannot be inline"),
    "as list": (lambda dag: dag.map(task(double, argument_inclusion="as_list"), [1]), "give lists of lists"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_where_it_is_declared(kind):
    declare, says = REFUSED[kind]
    dag = DAG()
    with pytest.raises(DAGError, match=f"(?s){says}") as caught:
        declare(dag)
    assert str(caught.value).startswith("map") and len(dag) == 0


WRONG = {
    "cost by element": ({"cost": [{"cpu": 1}, {"cpu": 2}]}, "cost is one for all .*make an array for each cost"),
    "cost by function": ({"cost": lambda value: {"cpu": value}}, "cost is one for all"),
    "priorities": ({"priority": [1, 2]}, "priority is one for all .*make an array for each priority"),
    "time-outs": ({"timeout": np.ones(2)}, "timeout is one for all"),
    "nodes": ({"node": [0, 1]}, "node is one for all"),
    "versions": ({"version": ("1", "2")}, "version is one for all"),
    "retries": ({"max_retries": double}, "max_retries is one for all"),
    "directories": ({"cwd": ["a", "b"]}, "cwd is one for all"),
    "variables": ({"env": [{"A": "1"}]}, "env is one for all"),
    "chunks": ({"chunk": [1, 2]}, "chunk is one for all"),
    "chunk": ({"chunk": 0}, "chunk must be a whole number from 1"),
    "chunk of a share": ({"chunk": 0.5}, "chunk must be a whole number from 1"),
    "share": ({"max_failures": 1.5}, r"max_failures must be a whole number, a share from 0\.0 to 1\.0"),
    "failures": ({"max_failures": -1}, "max_failures must be"),
    "truth": ({"max_failures": True}, "max_failures must be"),
    "collocated": ({"node": collocated("x")}, "runs on many ranks, so it cannot be collocated; name a host"),
    "amount": ({"cost": {"cpu": "many"}}, "is not an amount"),
    "time-out": ({"timeout": -1}, "timeout must be a positive number"),
    "id": ({"id": ()}, None),
    "missing": ({"fixed": {"k": Handle("gone")}}, "there is no function 'gone'"),
    "itself": ({"fixed": {"k": Handle("xs")}}, "there is a cycle: 'xs' -> 'xs'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_options_are_refused_before_anything_starts(kind):
    options, says = WRONG[kind]
    dag = DAG()
    dag.add_function(Function("x", (), abs, [1]))
    dag.map(told, [1, 2], **{"id": "xs", **options})
    if says is None:
        dag.validate()
        return
    with pytest.raises(DAGError, match=says) as caught:
        dag.validate()
    assert len(caught.value.problems) == 1


def test_a_wrong_option_hides_no_other():
    dag = DAG()
    dag.map(told, [1, 2], cost=[1, 2], timeout=-1, chunk=0, env={1: "a"})
    with pytest.raises(DAGError) as caught:
        dag.validate()
    assert len(caught.value.problems) == 4


def test_nothing_is_collocated_with_an_array():
    dag = DAG()
    dag.map(double, [1], id="xs")
    dag.add_function(Function("near", (), abs, [1], node=collocated("xs")))
    with pytest.raises(DAGError, match="'near' is collocated with 'xs'; an array runs on many ranks"):
        dag.validate()


def test_an_id_does_not_stand_for_a_function_and_for_an_element():
    dag = DAG()
    dag.map(double, range(5), id="xs")
    for id in ("xs", 5), ("xs", "3"), ("xs", -1), ("ys", 1), ("xs", 1, 2):
        dag.add_function(Function(id, (), double, [1]))
    dag.validate()
    dag.add_function(Function(("xs", 4), (), double, [1]))
    with pytest.raises(
        DAGError, match=r"id \('xs', 4\) of a function also stands for element 4 of the array 'xs'; give"
    ):
        dag.validate()


def test_a_generator_function_is_refused_once():
    dag = DAG()
    dag.map(generate, range(3), id="generator")
    with pytest.raises(DAGError, match=r"function 'generator': generate\(\) is a generator function") as caught:
        dag.validate()
    assert len(caught.value.problems) == 1


def generate(value):
    yield value


ODDITIES = {
    "chunk": [None, 5, 0, -1, 1.0, True, [1], double],
    "max_failures": [None, 0, 7, 0.5, 1.0, 2.0, -0.1, "1", double],
    "cost": [None, {"cpu": 2}, [{"cpu": 2}], double],
    "node": [None, 1, "host", collocated("f"), [0]],
    "timeout": [None, 5, 0, (1, 2)],
    "kwargs": [{}, {"k": Handle("f")}, {"k": Handle("gone")}, [1]],
    "version": ["", "2", ["1"]],
}


def test_arrays_that_are_right_at_first_sight_are_right():
    rng = random.Random(2)
    quick = 0
    for _ in range(1_000):
        dag = DAG()
        dag.add_function(Function("f", (), abs, [1]))
        dag.map(told, [1, 2], id="xs")
        for _ in range(rng.randrange(3)):
            name = rng.choice(list(ODDITIES))
            setattr(dag["xs"], name, rng.choice(ODDITIES[name]))
        if are_right_at_first_sight(dag.functions):
            quick += 1
            assert find_all_problems(dag.functions, {each.id: each for each in dag}) == []
    assert 200 < quick < 900


# -- a plan ------------------------------------------------------------------------------------------------


def test_an_array_is_frozen_as_one_task():
    dag = DAG()
    x = dag.add_function(Function("x", (), double, [2]))
    dag.add_function(Function("f", (), double, [3]))
    dag.map(double, range(1_000_000), id="xs", cost={"cpu": 2}, chunk=np.int64(50), max_failures=0.001, timeout=9)
    dag.map(add, x, range(10), id="ys", max_failures=np.int64(3))
    dag.map(double, [], id="none")
    plan = Plan()
    specs = plan.add(dag.validate())
    assert list(plan.arrays) == [2, 3, 4]
    assert [spec.array and (spec.array.count, spec.array.chunk, spec.array.max_failures) for spec in specs] == [
        None,
        None,
        (1_000_000, 50, 1000),
        (10, None, 3),
        (0, None, None),
    ]
    assert {type(each) for each in (specs[2].array.chunk, specs[3].array.max_failures)} == {int}
    assert [specs[number].inputs for number in (2, 3, 4)] == [(), (0,), ()]
    assert specs[2].timeout_s == 9 and [template[1] for template in plan.call_templates[2:]] == [ELEMENTS] * 3
    assert plan.call_templates[2][2] == (PLAIN, 1) and type(plan.call_templates[3][2][1]) is tuple
    # Functions with one number are taken to last alike: arrays have their own.
    assert specs[0].code == specs[1].code and len({spec.code for spec in specs}) == 4
    assert [plan.code_names[spec.code] for spec in specs] == ["double", "double", "double", "add", "double"]
    assert len(set(plan.codes)) == 2


def test_a_large_value_of_all_elements_is_sent_once():
    table = np.ones(10_000)
    dag = DAG()
    dag.map(add, [1, 2], Fixed(table), fixed={"scale": table}, id="xs")
    plan = Plan()
    plan.add(dag)
    assert len(plan.constants) == 1 and plan.call_templates[0][3] == (0,)
    assert [float(each.sum()) for each in evaluate(dag)["xs"]] == [20_000, 30_000]


def test_elements_that_cannot_be_sent_are_named_with_other_culprits():
    dag = DAG()
    dag.map(double, [1, sys._getframe(), 3], id="frames")
    dag.map(add, [1], Fixed(sys._getframe()), id="shared")
    with pytest.raises(DAGError) as caught:
        Plan().add(dag)
    frames, shared = sorted(caught.value.problems)
    assert frames.startswith("function 'frames': ") and "element 1" in frames and "argument 1" in frames
    assert "function 'shared': cannot be sent" in shared and "inside argument 2 of 'shared'" in shared


def test_of_many_elements_that_cannot_be_sent_some_are_named():
    dag = DAG()
    dag.map(double, [sys._getframe()] * 1000)
    dag.map(double, [[Handle("x")], 2], id="deep")
    with pytest.raises(DAGError) as caught:
        Plan().add(dag)
    *named, rest, deep = caught.value.problems
    assert len(named) == 3 and rest == "function 'double': and 997 more elements of argument 1"
    assert "element 0 of argument 1" in deep and "make it an element, in an iterable of its own" in deep


def test_an_array_with_a_wide_plan_beside_it_shares_no_facts():
    dag = DAG()
    for number in range(5):
        dag.add_function(Function(number, (), double, [number]))
    dag.map(double, [1], id="xs")
    specs = Plan().add(dag)
    assert len({id(spec) for spec in specs[:5]}) == 1 and specs[5].array.count == 1 and specs[0].array is None


def test_an_array_travels_and_is_copied_with_its_elements():
    dag = DAG("d")
    xs = dag.map(double, [1, 2], id="xs", chunk=3)
    dag.map(add, [1], Fixed(xs), id="ys")
    for again in (pickle.loads(pickle.dumps(dag)), copy.deepcopy(dag)):
        assert [len(again["xs"]), again["xs"].chunk] == [2, 3]
        assert type(again["ys"].extra_args[1]) is ArrayHandle and len(again["ys"].extra_args[1]) == 1 + 1
    assert copy.copy(dag["xs"]).elements is dag["xs"].elements


# -- the dry run -------------------------------------------------------------------------------------------


@pytest.fixture
def made_up():
    """A class of a module that no process imports by now."""
    module = types.ModuleType("made_up")
    exec("class Thing:\n  def __init__(self, a): self.a = a", vars(module))
    sys.modules["made_up"] = module
    yield module.Thing
    del sys.modules["made_up"]


def faults_elsewhere(dag, name):
    """Return the faults that a process finds which has no module ``name``."""

    def errors_of(pieces):
        found = {}
        for number, piece in enumerate(pieces):
            try:
                decode_piece(piece)
            except Exception as error:
                found[number] = str(error)
        return found

    plan = Plan()
    plan.add(dag.validate())
    pieces = collect_pieces(plan)
    module = sys.modules.pop(name)
    errors = errors_of(pieces.pieces)
    sys.modules[name] = module

    def elsewhere(parts):
        sys.modules.pop(name)
        try:
            return errors_of(parts)
        finally:
            sys.modules[name] = module

    return explain(dag, plan, pieces, errors, elsewhere).lines()


def test_the_first_element_and_what_all_share_are_decoded_before_the_start(made_up):
    dag = DAG()
    x = dag.add_function(Function("x", (), double, [2]))
    dag.map(add, [1, 2], [[made_up(1)], made_up(2)], id="elements")
    dag.map(add, [1, made_up(2)], [3, 4], id="later elements")
    dag.map(add, [1], Fixed((5, made_up(6))), id="shared")
    dag.map(add, [1], x, fixed={"scale": made_up(x)}, id="filled")
    dag.map(told, [], id="none")
    elements, filled, shared = sorted(faults_elsewhere(dag, "made_up"))
    why = "cannot be sent: a value cannot be decoded: ModuleNotFoundError: No module named 'made_up'"
    assert (
        elements == f"function 'elements': {why}, inside the class of item 0 of element 0 of argument 2 of 'elements'"
    )
    assert filled.startswith("function 'filled': ") and filled.endswith("the class of argument scale of 'filled'")
    assert shared == f"function 'shared': {why}, inside the class of item 1 of argument 2 of 'shared'"


# -- fingerprints ------------------------------------------------------------------------------------------


def mark(*iterables, **options):
    dag = DAG()
    dag.add_function(Function("x", (), abs, [1]))
    dag.map(options.pop("code", max), *iterables, id=options.pop("id", "xs"), **options)
    found = fingerprints(dag)
    assert not found.notes
    return found.of(dag.functions[-1].id)


def test_elements_and_their_number_are_no_part_of_a_fingerprint():
    same = mark(range(3))
    assert same == mark([5, 6]) == mark(np.ones(7), chunk=2, max_failures=1, cost={"cpu": 2})
    others = [
        mark(range(3), range(3)),
        mark(range(3), Fixed(1)),
        mark(Fixed(1), range(3)),
        mark(range(3), Fixed(2)),
        mark(range(3), fixed={"k": 1}),
        mark(range(3), X),
        mark(range(3), version="2"),
        mark(range(3), code=min),
        mark(range(3), id="ys"),
    ]
    assert len({same, *others}) == 1 + len(others)


# -- check ---------------------------------------------------------------------------------------------------


def test_a_check_counts_the_elements():
    dag = DAG("d")
    dag.add_function(Function("f", (), double, [3]))
    assert describe_fit(dag, [Fit(1, {}, [0])]).splitlines()[0] == "DAG 'd': 1 function is valid"
    dag.map(double, range(1000))
    dag.map(double, range(5))
    (said, *_) = describe_fit(dag, [Fit(3, {}, [0])]).splitlines()
    assert said == "DAG 'd': 3 functions are valid, 2 of them arrays of 1,005 elements in all"


# -- handles -----------------------------------------------------------------------------------------------


def test_an_array_s_handle_has_a_length_and_is_no_value():
    assert (len(XS), XS.id, repr(XS)) == (3, "xs", "ArrayHandle('xs', 3)")
    assert copy.copy(XS) is copy.deepcopy(XS) is XS and XS == XS and Handle("xs") != XS and isinstance(XS, Handle)
    with pytest.raises(TypeError, match=r"cannot iterate over ArrayHandle\('xs', 3\).*pass it whole"):
        list(XS)
    for use in (
        bool,
        lambda xs: xs + 1,
        pickle.dumps,
        lambda xs: 1 in xs,
        reversed,
    ):
        with pytest.raises(TypeError, match=r"do(es)? not exist until the run"):
            use(XS)
    with pytest.raises(AttributeError, match="handles do not change"):
        XS.id = "y"


#: What is refused of a windowed array, by what the message says of it.
OF_A_NUMBER = {
    "take the length of {}": len,
    "take an element of {}": lambda xs: xs[0],
    "take a slice of {}": lambda xs: xs[:3],
    "iterate over {}": list,
    "iterate over {} from its end": reversed,
    "look into {} with `in`": lambda xs: 1 in xs,
}


@pytest.mark.parametrize("what", OF_A_NUMBER)
def test_a_windowed_array_has_no_length_and_no_elements(what):
    xs = DAG().map(double, iter([1]), window=5, id="xs")
    with pytest.raises(TypeError) as caught:
        OF_A_NUMBER[what](xs)
    said, why, remedy = re.split("[:;] ", str(caught.value))
    assert (said, why) == (f"cannot {what.format(xs)}", "nobody knows before the run how many elements come (window=)")
    assert re.fullmatch(r"map over a list or a range without window=, or .+ results\['xs'\] after the run", remedy)


def test_a_windowed_array_s_handle_is_a_handle():
    dag = DAG()
    xs = dag.map(double, iter([1]), window=5, id="xs")
    assert type(xs) is WindowedHandle and isinstance(xs, Handle) and xs.id == "xs" and dag[xs].id == "xs"
    assert copy.copy(xs) is copy.deepcopy(xs) is xs and xs == xs and Handle("xs") != xs
    dag.add_function(Function("report", (), told, [[xs]], {"k": Argument(xs)}))
    again = pickle.loads(pickle.dumps(dag["report"]))
    assert type(again.extra_args[0][0]) is WindowedHandle and again.kwargs["k"].id == "xs"
    with pytest.raises(DAGError, match=r"'report' takes the list of the values of 'xs', an array with a window"):
        dag.validate()
    for use in (bool, lambda xs: xs + 1, pickle.dumps, lambda xs: xs.mean):
        with pytest.raises((TypeError, AttributeError), match=r"do(es)? not exist until the run"):
            use(xs)


def test_a_dag_with_a_windowed_array_has_the_fingerprints_that_it_had():
    marks = []
    for handle in (Handle("xs"), WindowedHandle("xs", "xs", 5)):
        dag = DAG("d")
        dag.add_function(Function("xs", (), double, [21]))
        dag.add_function(Function("y", (), told, [[handle]]))
        marks.append(fingerprints(dag).of("y"))
    assert marks[0] == marks[1] is not None


def test_a_spec_with_another_array_has_all_else_in_common():
    given = {each.name: f"any {each.name}" for each in fields(TaskSpec)}
    spec = TaskSpec(**given)
    assert spec.with_array("array", "code", keep=True) == replace(spec, array="array", code="code", keep=True)
