"""Elements of classes of users are the same in two launches where their values and the code of their classes are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.dag.fingerprint import ObjectDigests, elements


def make_class(text="return self.a"):
    """Return a class as dag.py would define it."""
    names = {"__name__": "__main__"}
    exec(f"class Case:\n  def __init__(self, a): self.a = a\n  def run(self): {text}", names)
    return names["Case"]


def frozen(*values):
    found = freeze_elements(values, "argument 1")
    found.encode()
    return found


def test_objects_are_compared_by_value_and_by_the_code_of_their_class():
    one, again, other = make_class(), make_class(), make_class("return 2 * self.a")
    before = frozen(one(1), one([2, one(3)])).digests(ObjectDigests())
    assert [*frozen(again(1), again([2, again(3)]), 5).same_prefix(before, ObjectDigests())] == [(0, 2)]
    assert [*frozen(one(1), one([2, one(4)])).same_prefix(before, ObjectDigests())] == [(0, 1)]
    for values in ((other(1), other([2, other(3)])), (one([2, one(3)]), one(1))):
        assert not frozen(*values).same_prefix(before, ObjectDigests())
    assert not frozen(one(1), one([2, one(3)])).same_prefix(before), "nobody tells whether the code is the same"


def test_an_object_without_a_form_has_no_digest():
    digests = ObjectDigests()
    assert digests(make_class()(open)) is not None
    with Path(__file__).open() as file:
        assert digests(make_class()(file)) is None
    assert digests(sys._getframe()) is None


@pytest.mark.parametrize("most", [0, 100_000])
def test_memory_is_bounded_and_digests_stay(monkeypatch, most):
    monkeypatch.setattr(elements, "MAX_VISITED", most)
    digests, case = ObjectDigests(), make_class()
    first = digests(case(1))
    assert len({digests(case(number)) for number in range(100)}) == 100
    assert digests(case(1)) == first and None not in {first}
