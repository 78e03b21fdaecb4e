"""Functions that need not be encoded again: what leads to immutable objects alone, which are the same."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from handoff_mpi.launch import known_codes
from handoff_mpi.launch.known_codes import KnownCodes
from handoff_mpi.serialization import carry_by_value, decode_code

SOURCE = """
import math

SCALE, TABLE, LIMITS = 2, [1, 2], (0, ("a", None))

class Options:
    scale = 3

def scaled(x, by=1) -> float:
    return helper(x) * by + math.sqrt(len(LIMITS) - 2)

def helper(x):
    return x * SCALE

def listed(x):
    return TABLE[x]

def optional(x):
    return x * Options.scale

def closure(factor):
    def multiply(x):
        return x * factor
    def set_factor(new):
        nonlocal factor
        factor = new
    return multiply, set_factor
"""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # where it is decoded, fresh processes can find it
    module = ModuleType("a_script_that_maps")
    module.__file__ = "/a_script_that_maps.py"
    sys.modules[module.__name__] = module
    exec(SOURCE, vars(module))
    carry_by_value(module)
    yield module
    del sys.modules[module.__name__]


@pytest.fixture
def encoded(monkeypatch):
    """The functions that were encoded, in order."""
    found = []
    encode_code = known_codes.encode_code

    def encode(code):
        found.append(code)
        return encode_code(code)

    monkeypatch.setattr(known_codes, "encode_code", encode)
    return found


def encode_often(codes, function, times=6):
    return [codes.encode(function, function, False) for _ in range(times)]


def test_a_function_that_leads_to_immutable_objects_is_encoded_until_it_is_known(script, encoded):
    assert len(set(encode_often(KnownCodes(), script.scaled))) == 1
    assert encoded == [script.scaled] * 2  # the first time may be the only one
    assert decode_code(KnownCodes().encode(script.scaled, script.scaled, False))(3) == 6


@pytest.mark.parametrize(
    "change",
    [
        "SCALE = 3",
        "helper = lambda x: x",
        "LIMITS = (0, 1, 2)",
        "scaled.__defaults__ = (5,)",
        "helper.__code__ = (lambda x: x + 1).__code__",
        "helper.extra = []",
        "del SCALE",
        "len = lambda x: 4",
    ],
)
def test_a_change_of_anything_that_it_leads_to_is_seen(script, change):
    codes = KnownCodes()
    before = encode_often(codes, script.scaled)[-1]
    exec(change, vars(script))
    assert codes.encode(script.scaled, script.scaled, False) != before


def test_what_leads_to_mutable_objects_is_encoded_each_time(script, encoded):
    for function in (script.listed, script.optional):
        encode_often(KnownCodes(), function)
    assert len(encoded) == 2 * 7  # and once more, to see whether it is certain
    script.TABLE.append(3)
    codes = KnownCodes()
    before = encode_often(codes, script.listed)[-1]
    script.TABLE[0] = 9
    assert codes.encode(script.listed, script.listed, False) != before


def test_variables_of_a_closure_count(script, encoded):
    multiply, set_factor = script.closure(2)
    codes = KnownCodes()
    before = encode_often(codes, multiply)[-1]
    assert len(encoded) == 2
    set_factor(3)
    assert codes.encode(multiply, multiply, False) != before
    other, _ = script.closure(3)
    assert decode_code(codes.encode(other, other, False))(2) == 6


def test_a_function_is_forgotten_when_many_others_came(script, encoded):
    codes = KnownCodes()
    functions = [script.closure(number)[0] for number in range(40)]
    for function in functions:
        encode_often(codes, function, 3)
    encoded.clear()
    encode_often(codes, functions[-1], 1)
    assert encoded == []
    encode_often(codes, functions[0], 1)
    assert encoded == [functions[0]]


def test_one_function_that_is_called_in_two_ways_has_two_codes(script):
    codes = KnownCodes()
    encode_often(codes, script.scaled)
    assert decode_code(codes.encode(script.scaled, script.helper, True))(1) == 2
    assert decode_code(codes.encode(script.scaled, script.helper, True))(1) == 2


@pytest.fixture
def installed(monkeypatch):
    """A module whose functions are sent by name."""
    module = ModuleType("a_module_that_is_installed")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(SOURCE, vars(module))
    return module


def test_a_function_that_is_sent_by_name_is_encoded_until_it_is_known(installed, encoded):
    assert len(set(encode_often(KnownCodes(), installed.listed))) == 1
    assert encoded == [installed.listed] * 2


@pytest.mark.parametrize(
    "change",
    [
        "other = listed; listed = None",
        "del listed.__globals__['listed']",
        "import sys; del sys.modules[__name__]",
        "listed.__qualname__ = 'helper'",
        "listed.__module__ = 'a_module_that_is_missing'",
    ],
)
def test_a_name_that_no_longer_stands_for_its_function_is_seen(installed, encoded, change):
    codes, listed = KnownCodes(), installed.listed
    encode_often(codes, listed)
    encoded.clear()
    exec(change, vars(installed))
    codes.encode(listed, listed, False)
    assert {*encoded} == {listed}


def test_a_function_within_another_that_has_no_name_is_encoded_each_time(installed, encoded):
    multiply, _ = installed.closure(2)
    encode_often(KnownCodes(), multiply)
    assert len(encoded) == 7  # and once more, to see whether it is certain
