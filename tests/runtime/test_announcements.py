"""Failures are announced: the first of each kind with its traceback, and how many others there are."""

from __future__ import annotations

from handoff_mpi.messages import ErrorReport
from handoff_mpi.results.failure_groups import grouped
from handoff_mpi.runtime.announcements import MAX_LINES, MAX_TRACEBACKS, FailurePrinter


def printer(count=10_000):
    said = []
    return FailurePrinter("f-{}".format, {1: "h1"}, said.append), said


def report(message="bad 1", place="dag.py:4", kind="ValueError"):
    return ErrorReport(kind, message, f"Traceback:\n  {place}\n{kind}: {message}\n" if place else "", (), place)


def test_a_failure_that_is_tried_again_is_shown_at_once_with_its_traceback():
    shown, said = printer()
    shown.attempt_failed(0, 1, 1, report(), 0.0)
    shown.attempt_failed(1, 1, 1, report("bad 2"), 0.0)
    assert said == [
        "function 'f-0' is tried again: attempt 1 on rank 1 (h1) ended with ValueError: bad 1\n"
        "    Traceback:\n      dag.py:4\n    ValueError: bad 1"
    ]
    shown.function_failed(1, 4, 1, report("bad 2"))
    assert said[1:] == ["function 'f-1' failed on rank 1 (h1), attempt 4: ValueError: bad 2 (shown above)"]
    shown.close()
    assert len(said) == 2


def test_a_delay_is_said():
    shown, said = printer()
    shown.attempt_failed(0, 1, 1, report(place=""), 12.34)
    assert said == ["function 'f-0' is tried again in 12.3 s: attempt 1 on rank 1 (h1) ended with ValueError: bad 1"]


def test_equal_failures_are_one_traceback_and_a_count():
    shown, said = printer()
    for task in range(5000):
        shown.function_failed(task, 1, 1, report(f"bad {task}"))
    shown.close()
    assert len(said) == 2
    assert said[1] == "ValueError at dag.py:4: 'f-0' and 4,999 others ('f-1', 'f-2', 'f-3', 'f-4', …) failed"


def test_elements_are_counted_one_by_one_and_the_message_is_that_of_the_first_which_failed():
    leases = {7: (["s[518]", "s[619]"], 3), 8: (["s[13]"], 7)}
    said = []
    shown = FailurePrinter("s-{}".format, {1: "h1"}, said.append, leases.get)
    shown.attempt_failed(8, 1, 1, report("bad 13"), 0.0)
    shown.function_failed(7, 2, 1, report("bad 518"))
    shown.function_failed(8, 2, 1, report("bad 13"))
    shown.close()
    assert said[-1] == "ValueError at dag.py:4: 's[518]' and 9 others ('s[619]', 's[13]', …) failed"
    (group,) = shown.groups()
    assert (group.count, group.message) == (10, "bad 518")


def test_other_kinds_and_places_are_shown_for_themselves():
    shown, said = printer()
    shown.function_failed(0, 1, 1, report())
    shown.function_failed(1, 1, 1, report(kind="KeyError"))
    shown.function_failed(2, 1, 1, report(place="dag.py:5"))
    shown.function_failed(3, 1, -1, report("needs 5 GB", place="", kind="no-room"))
    shown.function_failed(4, 1, -1, report("needs 7 GB", place="", kind="no-room"))
    shown.function_failed(5, 1, -1, report("needs a GPU", place="", kind="no-room"))
    assert len(said) == 5
    assert said[3] == "function 'f-3' failed, attempt 1: no-room: needs 5 GB"


def test_a_failure_that_may_be_its_hosts_fault_is_shown_once():
    shown, said = printer()
    shown.attempt_failed(0, 1, 1, report(), None)
    shown.function_failed(0, 1, 1, report())
    shown.close()
    assert len(said) == 1


def test_a_failure_that_was_undecided_is_shown_once_even_if_it_ends_in_other_words():
    shown, said = printer()
    shown.attempt_failed(0, 3, 1, report("exit status 1; peak memory 35 MiB", "", "death"), None)
    shown.function_failed(0, 3, 1, report("died 3 times, last on rank 1", "", "death"))
    shown.function_failed(1, 3, 1, report("died 3 times, last on rank 1", "", "death"))
    shown.close()
    assert said == [
        "function 'f-0' failed on rank 1 (h1), attempt 3: death: exit status 1; peak memory 35 MiB",
        "death: 'f-0' and 1 other ('f-1') failed",
    ]


def test_the_log_is_bounded_under_any_failures():
    shown, said = printer()
    for task in range(10_000):
        shown.function_failed(task, 1, 1, report(place=f"dag.py:{task}"))
    shown.close()
    assert sum("Traceback" in line for line in said) == MAX_TRACEBACKS
    assert len(said) == MAX_LINES + 1
    assert said[-1] == "9,900 more functions failed, in other ways than those shown"


def test_groups_are_the_largest_first():
    failures = [
        ([0], 1, "ValueError", "a:1", "x"),
        ([1], 1, "KeyError", "a:2", "y"),
        ([2], 1, "KeyError", "a:2", "z\nmore"),
    ]
    assert [group.line() for group in grouped(failures)] == [
        "1 and 1 other (2): KeyError at a:2: y",
        "0: ValueError at a:1: x",
    ]
