"""Ranks that are at different calls of ``execute`` learn that at once, and never serve each other's runs."""

from __future__ import annotations

import re

import pytest

from handoff_mpi.errors import StartupError
from handoff_mpi.launch import call_site
from handoff_mpi.launch.call_site import CallSite, Frame, are_different, meet
from handoff_mpi.process_context import this_process

SCRIPT = """
import sys
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world

rank = world().rank

def square(number):
    dag = DAG(str(number))
    dag.add_function(Function("square", (), pow, [number, 2]))
    return dag

def run(number):
    results = handoff.execute(square(number), results_on="all", join_limit=5)
    return results and results["square"]

def attempt(function, *args):
    try:
        print(f"{rank} {function.__name__}:", function(*args), flush=True)
    except Exception as error:
        print(f"{rank} {function.__name__}: {type(error).__name__}: {error}", flush=True)
"""


def frames(*lines, path="/home/ann/script.py", function="main", first_line=1):
    return tuple(Frame(path, line, function, first_line) for line in lines)


@pytest.fixture
def source(tmp_path):
    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        return str(path)

    return write


def at(path, line):
    return CallSite("execute", frames(line, path=path, function="<module>"))


@pytest.mark.parametrize(
    ("text", "one", "other"),
    [
        ("if rank == 0:\n    a()\nelse:\n    b()\n", 2, 4),
        ("if rank == 0:\n    a()\nelif rank == 1:\n    b()\nelse:\n    c()\n", 4, 6),
        ("x = (\n    a()\n    if rank == 0 else\n    b()\n)\n", 2, 4),
        ("if rank:\n    a()\n    sys.exit()\nb()\n", 2, 4),
        ("def f():\n    if rank:\n        a()\n        return\n    b()\n", 3, 5),
        ("for x in y:\n    if rank:\n        a()\n        continue\n    b()\n", 3, 5),
        ("match rank:\n    case 0:\n        a()\n    case _:\n        b()\n", 3, 5),
        ("with x:\n    if rank == 0:\n        with y:\n            a()\n    else:\n        b()\n", 4, 6),
    ],
)
def test_branches_by_rank_are_one_call(source, text, one, other):
    path = source(text)
    assert not are_different(at(path, one), at(path, other))
    assert not are_different(at(path, other), at(path, one))


@pytest.mark.parametrize(
    ("text", "one", "other"),
    [
        ("a()\nb()\n", 1, 2),
        ("if rank:\n    a()\nb()\n", 2, 3),
        ("if rank:\n    a()\n    c()\nelse:\n    b()\n", 2, 3),
        ("try:\n    a()\nexcept ValueError:\n    b()\n", 2, 4),
        ("if rank:\n    a()\nelse:\n    b()\nc()\n", 2, 5),
    ],
)
def test_lines_that_one_pass_reaches_both_are_two_calls(source, text, one, other):
    path = source(text)
    assert are_different(at(path, one), at(path, other))


def test_code_without_a_file_cannot_be_compared():
    assert not are_different(at("<string>", 1), at("<string>", 2))


def test_different_programs_cannot_be_compared():
    assert not are_different(at("/a/lead.py", 3), at("/a/serve.py", 8))


def test_the_same_file_in_different_directories_is_the_same():
    assert not are_different(at("/node1/x.py", 3), at("/node2/x.py", 3))


def test_the_same_wrapper_called_from_two_places_is_two_calls(source):
    path = source("run()\nrun()\n")
    inner = frames(30, path=path, function="run", first_line=29)
    first, second = (CallSite("execute", at(path, line).frames + inner) for line in (1, 2))
    assert are_different(first, second)
    assert not are_different(first, first)


@pytest.mark.parametrize(
    ("text", "is_different"), [("for f in (a, b): f()\n", True), ("(a if rank == 0 else b)()\n", False)]
)
def test_one_line_that_calls_two_functions(source, text, is_different):
    path = source(text)
    outer = at(path, 1).frames
    first = CallSite("execute", outer + frames(12, path=path, function="a", first_line=10))
    second = CallSite("execute", outer + frames(22, path=path, function="b", first_line=20))
    assert are_different(first, second) == is_different


def test_a_function_around_the_call_on_some_ranks_only_is_one_call(source):
    path = source("f()\n")
    assert not are_different(at(path, 1), CallSite("execute", at(path, 1).frames + frames(7)))


def test_the_test_and_the_count_tell_calls_apart():
    site = CallSite("execute", frames(3), "a.py::test_x[1]")
    assert are_different(site, CallSite("execute", frames(3), "a.py::test_x[2]"))
    assert are_different(site, CallSite("execute", frames(3), "a.py::test_x[1]", count=2))


def test_repeated_calls_are_counted_for_each_set_of_ranks(monkeypatch):
    monkeypatch.setitem(this_process._pieces, call_site.Calls, call_site.Calls())

    def call(group=None):
        return call_site.here(group).count

    assert [call(group) for group in (None, None, (0, 1), None, (0, 1))] == [1, 2, 1, 3, 2]
    call()
    assert call() == 1


def outcomes(sites):
    """The answers that the ranks of a round get: True, False, or the error's text."""
    answers = []
    for site in sites:

        def allgather(value):
            return [each.digest for each in sites] if isinstance(value, bytes) else list(sites)

        try:
            answers.append(meet(site, allgather))
        except StartupError as error:
            answers.append(str(error))
    return answers


def test_ranks_at_one_call_go_on():
    assert outcomes([CallSite("execute", frames(3))] * 3) == [True] * 3


def test_ranks_that_are_behind_get_the_error_and_those_ahead_wait():
    behind = CallSite("execute", frames(3), "a.py::test_a", ("", 4))
    ahead = CallSite("execute", frames(9), "a.py::test_b", ("", 5))
    answers = outcomes([behind, ahead, behind])
    assert answers[1] is False
    assert answers[0] == answers[2]
    assert "ranks 0, 2 called execute at /home/ann/script.py:3 in a.py::test_a" in answers[0]
    assert "rank 1 called execute at /home/ann/script.py:9 in a.py::test_b" in answers[0]
    assert outcomes([ahead] * 3) == [True] * 3


def test_few_places_are_named(source):
    path = source("a()\n" * 50)
    text = outcomes([at(path, line) for line in range(1, 51)])[0]
    assert text.count(" called execute at ") == 4
    assert "others are at 46 more places" in text


def test_where_nobody_is_ahead_all_get_the_error(source):
    path = source("a()\nb()\n")
    answers = outcomes([at(path, 1), at(path, 2)])
    assert answers[0] == answers[1]
    assert f"{path}:1" in answers[0]


@pytest.mark.long
def test_a_rank_that_failed_before_execute_does_not_serve_the_last_run(mpirun, tmp_path):
    script = (
        SCRIPT
        + """
def first():
    assert rank != 1, "my own"
    return run(3)

def second():
    return run(4)

attempt(first)
attempt(second)
"""
    )
    (tmp_path / "script.py").write_text(script)
    ended = mpirun(3, "script.py", timeout_s=60)
    lines = ended.out.splitlines()
    assert "1 first: AssertionError: my own" in lines
    assert not [line for line in lines if re.fullmatch(r"1 \w+: 9", line)], ended.out  # the value of the others' run
    errors = sorted(line for line in lines if "StartupError: the ranks are not at the same call" in line)
    assert [line[:8] for line in errors] == ["0 first:", "0 second", "1 second", "2 first:", "2 second"], ended.out
    first = next(number for number, line in enumerate(script.splitlines(), 1) if line == "attempt(first)")
    for line in errors[0], errors[2], errors[3]:
        assert re.search(rf"ranks 0, 2 .*from \S+script.py:{first + 1}", line), line
    assert all("rank 1 came to the end of its script" in line for line in (errors[1], errors[4]))
    assert ended.rc == 0


@pytest.mark.long
def test_branches_loops_and_wrappers_work_as_ever_and_a_slip_in_a_loop_is_found(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(
        SCRIPT
        + """
def branches():
    if rank == 0:
        return handoff.execute(square(5), results_on="all", join_limit=5)["square"]
    return handoff.execute(square(6), join_limit=5)["square"]

def serve():
    return handoff.execute(square(1), join_limit=5)["square"]

def lead():
    return run(8)

for number in range(3):
    attempt(run, number)
attempt(branches)
part = world().Split(rank % 2, rank)
for number in range(1 + rank % 2):
    handoff.execute(square(2), comm=part, join_limit=5)
attempt(lead if rank == 0 else serve)
with handoff.Cluster() as cluster:
    if cluster:
        for number in (10, 11):
            print("0 cluster:", cluster.execute(square(number))["square"], flush=True)

def looped(number):
    if rank == 2 and number == 1:
        handoff.execute(square(number), max_retries=-1)
    return run(number)

for number in range(3):
    attempt(looped, number)
"""
    )
    ended = mpirun(3, "script.py", timeout_s=60)
    assert ended.rc == 0, ended.out + ended.err
    expected = [f"{rank} run: {number**2}" for rank in range(3) for number in range(3)]
    expected += [f"{rank} branches: 25" for rank in range(3)] + ["0 lead: 64", "1 serve: 64", "2 serve: 64"]
    expected += ["0 cluster: 100", "0 cluster: 121"] + [f"{rank} looped: 0" for rank in range(3)]
    lines = ended.out.splitlines()
    assert sorted(line for line in lines if "Error" not in line) == sorted(expected)
    errors = sorted(line for line in lines if "Error" in line)
    kinds = [line.partition("Error")[0] for line in errors]
    assert kinds == ["0 looped: Startup"] * 2 + ["1 looped: Startup"] * 2 + ["2 looped: Startup", "2 looped: Usage"]
