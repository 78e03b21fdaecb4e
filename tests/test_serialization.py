"""Payloads: what goes by value, and what is shared."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from handoff_mpi.serialization import (
    PICKLED,
    PLAIN,
    EncodingError,
    decode,
    decode_code,
    decode_input,
    decode_private,
    decode_writable,
    encode,
    encode_code,
    nbytes_of,
)


@pytest.mark.parametrize("value", [None, True, 3, -2.5, "text", b"bytes", (1, ("a", None)), 1 << 80, [1], {"a": {2}}])
def test_round_trip(value):
    assert decode(encode(value)) == value


def test_small_immutables_travel_as_they_are():
    assert encode((1, "a")) == (PLAIN, (1, "a"))
    assert encode([1])[0] == PICKLED


def test_each_consumer_gets_its_own_copy():
    payload = encode({"a": [1]})
    decode(payload)["a"].append(2)
    assert decode(payload) == {"a": [1]}


def test_large_arrays_are_shared_and_read_only():
    array = np.arange(100_000.0)
    payload = encode({"x": array})
    assert nbytes_of(payload) > array.nbytes > len(payload[1])
    seen = decode(payload)["x"]
    assert np.shares_memory(seen, array)
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1
    own = decode_writable((*payload[:2], bytes(payload[2])))["x"]
    own[0] = 7
    assert array[0] == 0


def test_arrays_with_gaps_arrive_whole():
    array = np.arange(100_000).reshape(100, 1000)[::2, ::3]
    assert np.array_equal(decode(encode(array)), array)


def test_lambdas_and_closures_travel_by_value():
    offset = 5
    assert decode_code(encode_code(lambda x: x + offset))(2) == 7


def test_what_cannot_be_pickled_is_named():
    with pytest.raises(EncodingError, match=r"generator object .* cannot be pickled"):
        encode(x for x in ())


def test_what_cannot_be_loaded_is_an_error():
    with pytest.raises(EncodingError, match="could not be loaded"):
        decode_code(b"nonsense")


@pytest.mark.parametrize("decoded", [decode_input, decode_private, decode_writable])
def test_what_is_decoded_is_freed_without_a_garbage_collection(decoded):
    gc.disable()
    try:
        value = decoded(encode([np.arange(10.0), np.arange(1e5)]))
        gone = [weakref.ref(array) for array in value]
        del value
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


ARRAYS = [np.arange(10.0), np.arange(1e5), np.empty(0), np.array(3.5), np.asfortranarray(np.ones((4, 5)))]


@pytest.mark.parametrize("array", ARRAYS, ids=["small", "large", "empty", "no dimensions", "Fortran order"])
def test_arrays_of_inputs_are_read_only_and_those_of_results_are_not(array):
    for value in (array, {"a": array}, (array, array)):
        first = decode_input(encode(value))
        for shared in (first, decode_input(encode(first))):
            assert not one_of(shared).flags.writeable and np.array_equal(one_of(shared), array)
            for own in (decode_private(encode(shared)), decode_writable(encode(shared))):
                assert one_of(own).flags.writeable and one_of(own).flags.f_contiguous == array.flags.f_contiguous
                one_of(own)[...] = 7
                assert np.array_equal(one_of(shared), array), "nobody else sees it"


def one_of(value):
    return value["a"] if isinstance(value, dict) else value[1] if isinstance(value, tuple) else value
