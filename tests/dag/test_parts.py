"""The innermost part of a value that is at fault is named, however the value holds it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import threading

import numpy as np
import pytest

from handoff_mpi.dag.parts import find_innermost, list_parts
from handoff_mpi.serialization import why_not_encodable

LOCK = threading.Lock()


class Model:
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def fit(self):
        pass


class Slots:
    __slots__ = ("x", "y")

    def __init__(self, x):
        self.x = x


@dataclasses.dataclass
class Point:
    x: object


class Rebuilt:
    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return Rebuilt, (1, self.x)


class Stateful:
    def __getstate__(self):
        return LOCK


class Own(dict):
    pass


def plain():
    pass


def closes_over(lock):
    return lambda: lock


def reads_a_global():
    return LOCK


def has_a_default(lock=LOCK):
    return lock


for _each in (closes_over, reads_a_global, has_a_default):
    _each.__module__ = "__main__"  # goes by value


PLACES = {
    "itself": (LOCK, "argument 1"),
    "attribute": (Model(a=1, x=LOCK), "attribute x of argument 1"),
    "slot": (Slots(LOCK), "attribute x of argument 1"),
    "field": (Point(LOCK), "attribute x of argument 1"),
    "item": ([1, (2, LOCK)], "item 1 of item 1 of argument 1"),
    "value": ({"a": {3: LOCK}}, "item 3 of item 'a' of argument 1"),
    "key": ({(1, LOCK): 1}, "item 1 of key (1, <unlocked _thread.lock object at"),
    "set": ({LOCK}, "item 0 of argument 1"),
    "deque": (collections.deque([LOCK]), "item 0 of argument 1"),
    "own mapping": (Own(a=LOCK), "item 'a' of argument 1"),
    "defaultdict": (collections.defaultdict(list, a=[LOCK]), "item 0 of item 'a' of argument 1"),
    "constructor": (Rebuilt(LOCK), "constructor argument 2 of argument 1"),
    "state": (Stateful(), "the state of argument 1"),
    "method": (Model(x=LOCK).fit, "attribute x of the object of argument 1"),
    "partial": (functools.partial(plain, 1, LOCK, k=2), "argument 2 of argument 1"),
    "partial by name": (functools.partial(plain, k=LOCK), "argument 'k' of argument 1"),
    "array": (np.array([1, LOCK], dtype=object), "item 1 of argument 1"),
    "deep": (
        Model(a=[Model(b={"c": Slots(LOCK)})]),
        "attribute x of item 'c' of attribute b of item 0 of ",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_place_is_named(name):
    value, place = PLACES[name]
    assert find_innermost([("argument 0", 1), ("argument 1", value)], why_not_encodable).startswith(place)


def test_the_place_in_code_is_named():
    def of(code):
        return find_innermost([("the code", code)], why_not_encodable)

    inner = closes_over(LOCK)
    inner.__module__ = "__main__"
    assert of(inner) == "closure variable lock of the code"
    assert of(has_a_default) == "a default of the code"


def test_what_is_intact_has_no_place_and_cycles_have_an_end():
    value = Model(x=1)
    value.itself = [value]
    assert find_innermost([("argument 1", value)], why_not_encodable) == ""
    value.lock = LOCK
    assert find_innermost([("argument 1", value)], why_not_encodable) == "attribute lock of argument 1"
    assert len(list_parts([("argument 1", value)])) < 20


def test_very_many_parts_are_not_all_tried():
    tried = []

    def is_at_fault(part):
        tried.append(part)
        return isinstance(part, list)

    many = [Model(i=i) for i in range(100_000)]
    assert find_innermost([("argument 1", many)], is_at_fault) == "argument 1"
    assert len(tried) <= 2_000
    assert len(list_parts([("argument 1", many)])) <= 300


def test_what_cannot_be_taken_apart_is_the_innermost():
    class Odd:
        def __reduce_ex__(self, protocol):
            raise RuntimeError

    assert find_innermost([("argument 1", [Odd()])], why_not_encodable) == "item 0 of argument 1"
