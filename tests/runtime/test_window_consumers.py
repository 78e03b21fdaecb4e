"""Arrays and folds that take elements of windowed arrays: in a process, in ranks, after deaths, and when resumed."""

from __future__ import annotations

import functools
import itertools
import operator
import threading
import time

import pytest

from handoff_mpi import DAG, Fixed, Function, execute, load
from handoff_mpi.errors import DAGError, ValueUnavailable
from handoff_mpi.results.function_story import read_function
from handoff_mpi.results.journal_reader import read_journal
from handoff_mpi.verbs.explanation import explain_story
from tests.launch.test_windows import PLACES
from tests.results.made_journal import write_launch


def run(dag, run_dir=False, **options):
    return execute(dag, run_dir=run_dir, check=False, output="off", **options)


class Noting:
    """Calls a function, and notes that with its name in a file."""

    def __init__(self, notes, name, code):
        self.notes, self.name, self.code = notes, name, code

    def __call__(self, *values):
        with self.notes.open("a") as file:
            file.write(f"{self.name} ")
        return self.code(*values)


@pytest.fixture
def notes(tmp_path_factory):
    return tmp_path_factory.mktemp("notes") / "notes"


def newly_called(notes):
    """How often each function was called since the last time."""
    found = notes.read_text().split() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return {name: found.count(name) for name in sorted({*found})}


def chain(notes, elements, *, fan_in=8, window=64):
    """x -> 2x; 2x + 1; their product; the sum of the products; and a function of that."""
    dag = DAG("chain")
    noting = functools.partial(Noting, notes)
    xs = dag.map(noting("f", lambda x: 2 * x), elements, window=window, id="xs", version="1")
    ys = dag.map(noting("g", lambda x: x + 1), xs, id="ys", version="1")
    zs = dag.map(noting("h", operator.mul), xs, ys, id="zs", version="1")
    total = dag.reduce(operator.add, zs, fan_in=fan_in, id="total", version="1")
    dag.add_function(Function("report", [total], noting("report", str), version="1"))
    return dag


def products(elements):
    return [2 * x * (2 * x + 1) for x in elements]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65, 513])
def test_values_are_those_of_plain_calls(notes, count):
    results = run(chain(notes, iter(range(count))))
    assert results.status == "done"
    assert results["zs"][:] == products(range(count))
    assert results["total"] == sum(products(range(count))) and results["report"] == str(results["total"])
    assert newly_called(notes) == {"f": count, "g": count, "h": count, "report": 1}


@pytest.mark.parametrize("count", [1, 5, 100])
def test_a_fold_has_the_blocks_that_it_has_of_a_list(count):
    def shown(a, b):
        return f"({a} {b})"

    dag = DAG("folds")
    words = [str(each) for each in range(count)]
    dag.reduce(shown, dag.map(str, iter(words), window=9), fan_in=3, id="windowed")
    dag.reduce(shown, words, fan_in=3, id="list")
    results = run(dag)
    assert results["windowed"] == results["list"]


def test_there_is_nothing_to_fold_where_nothing_comes(notes):
    results = run(chain(notes, iter(())))
    assert results.status == "failed"
    assert "has no elements" in str(results.errors["total"]) and results["xs"][:] == []


@pytest.mark.parametrize("error", [OSError("torn"), None])
def test_a_fold_of_which_nothing_has_come_has_no_value_where_it_is_loaded(tmp_path, notes, error):
    def nothing():
        if error is not None:
            raise error
        yield from ()

    assert run(chain(notes, nothing()), tmp_path).status == load(tmp_path).status == "failed"
    assert "total" not in load(tmp_path) and load(tmp_path)["zs"][:] == []


def test_other_arguments_of_an_element_are_the_same_for_all(notes):
    dag = DAG("others")
    xs = dag.map(int, iter("123"), window=2)
    table = dag.add_function(Function("table", [], lambda: {"k": 100}))
    dag.map(lambda x, y, table, k: x + y + table["k"] + k, xs, Fixed(10), table, fixed={"k": 1000}, id="sums")
    assert run(dag)["sums"][:] == [1111, 1112, 1113]


def test_an_element_that_fails_takes_along_those_that_take_it():
    def odd(x):
        if x % 2 == 0:
            raise ValueError(x)
        return x

    dag = DAG("fails")
    xs = dag.map(odd, iter(range(10)), window=4, id="xs", max_retries=0)
    dag.map(str, xs, id="ys")
    dag.reduce(operator.add, xs, id="total")
    results = run(dag)
    assert [results["ys"].get(index) for index in range(10)] == [str(x) if x % 2 else None for x in range(10)]
    assert not results["ys"].errors and results.status == "failed"
    assert "total" not in results


def test_what_has_come_is_computed_where_the_iterable_raises(notes):
    def torn():
        yield from range(20)
        raise OSError("torn")

    results = run(chain(notes, torn()))
    assert results["zs"][:20] == products(range(20)) and results.errors["xs"].kind == "OSError"
    assert "total" not in results and newly_called(notes)["h"] == 20


def test_the_iterables_wait_for_what_takes_their_elements(notes):
    most = [0]

    def numbers():
        for number in range(60):
            yield number
            most[0] = max(most[0], number + 1 - len(notes.read_text().split() if notes.exists() else ()))

    dag = DAG("paced")
    dag.map(Noting(notes, "slow", lambda x: time.sleep(0.002)), dag.map(int, numbers(), window=10), id="ys")
    assert run(dag).status == "done"
    assert 2 < most[0] <= 10


def test_the_iterables_wait_for_nothing_that_waits_for_all_of_their_elements():
    dag = DAG("normalized")
    xs = dag.map(float, iter(range(100)), window=8)
    total = dag.reduce(operator.add, xs, fan_in=16)
    shares = dag.map(operator.truediv, xs, total, id="shares")
    dag.map(float, shares, id="again")
    results = run(dag)
    assert results.status == "done"
    assert results["again"][:] == [x / 4950 for x in range(100)]


def test_two_windowed_arrays_that_take_sums_of_each_other_do_not_wait_for_ever():
    dag = DAG("crossed")
    sources = [dag.map(float, iter(range(1, 50)), window=8) for _ in range(2)]
    totals = [dag.reduce(operator.add, each, fan_in=4) for each in sources]
    crossed = [dag.map(operator.truediv, *pair) for pair in zip(sources, totals[::-1], strict=True)]
    results = run(dag)
    assert results.status == "done"
    assert all(results[each.id][:] == [x / 1225 for x in range(1, 50)] for each in crossed)


def test_a_function_of_the_list_is_refused_and_of_a_fold_is_not(notes):
    dag = chain(notes, iter(range(3)))
    dag.add_function(Function("list", ["ys"], sum))
    with pytest.raises(DAGError, match=r"'list' takes the list of the values of 'ys'.*map over it, fold it"):
        dag.validate()


def test_iterables_of_other_lengths_are_refused():
    dag = DAG("lengths")
    xs = dag.map(int, iter("12"), window=2, id="xs")
    others = dag.map(int, iter("12"), window=2, id="others")
    with pytest.raises(DAGError, match=r"argument 2 is range\(0, 2\), beside values of which nobody knows how many"):
        dag.map(pow, xs, range(2))
    with pytest.raises(DAGError, match="'xs' and 'others' read iterables of their own"):
        dag.map(pow, xs, others)
    with pytest.raises(DAGError, match="max_failures is a share"):
        dag.map(int, xs, max_failures=0.5)
    with pytest.raises(DAGError, match="map over it without window="):
        dag.map(int, xs, window=5)


# -- resume --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [512, 515])
def test_elements_that_take_the_same_do_not_run_again(tmp_path, notes, count):
    run(chain(notes, iter(range(count))), tmp_path)
    newly_called(notes)
    results = run(chain(notes, iter(range(count))), tmp_path)
    assert results["total"] == sum(products(range(count)))
    assert newly_called(notes) == {} and results["report"] == str(results["total"])
    results = run(chain(notes, iter(range(count + 3))), tmp_path)
    assert results["report"] == str(sum(products(range(count + 3)))) and results["zs"][-1] == products([count + 2])[0]
    assert newly_called(notes) == {"f": 3, "g": 3, "h": 3, "report": 1}


def test_elements_that_take_others_run_again_with_their_block(tmp_path, notes):
    run(chain(notes, iter(range(600))), tmp_path)
    newly_called(notes)
    other = [*range(300), -1, *range(301, 600)]
    results = run(chain(notes, iter(other)), tmp_path)
    assert results["zs"][:] == load(tmp_path)["zs"][:] == products(other)
    assert results["report"] == load(tmp_path)["report"] == str(sum(products(other)))
    assert newly_called(notes) == {"f": 64, "g": 64, "h": 64, "report": 1}  # a block of the window
    results = run(chain(notes, iter(range(600))), tmp_path)  # as they were before
    assert results["report"] == str(sum(products(range(600))))
    assert newly_called(notes) == {"report": 1}  # whose newest value is that of other elements


def test_a_fold_with_other_blocks_runs_again_alone(tmp_path, notes):
    for fan_in, called in ((8, ["f", "g", "h", "report"]), (5, ["report"]), (1000, ["report"]), (8, [])):
        results = run(chain(notes, iter(range(300)), fan_in=fan_in), tmp_path)
        assert results["report"] == load(tmp_path)["report"] == str(sum(products(range(300))))
        assert [*newly_called(notes)] == called


def test_a_run_that_failed_half_way_goes_on_where_it_was(tmp_path, notes):
    def torn():
        yield from range(300)
        raise OSError("torn")

    for called in ({"f": 300, "g": 300, "h": 300}, {}):
        results = run(chain(notes, torn()), tmp_path)
        assert results["zs"][:] == load(tmp_path)["zs"][:] == products(range(300))
        assert newly_called(notes) == called
    assert run(chain(notes, iter(range(400))), tmp_path)["report"] == str(sum(products(range(400))))
    assert newly_called(notes) == {"f": 100, "g": 100, "h": 100, "report": 1}


def test_no_value_of_other_elements_is_loaded_after_a_launch_that_failed(tmp_path, notes):
    def torn():
        yield from range(300)
        raise OSError("torn")

    run(chain(notes, iter(range(400))), tmp_path)
    for results in (run(chain(notes, torn()), tmp_path), load(tmp_path)):
        assert "total" not in results and "report" not in results


def test_a_consumer_whose_code_changed_runs_again_and_its_source_does_not(tmp_path, notes):
    run(chain(notes, iter(range(100))), tmp_path)
    newly_called(notes)
    dag = DAG("chain")
    noting = functools.partial(Noting, notes)
    xs = dag.map(noting("f", lambda x: 2 * x), iter(range(100)), window=64, id="xs", version="1")
    dag.map(noting("g", lambda x: x - 1), xs, id="ys", version="2")
    assert run(dag, tmp_path, accept_changes=())["ys"][:] == [2 * x - 1 for x in range(100)]
    assert newly_called(notes) == {"g": 100}


def shared(notes, elements, fails=False):
    """Functions and arrays behind a fold, some of which take others' elements."""
    dag = DAG("shared")
    noting = functools.partial(Noting, notes)
    xs = dag.map(noting("f", lambda x: 2 * x), elements, window=64, id="xs", version="1")
    total = dag.reduce(operator.add, xs, id="total", version="1")
    mean = dag.add_function(Function("mean", [total], noting("mean", lambda x: x / 100), version="1"))
    parts = dag.map(noting("part", lambda x, mean: x - mean), range(50), mean, id="parts", version="1")
    again = dag.map(noting("again", abs), parts, id="again", version="1")
    last = dag.add_function(Function("last", [again, mean], noting("last", lambda x, y: sum(x) + y), version="1"))
    end = noting("end", operator.truediv if fails else operator.mul)
    dag.add_function(Function("end", [last], end, [0], version=str(fails), max_retries=0))
    return dag


def test_what_depends_on_a_fold_is_taken_over_when_its_elements_have_come(tmp_path, notes):
    assert run(shared(notes, iter(range(100)), fails=True), tmp_path).status == "failed"
    newly_called(notes)
    results = run(shared(notes, iter(range(100))), tmp_path)
    assert newly_called(notes) == {"end": 1} and results.status == "done" and results["end"] == 0
    expected = [abs(x - 99) for x in range(50)]
    assert results["again"][:] == load(tmp_path)["again"][:] == expected
    assert results["last"] == load(tmp_path)["last"] == sum(expected) + 99
    results = run(shared(notes, iter([*range(99), 0])), tmp_path)
    assert newly_called(notes) == {"f": 36, "mean": 1, "part": 50, "again": 50, "last": 1, "end": 1}
    assert results["mean"] == (99 * 98) / 100


def behind_another_fold(notes, counts, window):
    """Two windowed arrays, one of which takes the fold of another one, and an array over the other takes it, too."""
    dag = DAG("behind")
    noting = functools.partial(Noting, notes)
    xs = dag.map(noting("x", abs), iter(range(counts[0])), window=64, id="xs", version="1")
    total = dag.reduce(operator.add, xs, id="total", fan_in=4, version="1")
    last = dag.add_function(Function("last", [total], noting("last", lambda x: x % 10), version="1"))
    ys = dag.map(noting("y", operator.mul), iter(range(counts[1])), last, window=window, id="ys", version="1")
    zs = dag.map(noting("z", abs), iter(range(counts[2])), window=window, id="zs", version="1")
    scaled = dag.map(noting("s", operator.mul), zs, total, id="scaled", version="1")
    folds = [dag.reduce(operator.add, each, id=f"{each.id} folded", fan_in=4, version="1") for each in (ys, scaled)]
    dag.add_function(Function("end", folds, noting("end", operator.add), version="1"))
    return dag


def test_what_is_behind_a_fold_that_is_behind_another_is_taken_over_too(tmp_path, notes):
    others = {"last": 1, "s": 50, "y": 70, "end": 1}  # behind another total
    for counts, called in (
        ((20, 70, 50), {**others, "x": 20, "z": 50}),
        ((20, 70, 50), {}),
        ((20, 9, 70), {"s": 20, "z": 20, "y": 9, "end": 1}),  # ys come whole before the total is known
        ((20, 9, 70), {}),
        ((21, 9, 70), {**others, "x": 1, "y": 9, "s": 70}),
    ):
        results = run(behind_another_fold(notes, counts, window=30), tmp_path)
        total = sum(range(counts[0]))
        assert results["end"] == sum(range(counts[1])) * (total % 10) + sum(range(counts[2])) * total
        assert load(tmp_path)["end"] == results["end"]
        assert newly_called(notes) == dict(sorted(called.items()))


def test_elements_that_wait_for_a_fold_are_compared_with_all_of_their_blocks(tmp_path, notes):
    """They come in two parts, of which the second one begins another block, before the fold is known."""
    for called in ({"x": 1, "y": 1100}, {}):
        have_come = threading.Event()

        def waiting(have_come=have_come):
            have_come.wait(10)
            yield 1

        def in_parts(have_come=have_come):
            yield from range(1050)
            time.sleep(0.05)
            yield from range(50)
            have_come.set()

        dag = DAG("parts")
        total = dag.reduce(
            operator.add, dag.map(Noting(notes, "x", abs), waiting(), window=4, version="1"), version="1"
        )
        ys = dag.map(Noting(notes, "y", operator.mul), in_parts(), total, window=1101, id="ys", version="1")
        dag.reduce(operator.add, ys, id="folded", version="1")
        assert run(dag, tmp_path)["folded"] == sum(range(1050)) + sum(range(50))
        assert newly_called(notes) == called


def test_a_launch_that_died_before_it_had_compared_all_elements_tells_which_values_may_count_again(tmp_path, notes):
    for _ in range(2):
        run(shared(notes, iter(range(100))), tmp_path / "whole")
    first, second = read_journal(tmp_path / "whole").segments
    died = itertools.takewhile(lambda record: record[0] != "restored_elements", second.records)
    for records in (first.records, died):
        write_launch(tmp_path / "died", *records)
    results = load(tmp_path / "died")
    assert results.status == "stopped" and {"total", "mean", "last"}.isdisjoint(results)
    for asked in ("total", "mean", "last"):
        with pytest.raises(ValueUnavailable, match="its value of launch 1 counts again if all elements of arrays with"):
            results[asked]
    with pytest.raises(ValueUnavailable, match=r"parts\[7\] did not run; its value of launch 1 counts again if all"):
        results["parts"][7]
    why = "unless all elements of an array with a window on which it depends are the same"
    told = explain_story(read_function(tmp_path / "died", "mean"), "died")
    assert told["again"][-1] == {"launch": 2, "what": "not begun", "reason": why}
    assert run(shared(notes, iter(range(100))), tmp_path / "died")["mean"] == 99


# -- the command line ----------------------------------------------------------------------------------------

DAG_FILE = """
import os, signal
from handoff_mpi import DAG

def f(x):
    return 2 * x

def g(x):
    with open("notes", "a") as file:
        file.write(f"{x} ")
    if x == 3000 and os.environ.get("KILLS") and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getppid() if os.environ["KILLS"] == "job" else os.getpid(), signal.SIGKILL)
    return x + 1

def add(a, b):
    return a + b

dag = DAG("killed")
xs = dag.map(f, (index for index in range(4000)), window=500, id="xs", max_retries=2)
ys = dag.map(g, xs, id="ys", max_retries=2)
dag.reduce(add, ys, fan_in=16, id="total")
"""
TOTAL = sum(2 * x + 1 for x in range(4000))


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
def test_elements_run_in_each_place(handoff, tmp_path, place):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    ended = handoff(*PLACES[place], "--run-dir", "r", "dag.py")
    assert ended.rc == 0, ended.err
    assert load(tmp_path / "r")["total"] == TOTAL
    assert len((tmp_path / "notes").read_text().split()) == 4000


@pytest.mark.long
def test_no_element_is_lost_when_the_job_is_killed(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    command = "run", "--isolation", "process", "--run-dir", "r", "dag.py"
    assert handoff(*command, env={"KILLS": "job"}).rc != 0
    states = [line for line in handoff("graph", "r").out.splitlines() if line.startswith("  ys")]
    assert len(states) == 1 and "waiting" in states[0], "more of its elements may come"
    assert handoff("explain", "r", "ys[3]").out.startswith("ys[3] is done: computed on rank 0")
    assert handoff(*command).rc == 0
    assert load(tmp_path / "r")["total"] == TOTAL
    calls = (tmp_path / "notes").read_text().split()
    assert len({*calls}) == 4000 and len(calls) < 4000 + 1100


@pytest.mark.long
def test_no_element_is_lost_when_a_child_dies(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    ended = handoff("run", "-n", "3", "--isolation", "process", "--run-dir", "r", "dag.py", env={"KILLS": "child"})
    assert ended.rc == 0, ended.err
    assert load(tmp_path / "r")["total"] == TOTAL
