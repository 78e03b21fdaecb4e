"""Names near an unknown one are suggested, in bounded time for any names."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest

from handoff_mpi.numerals import parse_real, parse_whole, plain
from handoff_mpi.suggestions import KnownNames, UnknownName, did_you_mean


@pytest.mark.parametrize(
    ("wanted", "known", "hint"),
    [
        ("fot", ["fit", "load"], "; did you mean 'fit'?"),
        ("FIT", ["fit"], "; did you mean 'fit'?"),
        ("laod-2", ["load-2", "load-7", "fit"], "; did you mean 'load-2'?"),
        ("3", {3: None, 4: None}, "; did you mean 3?"),
        (3, {"3": None}, "; did you mean '3'?"),
        (("a", 3), {("a", "3"): None}, "; did you mean ('a', '3')?"),
        ("nothing like it", ["fit"], ""),
        ("a", ["b"], ""),
        ("", ["fit"], ""),
        ("fit", [], ""),
        (None, ["fit"], ""),
        ("x" * 70_000, ["fit", "xxx"], ""),
    ],
)
def test_the_nearest_names(wanted, known, hint):
    assert did_you_mean(wanted, known) == hint


def test_words_of_other_tools_come_first():
    known = KnownNames(["timeout", "wall"], {"walltime": "timeout"}, str)
    assert known.hint("WallTime") == known.hint("--wall-time".replace("l-t", "lt")) == "; did you mean timeout?"
    assert known.hint("waltime") == "; did you mean timeout?"
    assert known.hint("wal") == "; did you mean wall?"
    assert known.listed(["walltime", "zzz"]) == "walltime (did you mean timeout?), zzz"


def test_a_million_names_take_no_time():
    known = KnownNames({f"fit-{number}": None for number in range(1_000_000)})
    begun = time.perf_counter()
    assert known.hint("fit-7777z7") == "; did you mean 'fit-77777', 'fit-777707' or 'fit-777717'?"
    assert known.hint("fti-123456") == "; did you mean 'fit-123456'?"
    assert known.hint("Fit_999999".replace("F", "f")) == "; did you mean 'fit-999999'?"
    for number in range(100):
        known.hint(f"gone-{number}-{'x' * number}")
    assert time.perf_counter() - begun < 2


def test_names_that_cannot_be_shown_are_no_trouble():
    class Shy:
        def __repr__(self):
            raise SystemExit("no")

    assert did_you_mean(Shy(), ["fit"]) == ""
    assert did_you_mean("fit", [Shy(), "fit-2"]) == "; did you mean 'fit-2'?"


def test_an_unread_key_error_costs_nothing_and_can_be_pickled():
    error = UnknownName("no function 'fot'", "fot", {"fit": None})
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "no function 'fot'; did you mean 'fit'?"
    assert isinstance(error, KeyError)


NO_NUMBERS = ["٣", "1_0", "0x10", "nan", "inf", "-inf", "", " ", "1 0", "\uff11", "9" * 5_000, "1e999"]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number(text):
    for parse in (parse_whole, parse_real):
        with pytest.raises(ValueError, match="not a"):
            parse(text)


def test_what_is_one():
    assert [parse_whole(text) for text in ("0", "-3", "+7", " 12 ")] == [0, -3, 7, 12]
    assert [parse_real(text) for text in ("0", "-3.5", ".5", "2.", "1e-3", "1E3")] == [0, -3.5, 0.5, 2, 0.001, 1000]
    for text in ("1.0", "1e3"):
        with pytest.raises(ValueError, match="not a whole number"):
            parse_whole(text)


def test_numbers_of_other_classes_become_pythons_own():
    given = [np.int8(3), np.uint64(3), np.float32(0.5), np.float64(0.5), np.bool_(True), np.str_("a"), True]
    plainly = [3, 3, 0.5, 0.5, True, "a", True]
    for value, expected in zip(map(plain, given), plainly, strict=True):
        assert (value, type(value)) == (expected, type(expected))
    odd = [None, np.arange(3), [1], b"x", 1j, object(), np.complex128(1)]
    assert all(plain(each) is each for each in odd)
