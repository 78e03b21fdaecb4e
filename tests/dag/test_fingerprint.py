"""Fingerprints: what changes a function's value changes them, what does not leaves them alone."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import random as random_numbers
import socket
import sys
import textwrap
import types
import weakref
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi import DAG, Argument, Function, Handle, collocated, task
from handoff_mpi.dag.fingerprint import fingerprints, objects, reading
from handoff_mpi.dag.fingerprint.graph import Graph
from handoff_mpi.dag.fingerprint.modules import code_of, version_of
from handoff_mpi.dag.fingerprint.reading import _Reader
from tests.conftest import ROOT, run_process

_serial = itertools.count(1)


@pytest.fixture(autouse=True)
def no_modules_are_left():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("handoff_dag_", "mine")):
            del sys.modules[name]


def script(source):
    """Return the module of a dag.py, as loading makes it."""
    name = f"handoff_dag_{next(_serial)}"
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(textwrap.dedent(source), f"/somewhere/{name}.py", "exec"), vars(module))
    return module


def print_of(code, **fields):
    """Return the fingerprint of one function; it must have one."""
    prints = fingerprints([Function("f", **{"code": code, **fields})])
    assert prints.notes == {}
    assert len(prints.of("f")) == 16
    return prints.of("f")


def note_of(code, **fields):
    """Return why a function has no fingerprint."""
    prints = fingerprints([Function("f", code=code, **fields), Function("g", ["f"], print)])
    assert prints.of("f") is None
    assert prints.of("g") is None
    assert prints.notes["g"] == "it depends on 'f', which has no fingerprint"
    return prints.notes["f"]


def of_script(source):
    return print_of(script(source).work)


work = script("def work(*args, **kwargs): return args, kwargs").work


# What the script defines

BASE = '''
import dataclasses, enum, functools, logging, math

LOG = logging.getLogger(__name__)
SCALE = 3
TABLE = {"a": [1, 2], "b": {3, 4}}
UNUSED = 1

def helper(x, by=2):
    def inner(y):
        return y * 10
    return inner(x) * by

def twice(f):
    @functools.wraps(f)
    def wrapper(*args):
        return 2 * f(*args)
    return wrapper

class Thrice:
    def __init__(self, f, plus):
        self.plus = plus
        functools.update_wrapper(self, f)

    def __call__(self, x):
        return 3 * self.__wrapped__(x) + self.plus

@twice
def decorated(x):
    return x + 100

@functools.singledispatch
def generic(x):
    return x + 200

@generic.register
def _(x: str):
    return x + "300"

class Base:
    def common(self):
        return 1000

class Mixin:
    pass

class Shape(Base):
    """Its docstring."""
    sides = 4
    __slots__ = ("length",)

    def __init__(self, length):
        super().__init__()
        self.length = length

    @property
    def area(self):
        return self.length ** 2

    @staticmethod
    def unit():
        return Shape(1)

    @classmethod
    def make(cls):
        return cls(5)

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

class Rights(enum.Flag):
    READ = 1
    WRITE = 2

@dataclasses.dataclass
class Point:
    x: int
    y: int = 7

def outer(k):
    class Local:
        """Documented."""
        factor = 11

    def closed(x):
        return x * k * Local.factor
    return closed

closed = outer(13)
partial = functools.partial(helper, by=17)
bound = Shape(19).common
called = Thrice(helper, 21)

@functools.lru_cache(maxsize=23)
def cached(x):
    return x - 29

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

def work(x, y=31, *, z=37):
    """What it does."""
    everything = [TABLE, Shape.make, Shape.unit, Colour.RED, Point(1, 2), math.pi]
    def nested():
        return x in {41, 43, 47}
    try:
        if even(x) or nested():
            return "text", SCALE, helper(x), decorated(x), closed(x), partial(x), bound(), cached(x), called(x)
    finally:
        LOG.info("from %s, %s", __name__, generic(x))
    return everything, len(everything), y, z, Rights.READ | Rights.WRITE
'''

CHANGES = {
    "a constant in the body": ('"text"', '"texts"'),
    "a type in the body": ("return x + 100", "return x + 100.0"),
    "a member of a set in the body": ("{41, 43, 47}", "{41, 43, 53}"),
    "an operator": ("return x - 29", "return x + 29"),
    "a default": ("y=31", "y=32"),
    "a keyword default": ("z=37", "z=38"),
    "a global constant": ("SCALE = 3", "SCALE = 4"),
    "a list in a global": ("[1, 2]", "[2, 1]"),
    "a set in a global": ("{3, 4}", "{3, 5}"),
    "the order of a dict": ('{"a": [1, 2], "b": {3, 4}}', '{"b": {3, 4}, "a": [1, 2]}'),
    "a helper": ("inner(x) * by", "inner(x) + by"),
    "a helper's default": ("by=2", "by=3"),
    "a helper's name": ("helper", "assistant"),
    "a function in a helper": ("y * 10", "y * 11"),
    "what a decorator wraps": ("x + 100", "x + 101"),
    "a decorator": ("2 * f(", "3 * f("),
    "a class that is a decorator": ("3 * self", "4 * self"),
    "the state of a callable": ("Thrice(helper, 21)", "Thrice(helper, 22)"),
    "a generic function": ("x + 200", "x + 201"),
    "what is registered with it": ('"300"', '"301"'),
    "a method": ("super().__init__()", "super()"),
    "a property": ("self.length ** 2", "self.length ** 3"),
    "a base class's method": ("return 1000", "return 1001"),
    "a class attribute": ("sides = 4", "sides = 5"),
    "a static method": ("Shape(1)", "Shape(2)"),
    "a class method": ("cls(5)", "cls(6)"),
    "a base": ("class Shape(Base)", "class Shape(Base, Mixin)"),
    "a member of an enum": ("RED = 1", "RED = 3"),
    "a field of a dataclass": ("y: int = 7", "y: int = 8"),
    "a class in a function": ("factor = 11", "factor = 12"),
    "a closure": ("outer(13)", "outer(14)"),
    "a partial's argument": ("by=17", "by=18"),
    "a bound method's object": ("Shape(19)", "Shape(20)"),
    "the size of a cache": ("maxsize=23", "maxsize=24"),
    "a function in a cycle": ("True if n == 0", "None if n == 0"),
    "a builtin": ("len(everything)", "sum(everything)"),
    "an attribute of a module": ("math.pi", "math.tau"),
    "what happens on errors": ("    finally:", "    except ValueError:"),
    "a global that becomes a function": ("SCALE = 3", "def SCALE(): return 3"),
}

NO_CHANGES = {
    "a comment": ("SCALE = 3", "SCALE = 3  # how much"),
    "blank lines": ("\ndef helper", "\n\n\n# more\n\n\ndef helper"),
    "lines in a helper": ("    return inner(x) * by", "\n\n    # so\n\n    return inner(x) * by"),
    "lines in a method": ("        self.length = length", "\n\n        # so\n        self.length = length"),
    "lines in a class in a function": ("        factor = 11", "\n\n        factor = 11"),
    "lines in a literal": ('{"a": [1, 2], ', '{"a": [1,\n\n2],\n\n'),
    "a docstring": ("What it does.", "What this does, in other words."),
    "no docstring": ('    """What it does."""\n', ""),
    "a new docstring": ("    return x + 100", '    """New."""\n    return x + 100'),
    "a class's docstring": ("Its docstring.", "Another docstring"),
    "no docstring of a class": ('    """Its docstring."""\n', ""),
    "a docstring in a function's class": ("Documented.", "Documented differently."),
    "an unused global": ("UNUSED = 1", "UNUSED = 2"),
    "a new function": ("\ndef even", "\ndef unused():\n    return UNUSED\n\ndef even"),
    "the order of a set": ("{3, 4}", "{4, 3}"),
    "the order of a set in the body": ("{41, 43, 47}", "{47, 41, 43}"),
    "an annotation": ("def helper(x, by=2)", "def helper(x: float, by: int = 2) -> float"),
    "the order of attributes": ('sides = 4\n    __slots__ = ("length",)', '__slots__ = ("length",)\n    sides = 4'),
}


def changed(old, new):
    assert old in BASE, old
    return BASE.replace(old, new)


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_function_relies_on_counts(what):
    assert of_script(changed(*CHANGES[what])) != of_script(BASE)


@pytest.mark.parametrize("what", NO_CHANGES)
def test_what_changes_no_value_does_not_count(what):
    assert of_script(changed(*NO_CHANGES[what])) == of_script(BASE)


def test_calling_a_function_changes_nothing():
    module = script(BASE)
    before = print_of(module.work)
    for _ in range(2000):  # the interpreter specialises bytecode in place
        module.work(4)
        module.work(5)
    assert print_of(module.work) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def work(x): return lambda: x + 1", "def work(x): return lambda: x + 2"),
        ("def work(x): return [y + 1 for y in x]", "def work(x): return [y + 2 for y in x]"),
        ("def work(x): return -0.0", "def work(x): return 0.0"),
        ("def work(x): return x.a", "def work(x): return x.b"),
        ("def work(x, y): pass", "def work(y, x): pass"),
        ("def work(x, /): pass", "def work(x): pass"),
        ("def work(x): yield x", "def work(x): return x"),
        ("def work(x): return later", "later = 1\ndef work(x): return later"),
        ("def work(x): return 1\nwork.factor = 1", "def work(x): return 1\nwork.factor = 2"),
        ("import math as m\ndef work(x): return m", "import cmath as m\ndef work(x): return m"),
        ("from math import sin as f\ndef work(x): return f", "from math import cos as f\ndef work(x): return f"),
        ("f = 'a'.join\ndef work(x): return f(x)", "f = 'b'.join\ndef work(x): return f(x)"),
        ("f = str.upper\ndef work(x): return f(x)", "f = str.lower\ndef work(x): return f(x)"),
        ("import re\nR = re.compile('a')\nwork = lambda: R", "import re\nR = re.compile('b')\nwork = lambda: R"),
        ("def work(x):\n import json\n return json", "def work(x):\n import copy as json\n return json"),
        ("work = lambda x, y=[]: y", "work = lambda x, y=(): y"),
        ("class C: pass\nwork = C", "class C:\n __call__ = print\nwork = C"),
        ("class C:\n v = 1\n __call__ = print\nwork = C()", "class C:\n v = 2\n __call__ = print\nwork = C()"),
    ],
)
def test_small_differences_count(one, other):
    assert of_script(one) == of_script(one)
    assert of_script(other) == of_script(other)
    assert of_script(one) != of_script(other)


def test_a_loop_s_lambdas_differ_by_what_they_close_over():
    module = script("functions = [(lambda k: lambda x: x + k)(k % 3) for k in range(6)]")
    prints = [print_of(code) for code in module.functions]
    assert prints[:3] == prints[3:]
    assert len(set(prints)) == 3


def test_a_task_is_its_code():
    def plain(x):
        return x

    assert print_of(task(plain)) == print_of(plain) == print_of(task(cost={"cpu": 4})(plain))
    one = "@task\ndef helper(x): return 1\ndef work(x): return helper(x)"
    two = "@task(max_retries=1)\ndef helper(x): return 1\ndef work(x): return helper(x)"
    other = "@task\ndef helper(x): return 2\ndef work(x): return helper(x)"
    prints = [of_script("from handoff_mpi import task\n" + source) for source in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]


def test_cycles_look_the_same_from_wherever_one_begins():
    module = script(BASE)
    functions = [Function("even", code=module.even), Function("odd", code=module.odd), Function("w", code=module.work)]
    alone = [fingerprints([function]).of(function.id) for function in functions]
    for order in itertools.permutations(functions):
        together = fingerprints(order)
        assert [together.of(function.id) for function in functions] == alone
    assert print_of(module.even) != print_of(module.odd)


# The function's fields


def test_what_its_value_depends_on_counts():
    one = print_of(work)
    prints = [
        one,
        fingerprints([Function("g", code=work)]).of("g"),
        print_of(work, version="2"),
        print_of(work, extra_args=[1]),
        print_of(work, extra_args=[1.0]),
        print_of(work, extra_args=[True]),
        print_of(work, extra_args=["1"]),
        print_of(work, extra_args=[b"1"]),
        print_of(work, extra_args=[None]),
        print_of(work, extra_args=[(1,)]),
        print_of(work, extra_args=[[1]]),
        print_of(work, extra_args=[{1}]),
        print_of(work, extra_args=[frozenset({1})]),
        print_of(work, extra_args=[{1: 1}]),
        print_of(work, extra_args=[1, 1]),
        print_of(work, extra_args=["x" * 10_000]),
        print_of(work, extra_args=["x" * 10_000 + "y"]),
        print_of(work, extra_args=[[["x"], "y"]]),
        print_of(work, extra_args=[[["x", "y"]]]),
        print_of(work, kwargs={"a": 1}),
        print_of(work, kwargs={"a": 2}),
        print_of(work, kwargs={"b": 1}),
        print_of(work, kwargs={"a": 1, "b": 2}),
        print_of(work, kwargs={"b": 2, "a": 1}),
        print_of(work, argument_inclusion="as_list"),
        print_of(print),
    ]
    assert len(set(prints)) == len(prints)
    assert print_of(work, extra_args=(1, [2])) == print_of(work, extra_args=[1, [2]])
    assert print_of(work, extra_args=[{1, "a", None}]) == print_of(work, extra_args=[{None, "a", 1}])


def test_where_and_how_it_runs_does_not_count():
    fields = [
        {"cost": {"cpu": 4}},
        {"max_retries": 0},
        {"timeout": 5},
        {"node": 3},
        {"node": collocated("g")},
        {"priority": 7},
        {"type": "inline"},
    ]
    assert {print_of(work, **each) for each in fields} == {print_of(work)}


@pytest.mark.parametrize("id", [1, "a", ("tile", 3, (4, 5)), frozenset({1, 2}), b"x" * 3000, None])
def test_ids_are_any_values(id):
    assert fingerprints([Function(id, code=work)]).notes == {}
    assert fingerprints([Function(id, code=work)]).of(id)


def test_ids_without_a_form_have_none():
    id = object()
    assert fingerprints([Function(id, code=work)]).of(id)  # what a sentinel gives to pickle is always the same
    lock = (each for each in ())
    assert "its id: a 'generator'" in fingerprints([Function(lock, code=work)]).notes[lock]
    assert fingerprints([]).of([]) is None


class State:
    """An object with a state."""

    def __init__(self, **state):
        self.__dict__.update(state)


class Named(str):
    """A string with a state."""


def named(text, state):
    value = Named(text)
    value.state = state
    return value


VALUES = [
    lambda k: np.arange(6) + k,
    lambda k: np.arange(6).reshape(2, 3) + k,
    lambda k: np.arange(6).reshape(3, 2) + k,
    lambda k: np.arange(6.0) + k,
    lambda k: np.arange(12)[::2] + 2 * k + np.arange(6) * 3,
    lambda k: np.array([[1, k], ["a", None]], dtype=object),
    lambda k: np.array([(1, 2.0 + k)], dtype=[("a", "i4"), ("b", "f8")]),
    lambda k: np.array(["2020-01-01"], dtype="M8[D]") + k,
    lambda k: np.zeros((0, 3 + k)),
    lambda k: np.float64(k),
    lambda k: np.dtype(["f4", "f8"][k]),
    lambda k: np.zeros(100_000) + k,
    lambda k: np.ma.array([1, 2, k]),
    lambda k: [np.sin, np.cos][k],
    lambda k: np.random.default_rng(k),
    lambda k: np.random.default_rng(k).normal,
    lambda k: bytearray([k]),
    lambda k: memoryview(bytes([k])),
    lambda k: memoryview(bytes([k, 1, 2]))[::2],
    lambda k: State(a=k, b=[k]),
    lambda k: State(b=State(a=k)),
    lambda k: named("text", k),
    lambda k: {"a": {"b": State(a=k)}},
    lambda k: types.SimpleNamespace(a=k),
    lambda k: types.MappingProxyType({"a": k}),
    lambda k: range(k),
    lambda k: slice(k),
    lambda k: (1,) * (k + 100),
    lambda k: [int, float][k],
    lambda k: [list[int], list[str]][k],
    lambda k: 1 << 100 + k,
    lambda k: complex(0, k),
    lambda k: [State, Named][k],
]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_constants_count_by_value(number):
    value = VALUES[number]
    assert print_of(work, extra_args=[value(0)]) == print_of(work, extra_args=[value(0)])
    assert print_of(work, extra_args=[value(0)]) != print_of(work, extra_args=[value(1)])


def test_all_these_constants_differ():
    prints = [print_of(work, extra_args=[value(1)]) for value in VALUES]
    same = {VALUES.index(value) for value in VALUES if prints.count(prints[VALUES.index(value)]) > 1}
    assert not same


def test_layout_and_identity_of_constants_do_not_count():
    array = np.arange(6).reshape(2, 3)
    assert print_of(work, extra_args=[np.asfortranarray(array)]) == print_of(work, extra_args=[array])
    shared = [1, [2]]
    assert print_of(work, extra_args=[[shared, shared]]) == print_of(work, extra_args=[[[1, [2]], [1, [2]]]])
    assert print_of(work, extra_args=["a" + "b" * 2000]) == print_of(work, extra_args=["".join(["a", "b" * 2000])])


def test_large_constants_are_hashed_once_however_many_take_them():
    array, text, table = np.zeros(1000), "x" * 5000, {"a": [1, [2]]}
    for count in (1, 50):
        functions = [Function(i, (), work, [array, text, table, i], {"again": table}) for i in range(count)]
        assert fingerprints(functions).visited == fingerprints(functions[:1]).visited


# Inputs


def dag_of(first, **fields):
    functions = [
        Function("a", code=print, **first),
        Function("b", **{"args": ["a"], "code": work, **fields}),
        Function("c", ["b"], work),
    ]
    prints = fingerprints(functions)
    assert prints.notes == {}
    return [prints.of(id) for id in "abc"]


def test_a_change_goes_all_the_way_down():
    one = dag_of({})
    for other in (dag_of({"version": "2"}), dag_of({"extra_args": [5]}), dag_of({"type": "inline", "version": "2"})):
        assert all(old != new for old, new in zip(one, other, strict=True))
    other = dag_of({}, version="2")
    assert other[0] == one[0]
    assert other[1] != one[1]
    assert other[2] != one[2]


def test_inputs_count_in_their_order_and_however_they_are_given():
    a, b = Function("a", code=work), Function("b", code=work)

    def of(**fields):
        prints = fingerprints([Function("f", **{"code": work, **fields}), b, a])
        assert prints.notes == {}
        return prints.of("f")

    dag = DAG()
    handle, other = dag.add_function(a), dag.add_function(b)
    forms = [
        of(args=["a", "b"]),
        of(args=["b", "a"]),
        of(args=["a", "a"]),
        of(args=["a"], extra_args=["b"]),
        of(args=["a"], extra_args=[other]),
        of(extra_args=[handle, other]),
        of(extra_args=[[handle, other]]),
        of(extra_args=[{"x": (other, [handle])}]),
        of(kwargs={"x": handle}),
        of(kwargs={"x": [other]}),
    ]
    assert len(set(forms)) == len(forms)
    assert of(args=[handle, other]) == forms[0]
    assert of(args=[Argument("a"), "b"]) == of(args=[Argument(handle), other])


@pytest.mark.parametrize("fields", [{"extra_args": [[{"x": 1}]]}, {"version": "2"}, {"code": print}])
def test_handles_deep_in_constants_stand_for_their_function(fields):
    def of(**changes):
        dag = DAG()
        handle = dag.add_function(Function("a", **{"code": work, **changes}))
        dag.add_function(Function("f", (), work, [1, [{"x": (handle, 2)}]]))
        return fingerprints(dag).of("f")

    assert of() == of()
    assert of() != of(**fields)


def test_the_codes_of_arguments_count():
    def of(*codes):
        prints = fingerprints([Function("a", code=work), Function("f", [Argument("a", *codes)], work)])
        assert prints.notes == {}
        return prints.of("f")

    def pack(value, source, target):
        return value

    def pack_otherwise(value, source, target):
        return [value]

    prints = [of(), of(pack), of(pack_otherwise), of(None, pack), of(pack, pack)]
    assert len(set(prints)) == len(prints)


def test_what_is_wrong_with_a_dag_is_noted():
    functions = [
        Function("twice", code=work),
        Function("twice", code=work),
        Function("one", ["other"], work),
        Function("other", ["one"], work),
        Function("behind", ["other"], work),
        Function("lost", ["nowhere"], work),
        Function("nothing", ()),
        Function("odd", (), work, kwargs=5),
        Function("version", (), work, version=5),
        Function("fine", (), work),
        Function("listed", [[1]], work),
    ]
    prints = fingerprints(functions)
    assert prints.notes.keys() == {function.id for function in functions} - {"fine"}
    assert prints.notes["twice"] == "its id is used by several functions"
    assert prints.notes["behind"] == "it is in a cycle, or behind one"
    assert prints.notes["lost"] == "there is no function 'nowhere', which it takes"
    assert prints.of("fine")
    assert not any(prints.of(id) for id in prints.notes)


@pytest.mark.long
def test_a_chain_of_100_000():
    functions = [Function(i, [i - 1] if i else [], work, [i]) for i in range(100_000)]
    functions[50_000].extra_args = [(each for each in ())]
    prints = fingerprints(functions[::-1])
    assert prints.of(49_999)
    assert prints.notes[99_999] == "it depends on 50000, which has no fingerprint"
    assert prints.visited == fingerprints(functions[:1]).visited + 1, "one code is looked at once, and the lock"


def test_functions_that_share_code_share_the_work():
    module = script(
        """
        def helper(x): return x
        def make(k): return lambda x: helper(x) + k
        functions = [make(k) for k in range(200)]
        """
    )
    functions = [Function(i, code=code) for i, code in enumerate(module.functions)]
    few, many = fingerprints(functions[:100]).visited, fingerprints(functions).visited
    assert many - few == 200, "of each further one, itself and its cell"


def mixed(rng, count):
    """Return functions of which some are plain, and some take values of earlier ones."""
    functions = []
    for number in range(count):
        id = rng.choice([number, str(number), (number, "x"), ("t", number, None), number + 0.5, f"{number:01025}"])
        args = rng.sample([each.id for each in functions], rng.choice([0, 0, min(2, number)]))
        args = [rng.choice([each, Handle(each), Argument(each)]) for each in args]
        extra = rng.choice([[], [0], [1.0, "s"], [[1, 2]], [("a", (1, 2))], (None,), [0] * 17, [True], ["s" * 1025]])
        options = rng.choice([{}, {}, {"kwargs": {"k": 1}}, {"version": "2"}, {"cwd": "/tmp"}])
        functions.append(Function(id, args, rng.choice([work, print]), extra, **options))
    return functions


@pytest.mark.parametrize("settle", [None, lambda id, fingerprint: bytes(16) if id in range(9) else fingerprint])
def test_functions_that_are_read_together_have_the_fingerprints_of_those_read_alone(monkeypatch, settle):
    monkeypatch.setattr(reading, "_BATCH", 100)
    rng = random_numbers.Random(1)
    functions = [*mixed(rng, 600), Function("generator", [], work, [(each for each in ())])]
    functions.append(Function("behind", ["generator", 1], work))
    doubled = [*functions, Function(functions[5].id, [], work)]
    together = [fingerprints(each, settle) for each in (functions, doubled, functions[::-1])]
    monkeypatch.setattr(_Reader, "read_plain", lambda *words: {})
    for seen, each in zip(together, (functions, doubled, functions[::-1]), strict=True):
        alone = fingerprints(each, settle)
        assert [seen.of(function.id) for function in each] == [alone.of(function.id) for function in each]
        assert (seen.notes, seen.codes, seen.visited) == (alone.notes, alone.codes, alone.visited)
    assert len(together[0].notes) == 2


def test_no_step_is_taken_for_a_plain_function_but_to_look_at_its_arguments():
    functions = [Function(number, code=work, extra_args=[number]) for number in range(2_000)]
    fingerprints(functions)
    entered = []
    sys.setprofile(lambda frame, event, argument: event == "call" and entered.append(frame.f_code.co_name))
    try:
        fingerprints(functions)
    finally:
        sys.setprofile(None)
    assert len(entered) < 1_500


# What has no fingerprint


class Raising:
    """A proxy that raises at each request."""

    def __getattribute__(self, name):
        raise RuntimeError(f"no {name}")

    def __repr__(self):
        raise RuntimeError("no repr")


class Wordless:
    """Its errors cannot be shown."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("mute")

    def __reduce__(self):
        raise self.Mute

    def __repr__(self):
        raise RuntimeError("no repr")


class Reduced:
    """Gives pickle the answer that the test chose."""

    def __init__(self, give):
        self.give = give

    def __reduce__(self):
        return self.give()


def exit_now():
    raise SystemExit(3)


def generate():
    yield 1


ODD = {
    "file": lambda: Path(__file__).open(),  # noqa: SIM115
    "socket": socket.socket,
    "generator": generate,
    "weakref": lambda: weakref.ref(State),
    "proxy": Raising,
    "wordless": Wordless,
    "no tuple": lambda: Reduced(lambda: 5),
    "short tuple": lambda: Reduced(lambda: (print,)),
    "wrong tuple": lambda: Reduced(lambda: (print, 5)),
    "unknown name": lambda: Reduced(lambda: "no such name"),
    "exit": lambda: Reduced(exit_now),
    "endless": lambda: endless(),
    "ufunc": lambda: np.frompyfunc(work, 1, 1),
    "frame": lambda: sys._getframe(),
    "module": lambda: sys.modules["handoff_dag_odd"],
    "gone": lambda: types.ModuleType("mine_gone"),
}


def endless():
    """Unfolds to two more of its kind."""
    return Reduced(lambda: (print, (endless(), endless())))


@pytest.fixture(params=ODD)
def odd(request):
    module = sys.modules["handoff_dag_odd"] = types.ModuleType("handoff_dag_odd")
    module.lock = (each for each in ())
    thing = ODD[request.param]()
    if request.param == "gone":
        thing.lock = module.lock
    yield thing
    if hasattr(type(thing), "close"):
        thing.close()


@pytest.mark.long
def test_odd_objects_have_no_fingerprint(odd):
    assert note_of(work, extra_args=[[odd]]).startswith("extra_args[0]: ")
    assert note_of(work, kwargs={"k": {1: odd}}).startswith("kwargs['k']: ")
    assert note_of(lambda: odd).startswith("closure variable 'odd' of <lambda>(): ")
    module = script("def work(x): return helper()\ndef helper(): return [ODD]")
    module.ODD = odd
    assert note_of(module.work).startswith("global 'ODD' of helper(): ")
    fingerprints([Function(Raising(), code=work), Function("f", code=odd), Function("g", [odd], work)])


def test_one_odd_object_spoils_no_other_function():
    lock = (each for each in ())
    module = script(
        """
        def fine(n): return fine(n - 1)
        def bad(): return LOCK, fine, worse
        def worse(): return bad, fine
        """
    )
    module.LOCK = lock
    functions = [Function(name, code=getattr(module, name)) for name in ("worse", "bad", "fine")]
    for order in itertools.permutations(functions):
        prints = fingerprints(order)
        assert prints.notes.keys() == {"worse", "bad"}
        assert prints.of("fine") == fingerprints([functions[2]]).of("fine")
        assert set(prints.notes.values()) == {
            "global 'LOCK' of bad(): a 'generator' cannot be taken apart: TypeError: cannot pickle 'generator' object"
        }


class BadComparisons:
    """Can neither be compared nor hashed nor shown; but what it is is plain."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        raise RuntimeError("no")

    def __bool__(self):
        raise RuntimeError("no")

    def __len__(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")

    __hash__ = None


class Fake:
    """Says it is of another class."""

    @property
    def __class__(self):
        raise RuntimeError("no")


class Hooked(type):
    """A metaclass whose classes answer nothing."""

    def __getattr__(cls, name):
        raise RuntimeError(name)

    def __eq__(cls, other):
        raise RuntimeError("no")

    def __hash__(cls):
        raise RuntimeError("no")


class Metaclassed(metaclass=Hooked):
    pass


def test_objects_may_be_odd_where_it_does_not_matter():
    assert print_of(work, extra_args=[BadComparisons(1)]) == print_of(work, extra_args=[BadComparisons(1)])
    assert print_of(work, extra_args=[BadComparisons(1)]) != print_of(work, extra_args=[BadComparisons(2)])
    functions = [Function(1, (), work, [Fake()]), Function(2, (), Metaclassed), Function(3, (), work, [Metaclassed()])]
    assert fingerprints(functions).notes.keys() <= {1, 2, 3}
    meta = "class Meta(type):\n def __eq__(s, o): 1/0\n __hash__ = None\n"
    assert of_script(meta + "class work(metaclass=Meta): pass")


def test_objects_that_hold_themselves():
    def loop(value):
        one, two = [value], {}
        two["one"] = one
        one.append(two)
        return State(one=one, two=two)

    assert print_of(work, extra_args=[loop(1)]) == print_of(work, extra_args=[loop(1)])
    assert print_of(work, extra_args=[loop(1)]) != print_of(work, extra_args=[loop(2)])


def test_data_too_deep_or_too_entangled_has_none():
    deep = []
    for _ in range(30_000):
        deep = [deep]
    assert "nested too deep" in note_of(work, extra_args=[deep])
    ring = [[] for _ in range(3000)]
    for number, item in enumerate(ring):
        item += ring[number - 1], ring[number + 1 - len(ring)]
    ring[0].append("x")
    assert "too many objects refer to each other" in note_of(work, extra_args=[ring[5]])
    gc.collect()


# The dumb twin: compare what graphs of lists look like


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 5))
    edges = st.lists(st.integers(0, size - 1), max_size=3)
    return [(draw(st.integers(0, 1)), draw(edges)) for _ in range(size)]


def built(graph, order):
    lists = [[] for _ in graph]
    for number in order:
        label, edges = graph[number]
        lists[number] += [label, *(lists[edge] for edge in edges)]
    return lists


def unfolded(graphs):
    """Number the nodes of all graphs by what they look like, however deep one looks."""
    nodes = [(label, [(g, edge) for edge in edges]) for g, graph in enumerate(graphs) for label, edges in graph]
    keys = [(g, n) for g, graph in enumerate(graphs) for n in range(len(graph))]
    looks = dict.fromkeys(keys, 0)
    for _ in keys:
        seen = {}
        looks = {
            key: seen.setdefault((label, *(looks[edge] for edge in edges)), len(seen))
            for key, (label, edges) in zip(keys, nodes, strict=True)
        }
    return [[looks[g, n] for n in range(len(graph))] for g, graph in enumerate(graphs)]


@settings(max_examples=150, deadline=None)
@given(st.lists(graphs(), min_size=1, max_size=3), st.randoms())
def test_digests_tell_apart_what_looks_different(graphs, random):
    looks = unfolded(graphs)
    by_digest = {}
    for graph, look in zip(graphs, looks, strict=True):
        order = list(range(len(graph)))
        lists = built(graph, order)
        together = Graph()
        digests = {number: together.digest(lists[number]) for number in random.sample(order, len(order))}
        copies = built(graph, random.sample(order, len(order)))
        for number in order:
            assert Graph().digest(copies[number]) == digests[number], "a copy, looked at alone"
            assert by_digest.setdefault(digests[number], look[number]) == look[number]


# What is imported


FILES = {
    "mine": "import mine_deep\nFACTOR = 2\ndef fit(x): return x * FACTOR + mine_deep.get()\nclass Model:\n    v = 1\n",
    "mine_deep": "def get():\n    from mine_pack import sub\n    return sub.VALUE\n",
    "mine_pack/__init__": "",
    "mine_pack/sub": "from . import other\nVALUE = 5\n",
    "mine_pack/other": "'''Documented.'''\nREST = 6\n",
    "mine_pack/unused": "REST = 7\n",
}

USES = {
    "a module": "import mine\ndef work(x): return mine.fit(x)",
    "a function": "from mine import fit\ndef work(x): return fit(x)",
    "a class": "from mine import Model\ndef work(x): return Model()",
    "an object": "from mine import Model\nMODEL = Model()\ndef work(x): return MODEL",
    "a function as code": "from mine import fit as work",
    "a partial": "import functools\nfrom mine import fit\nwork = functools.partial(fit, 1)",
    "an import inside": "def work(x):\n    import mine\n    return mine.fit(x)",
    "an import from, inside": "def work(x):\n    from mine import fit\n    return fit(x)",
    "a submodule by its parent": "import mine_pack.sub\ndef work(x): return mine_pack.sub.VALUE",
    "a package by another name": "import mine_pack.sub\ndef work(x):\n    pack = mine_pack\n    return pack.sub.VALUE",
    "a package, inside": "import mine_pack.sub\ndef work(x):\n    import mine_pack\n    return mine_pack.sub.VALUE",
    "a submodule, inside": "def work(x):\n    import mine_pack.sub\n    return mine_pack.sub.VALUE",
    "a base": "from mine import Model\nclass More(Model): pass\ndef work(x): return More()",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(texts):
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    write({f"{name}.py": text for name, text in FILES.items()})
    return write


@pytest.mark.parametrize("use", USES)
def test_a_change_of_a_module_of_one_s_own_counts(files, use):
    module = script(USES[use])
    before = print_of(module.work)
    assert print_of(script(USES[use]).work) == before

    for name in ("mine_pack/other", "mine_pack/sub"):
        files({f"{name}.py": FILES[name].replace("6", "66").replace("5", "55")})
        after = print_of(module.work)
        assert after != before, name
        before = after
    if "mine_pack" in USES[use]:
        return
    for name in ("mine_deep", "mine"):
        files({f"{name}.py": FILES[name].replace("sub.VALUE", "sub.VALUE + 1").replace("FACTOR = 2", "FACTOR = 3")})
        after = print_of(module.work)
        assert after != before, name
        before = after


@pytest.mark.parametrize("use", USES)
def test_comments_and_unrelated_modules_do_not_count(files, use):
    module = script(USES[use])
    before = print_of(module.work)
    files(
        {
            "mine.py": "# a comment\n\n" + FILES["mine"],
            "mine_pack/other.py": FILES["mine_pack/other"].replace("Documented", "Otherwise documented"),
            "mine_pack/unused.py": "REST = 8\n",
        }
    )
    assert print_of(module.work) == before


def test_what_an_imported_decorator_makes(files):
    files(
        {
            "mine_deco.py": "import functools\n"
            "def twice(f):\n    @functools.wraps(f)\n    def wrapper(x): return 2 * f(x)\n    return wrapper\n"
        }
    )
    source = "from mine_deco import twice\n@twice\ndef work(x): return x + 1"
    module = script(source)
    before = print_of(module.work)
    assert of_script(source) == before
    assert of_script(source.replace("+ 1", "+ 2")) != before
    files({"mine_deco.py": "OTHER = 1\n"})
    assert print_of(module.work) != before


def test_a_module_is_compiled_again_only_if_its_file_has_changed(files, monkeypatch):
    compiled = []
    monkeypatch.setattr(objects, "code_of", lambda source: compiled.append(source) or code_of(source))
    files({"mine_often.py": "import mine_pack.other\ndef fit(x): return x\n", "mine_pack/other.py": "REST = 61\n"})
    work = script("from mine_often import fit as work").work
    first, again = print_of(work), print_of(work)
    assert again == first
    assert len(compiled) == len(set(compiled)), "each once"
    before = len(compiled)
    files({"mine_pack/other.py": "REST = 62\n"})
    changed = print_of(work)
    files({"mine_pack/other.py": "REST = 61\n"})
    assert changed != first == print_of(work)
    assert compiled[before:] == [b"REST = 62\n", b"REST = 61\n"]


def test_a_module_that_is_missing_may_come(files):
    source = "def work(x):\n    try:\n        import mine_fast\n    except ImportError:\n        pass"
    before = of_script(source)
    files({"mine_fast.py": "A = 1"})
    assert of_script(source) != before


def test_a_module_without_a_file_has_none(files):
    sys.modules["mine_made"] = types.ModuleType("mine_made")
    module = script("import mine_made\ndef work(x): return mine_made.a")
    assert "the module 'mine_made' has no file" in note_of(module.work)


def test_distributions_count_by_version(files, monkeypatch):
    def install(version, body="def fit(x): return x\nclass Model: pass\nanswer = fit\n"):
        info = f"site-packages/mine_dist-{version}.dist-info"
        files(
            {
                "site-packages/mine_packaged.py": body,
                f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mine-dist\nVersion: {version}\n",
                f"{info}/top_level.txt": "mine_packaged\n",
                f"{info}/RECORD": f"mine_packaged.py,,\n{info.split('/')[1]}/METADATA,,\n",
            }
        )

    install("1.0")
    site = f"{sys.path[0]}/site-packages"
    monkeypatch.syspath_prepend(site)
    sources = [
        "import mine_packaged\ndef work(x): return mine_packaged.fit(x)",
        "from mine_packaged import fit\ndef work(x): return fit(x)",
        "from mine_packaged import Model\nM = Model()\ndef work(x): return M",
        "def work(x):\n    import mine_packaged",
    ]
    works = [script(source).work for source in sources]
    before = [print_of(each) for each in works]
    install("1.0", "def fit(x): return x + 1\nclass Model: pass\n")
    assert [print_of(each) for each in works] == before
    (Path(site) / "mine_dist-1.0.dist-info").rename(Path(site) / "gone")
    install("1.1")
    assert all(old != print_of(each) for old, each in zip(before, works, strict=True))


def test_the_version_of_a_distribution_is_what_its_metadata_say(files):
    installed = list(metadata.distributions())
    assert [version_of(each) for each in installed] == [each.version for each in installed]
    files({"old-3.egg-info/PKG-INFO": "metadata-version: 1.0\nNAME: old\nVERSION:  3.0rc1\n\nVersion: 4 is near.\n"})
    files({"none-3.dist-info/METADATA": "Name: none\n\nNo version here.\n"})
    old, none = metadata.distribution("old"), metadata.distribution("none")
    assert version_of(old) == old.version == "3.0rc1"
    assert not version_of(none)


def test_the_library_itself_counts_by_version():
    source = "import handoff_mpi as handoff\ndef work(x): return handoff.current_task().seed"
    assert of_script(source)
    assert fingerprints([Function("f", code=script(source).work)]).visited < 10


# Other processes

SINK = """

import collections, decimal, re

class Node:
    def __init__(self, name):
        self.name, self.links, self.me = name, {"one", "two", "three", name}, self

NODE = Node("n")
NAMES = frozenset({"alpha", "beta", "gamma", ("x", "y")})
PAIR = collections.namedtuple("PAIR", "left right")(decimal.Decimal("1.5"), re.compile("a+"))

def sink(parts):
    for name in {"red", "green", "blue", None, 3}:
        yield name, NODE, NAMES, PAIR, work, __file__

def sibling(x):
    import mine_sibling
    return mine_sibling.fit(x)

from handoff_mpi import DAG, Function, task

with DAG("d") as dag:
    dag.add_function(Function(("t", frozenset({"a", "b", "c"})), (), sibling, [{"p", "q", "r"}]))
    dag.add_function(Function("sink", [("t", frozenset({"a", "b", "c"}))], sink, [(), NODE, {"k": {"l", "m"}}]))
    task(work)([Shape(2), Colour.RED, {Point(1, 2).x, "s", "t"}])
"""

SHOW = """
import json
from handoff_mpi.dag.fingerprint import fingerprints
prints = fingerprints(dag)
print(json.dumps([[prints.of(each.id).hex() for each in dag], prints.notes]))
"""

LOAD = """
import sys
from handoff_mpi.launch.dag_file import load_dag_file
dag = load_dag_file(sys.argv[1], []).build()
"""


def test_another_process_finds_the_same(tmp_path):
    def run(name, seed, main=False, lines=0, change=("", "")):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "mine_sibling.py").write_text("def fit(x): return x\n")
        source = "# line\n" * lines + (BASE + SINK).replace(*change).replace("\n\n", "\n\n" + "\n# more\n" * lines)
        file.write_text(source + (SHOW if main else ""))
        command = [file] if main else ["-c", LOAD + SHOW, file]
        env = {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
        ended = run_process([sys.executable, *command], file.parent if seed else tmp_path, env=env)
        assert ended.rc == 0, ended.err
        prints, notes = json.loads(ended.out)
        assert notes == {}
        assert len(prints) == 3
        return prints

    one = run("dag.py", 0)
    assert run("deep/er/other-name.py", 1, lines=3) == one
    assert run("script.py", 2, main=True) == one
    assert run("script.py", 3, main=True, change=('"gamma"', '"delta"'))[1] != one[1]
