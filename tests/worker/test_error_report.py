"""Exceptions are reported: the user's frames alone, deep stacks in short, and what rank 0 decides by."""

from __future__ import annotations

import json
import sys

import pytest

from handoff_mpi.callbacks import call_here
from handoff_mpi.worker.error_report import MAX_TRACEBACK_CHARS, describe, is_about_read_only_memory, release_frames


def caught(code, *args):
    """Return the report of the exception that ``code`` raises, called as a rank does."""
    try:
        call_here(code, args, {})
    except BaseException as error:
        return describe(error)
    raise AssertionError("it raised nothing")


def fail(message="oops"):
    raise ValueError(message)


def through_us():
    call_here(fail, (), {})


def from_another():
    try:
        through_us()
    except ValueError as error:
        raise KeyError("wrapped") from error


def while_handling():
    try:
        through_us()
    except ValueError:
        raise KeyError("second")  # noqa: B904


def is_ours(traceback):
    return "handoff_mpi/callbacks.py" in traceback


@pytest.mark.parametrize("code", [fail, through_us, from_another, while_handling])
def test_no_frame_of_this_package_is_shown_in_any_part(code):
    report = caught(code)
    assert not is_ours(report.traceback), report.traceback
    assert "in fail" in report.traceback and __file__ in report.traceback
    assert report.traceback.startswith("Traceback (most recent call last):\n")


def test_chains_are_shown_as_python_does():
    assert "The above exception was the direct cause" in caught(from_another).traceback
    assert "During handling of the above exception" in caught(while_handling).traceback


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups and notes before")
def test_groups_and_notes_are_shown_without_our_frames():
    def group():
        errors = []
        for each in (through_us, from_another):
            try:
                each()
            except Exception as error:
                error.add_note("a note of mine")
                errors.append(error)
        raise ExceptionGroup("several", errors)  # noqa: F821

    report = caught(group)
    assert not is_ours(report.traceback), report.traceback
    assert report.traceback.count("a note of mine") == 2
    assert report.traceback.count("in fail") == 2


def test_a_deep_stack_is_shown_in_short():
    def one(depth):
        return other(depth + 1)

    def other(depth):
        return one(depth + 1)

    report = caught(one, 0)
    assert report.kind == "RecursionError"
    assert "frames left out ...]" in report.traceback
    assert len(report.traceback.splitlines()) < 200
    assert report.traceback.rstrip().splitlines()[-1].startswith("RecursionError")


def test_a_long_chain_is_shown_in_bounded_length():
    def chain(depth):
        try:
            if depth:
                chain(depth - 1)
            fail()
        except Exception as error:
            raise KeyError(depth) from error

    assert len(caught(chain, 120).traceback) < MAX_TRACEBACK_CHARS + 100


def test_a_cycle_of_causes_ends():
    def cycle():
        one, two = ValueError("one"), ValueError("two")
        one.__cause__, two.__cause__ = two, one
        raise one

    assert "ValueError: one" in caught(cycle).traceback


def parse():
    return json.loads("{")


def test_the_place_is_the_innermost_line_of_the_users_own_files():
    for code, line in ((through_us, fail.__code__.co_firstlineno + 1), (parse, parse.__code__.co_firstlineno + 1)):
        assert caught(code).place == f"{__file__}:{line}"


class Mute(Exception):
    """Whose message raises."""

    def __str__(self):
        raise KeyboardInterrupt


class Text(str):
    def __len__(self):
        raise RuntimeError


def test_a_message_of_a_class_of_its_own_travels_as_plain_text():
    class Worded(Exception):
        def __str__(self):
            return Text("oops")

    def fail_so():
        raise Worded

    message = caught(fail_so).message
    assert (type(message), message) == (str, "oops")


def test_what_cannot_be_shown_is_reported_all_the_same():
    def mute():
        raise Mute

    report = caught(mute)
    assert (report.kind, report.message) == ("Mute", "(its message cannot be shown)")
    assert report.lineage[0] == f"{__name__}.Mute"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("assignment destination is read-only"),
        ValueError("output array is read-only"),
        ValueError("sort array is read-only"),
        ValueError("buffer source array is read-only"),
        ValueError("cannot set WRITEABLE flag to True of this array"),
        TypeError("cannot modify read-only memory"),
        TypeError("Cannot modify readonly array of type: readonly array(float64, 1d, C)"),
        BufferError("Object is not writable."),
    ],
)
def test_what_libraries_say_of_memory_that_may_not_be_written_to(error):
    assert is_about_read_only_memory(error)


def test_other_errors_are_not_about_memory():
    assert not is_about_read_only_memory(OSError("Read-only file system"))
    assert not is_about_read_only_memory(ValueError("no"))
    assert not is_about_read_only_memory(Mute())


class Evasive(ValueError):
    def __getattribute__(self, name):
        raise RuntimeError(name)


class Lying(ValueError):
    @property
    def __cause__(self):
        raise KeyboardInterrupt

    __context__ = __traceback__ = exceptions = __cause__


@pytest.mark.parametrize("kind", [Evasive, Lying])
def test_an_exception_that_cannot_be_asked_is_reported_all_the_same(kind):
    error = kind("x")
    release_frames(error)
    assert describe(error).kind == kind.__name__

    def fail_so():
        raise error

    assert caught(fail_so).lineage[1] == "ValueError"


@pytest.mark.parametrize(
    "file",
    [
        "cupy/cuda/memory.pyx",
        "/opt/other/lib/python3.12/site-packages/torch/nn/modules/module.py",
        "/usr/lib/python3/dist-packages/scipy/_lib/_util.py",
        "pandas/_libs/index.pyx",
    ],
)
def test_the_place_is_not_in_what_is_installed_wherever_that_lies(file):
    scope = {}
    exec(compile("def fail():\n    raise ValueError('no')", file, "exec"), scope)

    def code():
        scope["fail"]()

    assert caught(code).place == f"{__file__}:{code.__code__.co_firstlineno + 1}"
