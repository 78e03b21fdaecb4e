"""Pickles of anybody's: nothing that they name is looked up or called."""

from __future__ import annotations

import datetime
import os
import pickle

import pytest

from handoff_mpi.formatting import id_text
from handoff_mpi.results.plain_pickles import Unknown, loads_hostile, loads_plain
from handoff_mpi.serialization import CarriedId

PLAIN = ("turn", [(1, 2, -3)], {"a": 1.5, b"b": None}, frozenset({(1, "x")}), True, 10**30)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Odd:
    def __init__(self):
        self.inner = {"left": [1, 2]}


@pytest.mark.parametrize("loads", [loads_plain, loads_hostile])
def test_plain_data_is_read_and_nothing_is_called(loads, tmp_path):
    made = tmp_path / "made"
    read = loads(pickle.dumps([PLAIN, Bomb(str(made)), Odd(), datetime.date(2026, 1, 1), print]))
    assert read[0] == PLAIN
    assert [type(each) for each in read[1:4]] == [Unknown] * 3
    assert read[4] is Unknown
    assert not made.exists()


@pytest.mark.parametrize("loads", [loads_plain, loads_hostile])
def test_an_id_of_a_class_comes_as_its_text(loads):
    id = datetime.timedelta(days=2)
    assert id_text(loads(pickle.dumps((CarriedId(id), 1)))[0]) == "datetime.timedelta(days=2)"


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\x80\x05.",
        b"\x80\x05]r\xff\xff\xff\xff.",  # room for four billion objects
        b"cos\nsystem\n(S'true'\ntRb.",
        b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"P1\n.",
        b"\x80\x05(" + b"]" * 100 + b"u.",
    ],
)
def test_a_hostile_pickle_costs_an_exception_at_most(hostile):
    try:
        loads_hostile(hostile)
    except Exception as error:
        assert not isinstance(error, MemoryError)
