"""Arrays with a window: elements come while the run continues, from iterables of unknown length."""

from __future__ import annotations

import json
import operator
import os
import threading
import time

import numpy
import pytest

from handoff_mpi import DAG, Fixed, Function, execute, load
from handoff_mpi.errors import DAGError, UsageError, ValueUnavailable
from handoff_mpi.launch.earlier_launches import forecast_resume
from handoff_mpi.runtime.options import RunOptions


def run(dag, run_dir=False, **options):
    return execute(dag, run_dir=run_dir, check=False, output="off", **options)


@pytest.fixture
def notes(tmp_path_factory):
    """A file of the elements that were called."""
    return tmp_path_factory.mktemp("notes") / "notes"


def noted(notes):
    return [*map(int, notes.read_text().split())] if notes.exists() else []


class Noting:
    """Notes its argument in a file, and returns it twice; it raises for those that the environment names."""

    def __init__(self, notes):
        self.notes = notes

    def __call__(self, x):
        with self.notes.open("a") as file:
            file.write(f"{x} ")
        if str(x) in os.environ.get("RAISES", "").split():
            raise ValueError(f"{x} is bad")
        return [x, x]


def double(x):
    return 2 * x


def test_elements_come_from_a_generator():
    dag = DAG("windowed")
    xs = dag.map(double, (index for index in range(5000)), window=100, id="xs")
    with pytest.raises(TypeError, match="cannot take the length of"):
        len(xs)
    results = run(dag)
    assert results.status == "done"
    assert len(results["xs"]) == 5000
    assert results["xs"][:] == [2 * index for index in range(5000)]


def test_several_iterables_are_zipped_and_others_are_fixed():
    dag = DAG("zipped")
    table = dag.add_function(Function("table", [], lambda: {"k": 1000}))
    numbers, words = iter(range(30)), (str(index) for index in range(30))
    dag.map(lambda number, k, word, table: (number + k + table["k"], word), numbers, Fixed(100), words,
            fixed={"table": table}, window=7, id="xs")  # fmt: skip
    assert run(dag)["xs"][:] == [(1100 + index, str(index)) for index in range(30)]


@pytest.mark.parametrize(("elements", "window"), [([], 5), ([3], 1), (range(2049), 10**6), (numpy.arange(9), 2)])
def test_any_iterable_can_be_windowed(elements, window):
    dag = DAG("any")
    dag.map(double, elements, window=window, id="xs")
    assert run(dag)["xs"][:] == [2 * each for each in elements]
    assert run(dag)["xs"][:] == [2 * each for each in elements]  # a second run begins again


def test_at_most_a_window_of_elements_has_come_and_not_ended(notes):
    most = [0]

    def numbers():
        for number in range(200):
            yield number
            most[0] = max(most[0], number + 1 - len(noted(notes)))

    dag = DAG("few")
    dag.map(Noting(notes), numbers(), window=8, id="xs")
    results = run(dag)
    assert results.status == "done"
    assert "done: 200 done of 200 calls in" in results.summary()
    assert 2 < most[0] <= 8


def test_an_iterable_that_raises_fails_the_array_and_what_was_done_is_kept(tmp_path):
    def numbers():
        yield from range(100)
        raise OSError("the tape has torn")

    dag = DAG("torn")
    dag.reduce(operator.add, dag.map(double, numbers(), window=10, id="xs"), id="sum", fan_in=1000)
    results = run(dag, tmp_path / "r")
    assert results.status == "failed"
    error = results.errors["xs"]
    assert error.kind == "OSError"
    assert "its iterables raised after 100 elements, and more may have been meant: the tape has torn" in str(error)
    assert "in numbers" in error.traceback
    for each in (results, load(tmp_path / "r")):
        assert each["xs"][:] == [2 * index for index in range(100)]
        assert "failed: 100 done of 100 calls or more in" in each.summary()
        assert "\n  skipped: 'sum': it depends on functions that have failed\n" in each.summary()


def test_iterables_of_different_lengths_fail_where_the_shorter_one_ends():
    dag = DAG("uneven")
    dag.map(lambda x, y: x, iter(range(10)), iter(range(7)), window=4, id="xs")
    results = run(dag)
    assert results.errors["xs"].kind == "ValueError"
    assert "its iterables raised after 7 elements" in str(results.errors["xs"])
    assert results["xs"][:] == [*range(7)]


def test_an_element_that_cannot_be_sent_fails_the_array():
    dag = DAG("unsendable")
    dag.map(lambda x: 1, iter([1, 2, threading.Lock(), 4]), window=10, id="xs")
    results = run(dag)
    assert "element 2 cannot be sent to a rank, and no further ones were read: " in str(results.errors["xs"])
    assert results["xs"][:] == [1, 1]


def test_elements_that_raise_fail_alone():
    def bad(x):
        if x % 100 == 7:
            raise ValueError(f"{x} is bad")
        return x

    dag = DAG("bad")
    dag.map(bad, iter(range(1000)), window=50, id="xs")
    results = run(dag)
    assert [*results["xs"].errors] == [*range(7, 1000, 100)]
    assert results["xs"][8] == 8
    dag = DAG("too bad")
    dag.map(bad, iter(range(10**9)), window=50, max_failures=3, id="xs")
    results = run(dag)  # which ends
    assert results.status == "failed"
    assert 4 <= len(results["xs"].errors) < 20
    assert " calls or more in" in results.summary()
    with pytest.raises((ValueUnavailable, IndexError)):
        results["xs"][10**9 - 1]


def test_an_iterator_is_used_up_by_the_first_run():
    dag = DAG("once")
    dag.map(double, iter(range(10)), window=4, id="xs")
    assert run(dag).status == "done"
    assert "its iterables raised before an element came: its iterator was used up by" in str(run(dag).errors["xs"])


def test_a_function_of_the_whole_list_is_refused():
    dag = DAG("list")
    xs = dag.map(double, iter(range(10)), window=4, id="xs")
    dag.add_function(Function("report", [xs], sum))
    with pytest.raises(DAGError, match=r"'report' takes the list of the values of 'xs', an array with a window"):
        dag.validate()


@pytest.mark.parametrize("window", [0, -1, 2.5, "many", [1]])
def test_a_window_is_a_whole_number(window):
    with pytest.raises(DAGError, match="window must be a whole number from 1"):
        DAG("wrong").map(double, range(10), window=window)


def test_a_share_of_failures_is_refused():
    with pytest.raises(DAGError, match="max_failures is a share"):
        DAG("share").map(double, range(10), window=5, max_failures=0.1)


# -- resume --------------------------------------------------------------------------------------------------


def noting_dag(notes, elements, window=64):
    dag = DAG("noting")
    dag.map(Noting(notes), elements, window=window, id="xs", version="1", max_retries=0)
    return dag


def newly_noted(notes):
    """Return what was called since the last time."""
    found = sorted(noted(notes))
    notes.unlink(missing_ok=True)
    return found


def test_a_resume_takes_over_what_hashes_the_same(tmp_path, capfd, notes, monkeypatch):
    monkeypatch.setenv("RAISES", "5 700")
    assert run(noting_dag(notes, iter(range(1000))), tmp_path).status == "failed"
    monkeypatch.delenv("RAISES")
    assert newly_noted(notes) == [*range(1000)]
    results = run(noting_dag(notes, iter(range(1100))), tmp_path)
    assert newly_noted(notes) == [5, 700, *range(1000, 1100)]
    assert results["xs"][:] == load(tmp_path)["xs"][:] == [[x, x] for x in range(1100)]
    assert "run again" not in capfd.readouterr().err
    other = [*range(500), -1, *range(501, 1100)]
    results = run(noting_dag(notes, iter(other)), tmp_path)
    assert results["xs"][:] == load(tmp_path)["xs"][:] == [[x, x] for x in other]
    assert newly_noted(notes) == sorted(other[448:512])  # a block
    said = capfd.readouterr().err
    assert "array 'xs': its iterables give other elements than in an earlier launch from element 448 on" in said


def torn():
    yield from range(100)
    raise OSError("torn")


def test_a_run_that_failed_half_way_resumes_within_a_block(tmp_path, notes):
    run(noting_dag(notes, torn()), tmp_path)
    assert newly_noted(notes) == [*range(100)]
    assert run(noting_dag(notes, iter(range(150))), tmp_path)["xs"][149] == [149, 149]
    assert newly_noted(notes) == [*range(100, 150)]


def test_a_resume_tells_how_many_elements_have_values(tmp_path, capfd, notes):
    run(noting_dag(notes, torn()), tmp_path / "r")
    have = "of 'xs' 100 elements have values, kept where the iterables give the same again"

    def both():
        dag = noting_dag(notes, torn())
        dag.add_function(Function("one", [], abs, [1]))
        return dag

    for make, says in ((lambda: noting_dag(notes, torn()), have), (both, f"0 of 1 calls are done; {have}")):
        foretold = forecast_resume(make(), RunOptions(run_dir=tmp_path / "r"), str(tmp_path))
        expected = says.replace("0 of 1 calls are done", "1 of 1 calls would run; 0 are done")
        assert next(foretold.lines()) == f"with --run-dir r {expected}"
        capfd.readouterr()
        run(make(), tmp_path / "r")
        assert f" of {tmp_path / 'r'}: {says}\n" in capfd.readouterr().err


def test_a_resume_tells_that_no_element_has_a_value(tmp_path, capfd):
    for _ in range(2):
        dag = DAG("none")
        dag.map(double, (1 / each for each in [0]), window=3, id="xs")
        run(dag, tmp_path)
    assert f" of {tmp_path}: of 'xs' no element has a value\n" in capfd.readouterr().err


def test_another_window_runs_all_again_and_says_so(tmp_path, capfd, notes):
    for window in (64, 16):
        foretold = forecast_resume(noting_dag(notes, range(100), window), RunOptions(run_dir=tmp_path), str(tmp_path))
        again = "of 'xs' all elements run again (100 have values), as its window was another one"
        assert (foretold is not None and again in next(foretold.lines())) == (window == 16)
        run(noting_dag(notes, range(100), window), tmp_path)
        assert newly_noted(notes) == [*range(100)]
    assert "array 'xs': its window was another one in earlier launches" in capfd.readouterr().err


def test_elements_cannot_be_named_before_they_have_come(tmp_path, notes):
    run(noting_dag(notes, range(100)), tmp_path)
    with pytest.raises(UsageError, match="known while it runs; name the array: --rerun 'xs'"):
        run(noting_dag(notes, range(100)), tmp_path, rerun=["xs[3]"])
    assert len(newly_noted(notes)) == 100
    run(noting_dag(notes, range(100)), tmp_path, rerun=["xs"])
    assert len(newly_noted(notes)) == 100


# -- the command line ----------------------------------------------------------------------------------------

PLACES = {
    "ranks": ["run", "-n", "3"],
    "children": ["run", "--isolation", "process"],
    "children of ranks": ["run", "-n", "3", "--isolation", "process"],
}

DAG_FILE = """
import os, signal, time
from handoff_mpi import DAG

def square(x):
    return x * x

def numbers():
    yield from range(20_000)
    if os.environ.get("BLOCKS"):
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        open("unblocked", "w").close()

dag = DAG("windowed")
dag.map(square, numbers(), window=1000, id="xs")
"""


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
def test_elements_run_in_each_place(handoff, tmp_path, place):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    ended = handoff(*PLACES[place], "--run-dir", "r", "dag.py")
    assert ended.rc == 0, ended.err
    results = load(tmp_path / "r")
    assert results["xs"][:] == [x * x for x in range(20_000)]
    told = json.loads((tmp_path / "r" / "status.json").read_text())
    assert (told["done"], told["functions"]) == (20_000, 20_000)
    assert "has values of 20,000 of its 20,000 elements" in handoff("explain", "r", "xs").out


def test_an_iterable_that_blocks_keeps_nobody_waiting(handoff, tmp_path):
    """A run that is stopped while its generator blocks ends in time, and resumes."""
    (tmp_path / "dag.py").write_text(DAG_FILE)
    ended = handoff("run", "--run-dir", "r", "dag.py", env={"BLOCKS": "1"})
    assert ended.rc == 75, ended.err
    assert not (tmp_path / "unblocked").exists()
    assert load(tmp_path / "r")["xs"][:] == [x * x for x in range(20_000)]
    assert handoff("run", "--run-dir", "r", "dag.py").rc == 0
    assert load(tmp_path / "r").counts()["done"] == 20_000


def test_other_functions_run_and_end_while_an_iterable_blocks(tmp_path):
    path = tmp_path / "released"
    seen = []

    def numbers():
        yield from range(3)
        end = time.monotonic() + 30
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.01)
        seen.append(path.exists())
        yield 3

    dag = DAG("blocked")
    dag.map(double, numbers(), window=10, id="xs")
    slow = dag.map(lambda x: x, range(100), id="others")
    dag.add_function(Function("release", [slow], lambda xs: path.touch()))
    results = run(dag)
    assert seen == [True]
    assert results["xs"][:] == [0, 2, 4, 6]


def test_handles_among_the_elements_fail_the_array():
    dag = DAG("handles")
    one = dag.add_function(Function("one", [], lambda: 1))
    dag.map(double, iter([1, [one]]), window=5, id="xs")
    results = run(dag)
    assert "stands for a value that does not exist until the run" in str(results.errors["xs"])
    assert results["xs"][:] == [2]


def test_values_of_another_array_are_refused_with_a_window():
    dag = DAG("linked")
    xs = dag.map(double, range(10), id="xs")
    with pytest.raises(DAGError, match="map over it without window=: its elements are taken as they are done"):
        dag.map(double, xs, window=5)
    with pytest.raises(DAGError, match="leave out window="):
        dag.reduce(max, range(10), window=5)


KILLED = """
import os, signal, sys
from handoff_mpi import DAG

def f(x):
    with open("notes", "a") as file:
        file.write(f"{x} ")
    if x == 3000 and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getppid() if os.environ.get("KILLS_CHILD") is None else os.getpid(), signal.SIGKILL)
    return x

dag = DAG("killed")
dag.map(f, (index for index in range(6000)), window=500, id="xs", max_retries=2)
"""


@pytest.mark.long
def test_no_element_is_lost_when_the_job_is_killed(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(KILLED)
    assert handoff("run", "--isolation", "process", "--run-dir", "r", "dag.py").rc != 0
    assert handoff("run", "--isolation", "process", "--run-dir", "r", "dag.py").rc == 0
    assert load(tmp_path / "r")["xs"][:] == [*range(6000)]
    calls = [*map(int, (tmp_path / "notes").read_text().split())]
    assert set(calls) == {*range(6000)}
    assert len(calls) < 6000 + 1100  # what was leased, and a block whose digest was not written


@pytest.mark.long
def test_no_element_is_lost_when_a_child_dies(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(KILLED)
    ended = handoff("run", "-n", "3", "--isolation", "process", "--run-dir", "r", "dag.py", env={"KILLS_CHILD": "1"})
    assert ended.rc == 0, ended.err
    assert load(tmp_path / "r")["xs"][:] == [*range(6000)]
    calls = [*map(int, (tmp_path / "notes").read_text().split())]
    assert set(calls) == {*range(6000)}
    assert len(calls) < 6000 + 500  # values that the child had not sent


@pytest.mark.parametrize("options", [{}, {"on_failure": "stop"}])
def test_an_array_that_cannot_run_waits_for_no_element(options):
    release, ended = threading.Event(), []

    def numbers():
        yield from range(5)
        ended.append(release.wait(60))

    def fails():
        raise ValueError("no table")

    dag = DAG("skipped")
    table = dag.add_function(Function("table", [], fails, max_retries=0))
    dag.map(lambda x, table: x, numbers(), fixed={"table": table}, window=10, id="xs")
    results = run(dag, **options)
    assert results.status == "failed"
    assert not ended
    release.set()
    with pytest.raises((ValueUnavailable, IndexError)):
        results["xs"][0]
