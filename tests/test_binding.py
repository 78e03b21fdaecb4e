"""Calls are refused where Python would refuse them, in its words, and nowhere else."""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
import inspect
import sys
import typing
from unittest import mock

import pytest

from handoff_mpi import task
from handoff_mpi.binding import find_binding_problem


def one(x):
    return x


def positional_only(a, b=1, /, c=2, *, d, e=5):
    pass


def many(a, *rest, b, **others):
    pass


def no_parameters():
    pass


class Model:
    def __init__(self, a=1):
        pass

    def fit(self, x, y=1):
        pass

    @classmethod
    def load(cls, path):
        pass

    @staticmethod
    def scale(x):
        pass

    def __call__(self, z):
        pass


class Empty:
    pass


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


class Made:
    def __new__(cls, a, b=1):
        return object.__new__(cls)


class Abstract(abc.ABC):
    @abc.abstractmethod
    def run(self):
        pass


class Takes(Abstract):
    def __init__(self, a):
        self.a = a

    def run(self):
        pass


class Coordinates(typing.NamedTuple):
    x: int
    y: int = 0


SHAPES = [(count, names) for count in range(5) for names in ((), ("x",), ("d",), ("b", "d"), ("z",))]
CERTAIN = {
    "function": one,
    "positional only": positional_only,
    "any": many,
    "no parameters": no_parameters,
    "lambda": lambda a, *, d=1: None,
    "class": Model,
    "empty class": Empty,
    "object": object,
    "dataclass": Point,
    "__new__": Made,
    "abstract": Takes,
    "namedtuple": collections.namedtuple("namedtuple", "x b", defaults=[1]),
    "NamedTuple": Coordinates,
    "bound": Model().fit,
    "class method": Model.load,
    "static method": Model.scale,
    "static method itself": vars(Model)["scale"],
    "callable object": Model(),
    "partial": functools.partial(one, 1),
    "partial with a keyword": functools.partial(positional_only, d=1),
    "partial of a partial": functools.partial(functools.partial(Model().fit, 1), y=3),
    "partial of a class": functools.partial(Point, y=1),
    "cached": functools.cache(no_parameters),
    "task": task(one),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_a_plain_call_is_refused_exactly_where_python_refuses_it(name):
    code = CERTAIN[name]
    for count, names in SHAPES:
        try:
            code(*range(count), **dict.fromkeys(names))
            error = ""
        except TypeError as raised:
            error = str(raised)
        assert find_binding_problem(code, count, names) == error, (count, names)


@pytest.mark.skipif(not hasattr(functools, "Placeholder"), reason="of Python 3.14")
def test_placeholders_of_partials_are_arguments_that_are_to_come():
    code = functools.partial(positional_only, functools.Placeholder, 2, d=1)
    assert not find_binding_problem(code, 1)
    assert "missing positional arguments" in find_binding_problem(code, 0)


@functools.wraps(one)
def wrapper(*args, **kwargs):
    return 1


def claims(*args, **kwargs):
    return 1


claims.__signature__ = inspect.signature(one)


class Meta(type):
    def __call__(cls, *args, **kwargs):
        return 1


class OfMeta(metaclass=Meta):
    def __init__(self):
        pass


class Colour(enum.Enum):
    RED = 1


class Failure(Exception):
    def __init__(self, a):
        pass


class Odd:
    @property
    def __call__(self):
        return lambda *args, **kwargs: 1


class Lazy:
    __call__ = functools.partialmethod(lambda self, a, *args: 1, 2)


def ours(self):
    pass


class Claims:
    def __call__(self, *args, **kwargs):
        return 1

    __signature__ = inspect.signature(one)
    __wrapped__ = one


UNCERTAIN = {
    "wraps": wrapper,
    "__signature__": claims,
    "metaclass": OfMeta,
    "enum": Colour,
    "exception": Failure,
    "property": Odd(),
    "partialmethod": Lazy(),
    "object with a signature": Claims(),
    "max": max,
    "print": print,
    "type": type,
    "dict": dict,
    "partial of max": functools.partial(max, 1),
    "mock": mock.Mock(),
    "autospec": mock.create_autospec(ours),
    "singledispatch": functools.singledispatch(one),
    "method of max": functools.partialmethod(max),
    "alias": list[int],
    "method": [].append,
}


@pytest.mark.parametrize("name", UNCERTAIN)
def test_where_it_is_not_certain_any_call_is_let_through(name):
    for count, names in SHAPES:
        assert not find_binding_problem(UNCERTAIN[name], count, names)


def test_callables_without_end_are_let_through():
    code = functools.cache(one)
    code.__wrapped__ = code
    assert not find_binding_problem(code, 9)


def test_a_function_whose_code_nobody_could_have_written_is_let_through():
    code = (lambda a: None).__code__.replace(co_varnames=(".0",))
    assert not find_binding_problem(type(one)(code, {}), 9)
    assert "positional argument" in find_binding_problem(type(one)((lambda ä: None).__code__, {}), 9)


def test_defaults_are_counted_but_never_used():
    def code(x, y=sys):
        pass

    assert not find_binding_problem(code, 1)
    code.__defaults__ = None
    assert "missing 1 required positional argument: 'y'" in find_binding_problem(code, 1)
