"""The calls of an array's elements are put together once: the elements are put into marked positions."""

from __future__ import annotations

import pickle

import pytest

from handoff_mpi.dag import build_element_calls
from handoff_mpi.dag.call_template import CONSTANT, ELEMENT, ELEMENTS, INLINE, INPUT, Placeholder
from handoff_mpi.serialization import PLAIN, EncodingError


def template(args, kwargs, inlines=(), codes=(4,)):
    blobs = tuple((number, pickle.dumps(call)) for number, call in inlines)
    return codes, ELEMENTS, (PLAIN, (blobs, pickle.dumps((args, kwargs)))), ()


def test_elements_are_put_between_values_that_all_calls_share():
    args = [Placeholder(INPUT, 0), Placeholder(ELEMENT, 1), [Placeholder(CONSTANT, 7)], Placeholder(ELEMENT, 0)]
    made = template(args, {"k": (Placeholder(INPUT, 1), 2)})
    code, args, kwargs, positions = build_element_calls(made, ["a", "b"], {4: pow}.get, {7: "large"}.get)
    assert (code, kwargs, positions) == (pow, {"k": ("b", 2)}, ((1, 1), (3, 0)))
    assert type(args) is list and args[0] == "a" and args[2] == ["large"]


def test_calls_that_take_elements_alone_need_no_pickle():
    made = (4,), ELEMENTS, (PLAIN, 2), ()
    assert build_element_calls(made, [], {4: pow}.get, None) == (pow, [None, None], {}, ((0, 0), (1, 1)))


def test_inline_functions_are_evaluated_once_for_all_elements():
    calls = []

    def double(value):
        calls.append(value)
        return 2 * value

    made = template([Placeholder(INLINE, 0), Placeholder(ELEMENT, 0)], {}, [(9, ([Placeholder(INPUT, 0)], {}))], (4, 9))
    code, args, _, positions = build_element_calls(made, [21], {4: max}.get, None, {9: double}.get)
    assert [code(args[0], element) for element in (1, 100)] == [42, 100]
    assert (calls, positions) == ([21], ((1, 0),))


def test_broadcast_values_that_cannot_be_decoded_are_refused():
    (codes, mode, (kind, (inlines, call)), large) = template([Placeholder(INPUT, 0), Placeholder(ELEMENT, 0)], {})
    broken = codes, mode, (kind, (inlines, call[:-1])), large
    with pytest.raises(EncodingError, match="its arguments cannot be put together"):
        build_element_calls(broken, [1], {4: pow}.get, None)
