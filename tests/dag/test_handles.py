"""A handle gets its value wherever pickle meets it in an argument; it is refused elsewhere, and is no value itself."""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import functools
import math
import operator
import os
import pickle
import sys
import types
from unittest import mock

import cloudpickle
import numpy as np
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Argument, DAGError, Function, Handle, task
from handoff_mpi.dag import Plan
from handoff_mpi.dag.fingerprint import fingerprints
from handoff_mpi.dag.references import ReferenceFinder, inputs_of
from tests.dag.test_plan import evaluate

Pair = collections.namedtuple("Pair", "a b")


@dataclasses.dataclass
class Box:
    a: object
    late: object = dataclasses.field(init=False, default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: object


class MyList(list):
    pass


class MyDict(dict):
    pass


class Node:
    def __init__(self, value):
        self.value = value
        self.me = self

    def run(self):
        return self.value


def identity(*args, **kwargs):
    return args, kwargs


def late(value):
    box = Box(0)
    box.late = [value]
    return box


def objects(*values):
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


#: What holds a value, by how it is made of it.
HOLDERS = {
    "namedtuple": lambda x: Pair(x, 2),
    "dataclass": Box,
    "field that init does not take": late,
    "frozen dataclass with slots": Frozen,
    "set": lambda x: {x},
    "frozenset": lambda x: frozenset([x, 2]),
    "deque": lambda x: collections.deque([x, 2], maxlen=3),
    "OrderedDict": lambda x: collections.OrderedDict(a=x),
    "defaultdict": lambda x: collections.defaultdict(list, a=x),
    "Counter": lambda x: collections.Counter({x: 3}),
    "ChainMap": lambda x: collections.ChainMap({"a": x}, {"b": 1}),
    "list of a class of one's own": lambda x: MyList([x]),
    "dict of a class of one's own": lambda x: MyDict(a=x),
    "key": lambda x: {x: 1, (x, 2): 2},
    "array of objects": lambda x: objects(x, 2),
    "made array": lambda x: np.array([[x, 1]], dtype=object),
    "slice": lambda x: slice(x, 5),
    "namespace": lambda x: types.SimpleNamespace(a=x),
    "depth": lambda x: {"a": [({"b": (x, [Box(x)])},)]},
}


def with_handle(make):
    """The DAG of ``x``, which is 1, and of ``y``, which gives back what ``make`` makes of its handle."""
    dag = DAG("d")
    x = dag.add_function(Function("x", (), operator.pos, [1]))
    dag.add_function(Function("y", (), identity, [make(x)], {"k": make(x)}))
    return dag


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_handle_gets_its_value_in(kind):
    dag = with_handle(HOLDERS[kind])
    assert inputs_of(dag["y"]) == ["x"]
    (value,), named = evaluate(dag)["y"]
    expected = HOLDERS[kind](1)
    assert type(value) is type(expected)
    assert repr(value) == repr(expected) == repr(named["k"])
    if isinstance(value, collections.deque):
        assert value.maxlen == 3
    mark = fingerprints(dag).of("y")
    assert mark is not None
    assert mark == fingerprints(with_handle(HOLDERS[kind])).of("y")


def test_what_refers_to_itself_gets_values_too():
    def make(x):
        ring = [x]
        ring.append(ring)
        return [ring, Node(x)]

    (ring, node) = evaluate(with_handle(make))["y"][0][0]
    assert ring[0] == 1 and ring[1] is ring
    assert node.value == 1 and node.me is node


def test_values_are_shared_where_handles_were():
    def make(x):
        return [[x], Box(x)]

    dag = DAG()
    x = dag.add_function(Function("x", (), list, [[1]]))
    dag.add_function(Function("y", [x], identity, [make(x)]))
    value, ([same], box) = evaluate(dag)["y"][0]
    assert value is same is box.a


def test_arguments_with_codecs_and_inline_functions_get_values_in_constants():
    dag = DAG()
    x = dag.add_function(Function("x", (), operator.pos, [2]))
    i = dag.add_function(Function("i", (), identity, [Box(x)], type="inline"))
    j = dag.add_function(Function("j", [i], identity, type="inline"))
    dag.add_function(Function("y", (), identity, [{"i": i, "j": (j,)}]))
    dag.add_function(Function("z", (), identity, [[Argument(x, None, operator.neg)]]))
    plan = Plan()
    plan.add(dag.validate())
    (value,), _ = evaluate_of(dag, "y")
    assert repr(value) == "{'i': ((Box(a=2, late=None),), {}), 'j': (((((Box(a=2, late=None),), {}),), {}),)}"
    number = plan.number_of["z"]
    assert plan.sources[number][0][1] is not None, "the codec is part of the input"


def evaluate_of(dag, id):
    some = DAG()
    for function in dag:
        if function.id != "z":
            some.add_function(function)
    return evaluate(some)[id]


def test_large_arrays_beside_handles_are_sent_once_and_others_travel_in_the_message():
    big, small = np.ones(10_000), np.ones(3_000)
    dag = DAG()
    x = dag.add_function(Function("x", (), operator.pos, [1]))
    for number in range(3):
        dag.add_function(Function(number, (), identity, [[x, big], small]))
    plan = Plan()
    plan.add(dag)
    assert len(plan.constants) == 1
    assert all(pickle.dumps(call_template) for call_template in plan.call_templates)
    (pair, other), _ = evaluate(dag)[0]
    assert pair[1].sum() == 10_000 and other.sum() == 3_000


def test_constants_of_any_size_reach_the_function():
    dag = DAG()
    for number, size in enumerate((1_000, 3_000, 5_000)):
        dag.add_function(Function(number, (), np.sum, [np.ones(size)]))
    results = handoff.execute_local(dag)
    assert [results[number] for number in range(3)] == [1_000, 3_000, 5_000]


# -- where no value can be put --------------------------------------------------------------------------


def closure(x):
    return lambda: x


def default(x):
    def code(y=x):
        return y

    return code


def keyword_default(x):
    def code(*, y=x):
        return y

    return code


def attribute(x):
    def code():
        return 1

    code.x = [x]
    return code


def class_attribute(x):
    class Local:
        held = x

    return lambda: Local.held


def through_a_helper(x):
    def helper():
        return x

    return lambda: helper()


#: Code that holds a handle, and what the refusal says of the place.
CODES = {
    "closure": (closure, "closure variable 'x' of <lambda>()"),
    "default": (default, "a default of code()"),
    "keyword default": (keyword_default, "the default of 'y' of code()"),
    "attribute": (attribute, "attribute 'x' of code()[0]"),
    "class attribute": (class_attribute, "attribute 'held' of class Local"),
    "helper": (through_a_helper, "closure variable 'helper' of <lambda>(), closure variable 'x' of helper()"),
    "bound method": (lambda x: Node([x]).run, ".value[0]"),
    "partial": (lambda x: functools.partial(identity, x), "(partial)[0]"),
    "argument": (lambda x: closure(Argument("x")), "closure variable 'x' of <lambda>()"),
}


@pytest.mark.parametrize("kind", CODES)
def test_a_handle_in_code_is_refused_with_its_place(kind):
    make, place = CODES[kind]
    dag = DAG()
    x = dag.add_function(Function("x", (), operator.pos, [1]))
    dag.add_function(Function("y", (), make(x)))
    dag.add_function(Function("z", (), identity, [x], {"k": [closure(x)]}))
    with pytest.raises(DAGError) as caught:
        handoff.execute_local(dag)
    lines = caught.value.problems
    assert len(lines) == 2, lines
    assert lines[0].startswith("function 'y': its code")
    assert place in lines[0]
    assert lines[1].startswith("function 'z': kwargs['k'][0], closure variable 'x' of <lambda>() holds Handle('x')")
    assert all("pass it as an argument of its own" in line for line in lines)


def test_a_handle_in_a_global_is_refused_in_what_is_imported_as_well(monkeypatch):
    source = "def reads(): return held\ndef nested(): return (lambda: held)()\ndef reads_attribute(x): return x.held\n"
    module = types.ModuleType("handles_in_globals")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "handles_in_globals.py", "exec"), vars(module))
    dag = DAG()
    module.held = dag.add_function(Function("x", (), operator.pos, [1]))
    for name in ("reads", "nested", "reads_attribute"):
        dag.add_function(Function(name, (), getattr(module, name), [1]))
    with pytest.raises(DAGError) as caught:
        Plan().add(dag)
    assert [line.split(": ")[0] for line in caught.value.problems] == ["function 'reads'", "function 'nested'"]
    assert "global 'held' of reads() holds Handle('x')" in caught.value.problems[0]


def test_a_generator_is_refused_with_a_remedy():
    dag = DAG()
    x = dag.add_function(Function("x", (), operator.pos, [1]))
    dag.add_function(Function("y", (), list, [(each for each in [x])]))
    with pytest.raises(DAGError, match=r"cannot pickle 'generator' object.*; pass a list of its items"):
        Plan().add(dag)


class Unhashable(type):
    """Its classes compare, and so cannot be hashed."""

    def __eq__(cls, other):
        return cls is other

    __hash__ = None


@pytest.mark.parametrize("is_nested", [False, True])
def test_constants_of_a_class_that_cannot_be_hashed_are_refused_in_a_line(is_nested):
    constant = Unhashable("Odd", (), {})()
    dag = with_handle(lambda x: [Box(constant), x] if is_nested else constant)
    with pytest.raises(DAGError, match=r"function 'y'.*cannot be hashed") as caught:
        handoff.execute_local(dag)
    assert len(caught.value.problems) == 1 and "\n" not in caught.value.problems[0]


def test_a_class_whose_module_is_not_a_name_holds_handles_like_another():
    class Odd(Box):
        __module__ = ["odd"]

    assert [each.id for each in ReferenceFinder().find([[Odd(Handle("x"))]])] in (["x"], [])
    dag = with_handle(lambda x: [Odd(x)])
    with pytest.raises(DAGError) as caught:
        handoff.execute_local(dag)
    assert "\n" not in caught.value.problems[0]


def test_constants_nested_5000_deep_are_refused_in_a_line():
    deep = []
    for _ in range(5_000):
        deep = [deep]
    dag = with_handle(lambda x: [x, deep]).validate()
    with pytest.raises(DAGError, match="function 'y'") as caught:
        Plan().add(dag)
    assert "\n" not in caught.value.problems[0]


def test_tuples_that_are_shared_are_looked_at_once():
    shared = (1,)
    for _ in range(60):
        shared = (shared,) * 2
    dag = with_handle(lambda x: [shared, x]).validate()
    assert fingerprints(dag).of("y") is not None
    plan = Plan()
    plan.add(dag)
    assert inputs_of(dag["y"]) == ["x"] and len(pickle.dumps(plan.specs)) < 10_000


def test_a_dag_travels_with_its_handles():
    dag = with_handle(lambda x: [x, Box(x)])
    dag.add_function(Function("w", [Handle("x"), Argument("y")], identity))
    for again in (pickle.loads(cloudpickle.dumps(dag)), copy.deepcopy(dag)):
        assert [inputs_of(function) for function in again] == [[], ["x"], ["x", "y"]]
        assert again["x"] is again.functions[0]


def test_objects_are_looked_at_once_for_all_functions_that_take_them():
    finder = ReferenceFinder()
    box = Box(Handle("x"))
    assert [each.id for each in finder.find([box])] == ["x"]
    box.a = 1
    assert [each.id for each in finder.find([box])] == ["x"]


# -- a handle is no value -------------------------------------------------------------------------------

H = Handle("x")
MISUSES = {
    "truth": lambda: bool(H),
    "if": lambda: 1 if H else 2,
    "not": lambda: not H,
    "and": lambda: H and 1,
    "len": lambda: len(H),
    "index": lambda: H[0],
    "store": lambda: operator.setitem(H, 0, 1),
    "delete": lambda: operator.delitem(H, 0),
    "iterate": lambda: list(H),
    "unpack": lambda: (lambda a, b: 0)(*H),
    "next": lambda: next(H),
    "reversed": lambda: reversed(H),
    "in": lambda: 1 in H,
    "add": lambda: H + 1,
    "radd": lambda: 1 + H,
    "sum": lambda: sum([H, H]),
    "iadd": lambda: operator.iadd(H, 1),
    "list add": lambda: operator.iadd([], H),
    "pow": lambda: pow(H, 2, 3),
    "divmod": lambda: divmod(7, H),
    "matmul": lambda: H @ H,
    "neg": lambda: -H,
    "invert": lambda: ~H,
    "abs": lambda: abs(H),
    "round": lambda: round(H),
    "floor": lambda: math.floor(H),
    "sqrt": lambda: math.sqrt(H),
    "less": lambda: H < 1,
    "more": lambda: H < 1,
    "sort": lambda: sorted([H, Handle("y")]),
    "max": lambda: max(H, H),
    "equal": lambda: H == 1,
    "equal reflected": lambda: H == 1,
    "unequal": lambda: H != "x",
    "equal to None": lambda: H == None,  # noqa: E711
    "in a list": lambda: 1 in [H],
    "call": lambda: H(),
    "int": lambda: int(H),
    "float": lambda: float(H),
    "complex": lambda: complex(H),
    "range": lambda: range(H),
    "list index": lambda: [1, 2][H],
    "bytes": lambda: bytes(H),
    "path": lambda: os.fspath(H),
    "format": lambda: f"{H:.2f}",
    "with": lambda: operator.methodcaller("__enter__")(H),
    "await": lambda: asyncio.run(_wait_for(H)),
    "ufunc": lambda: np.add(H, 1),
    "array operator": lambda: np.ones(2) * H,
    "numpy scalar": lambda: np.float64(1) + H,
    "array equal": lambda: np.ones(2) == H,
    "array": lambda: np.array([H]),
    "array of floats": lambda: np.array([H, 1.0], dtype=float),
    "numpy function": lambda: np.stack([H, H]),
    "reduction": lambda: np.sum(H),
    "reduction of objects": lambda: np.array([H, H], dtype=object).sum(),
    "subclass": lambda: type("Sub", (Handle,), {}),
    "unhashable id": lambda: Handle([1]),
}


async def _wait_for(handle):
    return await handle


@pytest.mark.parametrize("kind", MISUSES)
def test_a_handle_is_no_value(kind):
    with pytest.raises(TypeError) as caught:
        MISUSES[kind]()
    if kind not in ("subclass", "unhashable id", "numpy scalar", "ufunc"):
        assert "does not exist until the run" in str(caught.value) or "Handle" in str(caught.value), caught.value


def test_attributes_that_a_handle_does_not_have_are_missing_with_a_remedy():
    assert not hasattr(H, "shape")
    with pytest.raises(AttributeError, match=r"cannot read \.shape of Handle\('x'\).*pass it to a function"):
        _ = H.shape
    with pytest.raises(AttributeError, match="handles do not change"):
        H.id = "y"


def test_handles_are_compared_and_hashed_by_identity():
    x, y, again = Handle("x"), Handle("y"), Handle("x")
    assert x == x and x != y and x != again and not operator.eq(x, y)
    assert [x, y].index(y) == 1 and y in (x, y) and len({x, y, x}) == 2
    assert {x: 1, "x": 2, ("x",): 3}[x] == 1
    assert copy.copy(x) is copy.deepcopy(x) is x
    assert Handle(x).id == "x"
    assert f"{x}" == repr(x) == "Handle('x')"
    for dump in (pickle.dumps, cloudpickle.dumps):
        with pytest.raises(TypeError, match="does not exist until the run"):
            dump(x)


def test_a_condition_on_a_handle_does_not_build_a_wrong_dag():
    @task
    def converged(x):
        return x > 3

    with DAG(), pytest.raises(TypeError, match=r"truth value of Handle\('converged'\)"):
        for step in range(10):
            if converged(step):
                break


def test_a_handle_is_no_code():
    dag = DAG()
    x = dag.add_function(Function("x", (), operator.pos, [1]))
    dag.add_function(Function("y", (), x))
    dag.add_function(Function("z", [Argument(x, serialize=x)], identity))
    with pytest.raises(DAGError) as caught:
        dag.validate()
    assert len(caught.value.problems) == 2
    assert all("must be callable" in line for line in caught.value.problems)


# -- objects that answer anything -----------------------------------------------------------------------


class Yes:
    """Answers each request with itself."""

    def __getattr__(self, name):
        return self

    def __call__(self, *args):
        return self


class Liar:
    """Raises odd errors when it is looked at."""

    def __getattr__(self, name):
        raise SystemError(name)

    def __call__(self):
        return 1


ODD_CODES = {
    "mock": mock.Mock,
    "magic mock": mock.MagicMock,
    "mock of a partial": lambda: mock.Mock(spec=functools.partial),
    "yes": Yes,
    "liar": Liar,
}


@pytest.mark.parametrize("kind", ODD_CODES)
def test_the_name_of_code_that_answers_anything(kind):
    code = ODD_CODES[kind]()
    name = Function("f", (), code).name
    assert isinstance(name, str) and name
    dag = DAG("d")
    dag.add_function(Function("f", (), code))
    try:
        Plan().add(dag.validate())
    except DAGError as error:
        assert "function 'f'" in str(error)


def test_partials_in_a_ring_have_a_name():
    one = functools.partial(print)
    one.__setstate__((one, (), {}, {}))
    assert Function("f", (), one).name == "partial"
    one.__setstate__((print, (), {}, {}))


def test_code_with_attributes_named_as_those_of_a_task():
    class Code:
        def __init__(self):
            self.code, self._options = "mine", 5

        def __call__(self):
            return 7

    assert task(Code())() == 7
