"""Functions that take elements and slices of arrays: in each place, after failures, when resumed, with ``--rerun``."""

from __future__ import annotations

from collections import Counter

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Argument, Fixed, Function, Handle, execute, load
from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag import Plan
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.launch.elements_taken_over import spread
from handoff_mpi.launch.rerun import Rerun
from handoff_mpi.launch.takers import Pairs, single_elements, takes_any
from handoff_mpi.results.array_history import ArrayLaunch
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.launches import Done
from tests.launch.test_arrays import PLACES, counts_of

DAG_FILE = """
import os, time
from handoff_mpi import DAG, Argument, Fixed, Function, current_task

def note(text):
    if os.environ.get("NOTES"):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{text} ")

def square(x):
    note(current_task().index)
    if str(x) in os.environ.get("RAISES", "").split():
        raise ValueError(f"{x} is bad")
    if x == 399 and os.environ.get("WAITS"):
        for _ in range(1000):
            if os.path.exists("early"):
                break
            time.sleep(0.01)
        else:
            raise TimeoutError("nobody took element 17")
    return x * x

def told(*args, **kwargs):
    note(current_task().id)
    if current_task().id == "one":
        open("early", "w").close()
    return args, kwargs

xs = list(range(400))
for number in os.environ.get("CHANGED", "").split():
    xs[int(number)] = 1000 + int(number)
dag = DAG("takers")
ys = dag.map(square, xs, id="ys", max_retries=0, chunk=20)
dag.add_function(Function("one", [ys[17]], told))
dag.add_function(Function("some", [], told, [[ys[100:104], {"last": ys[-2]}]], {"down": ys[9:0:-4]}))
dag.add_function(Function("pairs", [Argument(ys[30:33], missing="skip")], told))
dag.add_function(Function("after-pairs", ["pairs"], told))
dag.map(told, range(2), ys[40], id="both")
one = dag.add_function(Function("made", (), told, [5]))
dag.map(told, [1, one, ys[50], "x"], id="handles")
"""
VALUES = {
    "one": ((289,), {}),
    "some": (([[10000, 10201, 10404, 10609], {"last": 398**2}],), {"down": [81, 25, 1]}),
    "pairs": (([(30, 900), (31, 961), (32, 1024)],), {}),
    "after-pairs": (((([(30, 900), (31, 961), (32, 1024)],), {}),), {}),
}
BOTH = [((0, 1600), {}), ((1, 1600), {})]


@pytest.fixture
def dag_file(tmp_path):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    return tmp_path


@pytest.mark.parametrize(
    "place", ["ranks", *(pytest.param(place, marks=pytest.mark.long) for place in PLACES if place != "ranks")]
)
def test_functions_take_elements_while_the_array_runs(handoff, dag_file, place):
    """The last element waits for the function that takes element 17."""
    waits = {"WAITS": "1"} if "ranks" in place else {}  # elsewhere there is one slot
    ended = handoff(*PLACES[place], "--run-dir", "run", "dag.py", env=waits)
    assert ended.rc == 0, ended.err
    results = load(dag_file / "run")
    assert {id: results[id] for id in VALUES} == VALUES
    assert list(results["both"]) == BOTH
    assert [args for args, _ in results["handles"]] == [(1,), (((5,), {}),), (2500,), ("x",)]


@pytest.mark.long
def test_a_script_under_mpirun_takes_elements(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(
        DAG_FILE + "from handoff_mpi import execute\nresults = execute(dag, run_dir=False)\n"
        "if results is not None:\n    print(results['one'], results[ys[3]], results[ys[3:5]])\n"
    )
    ended = mpirun(3, "script.py")
    assert ended.rc == 0, ended.err
    assert "((289,), {}) 9 [9, 16]" in ended.out


def run_again(handoff, dag_file, *words, rc=0, **env):
    """Run the DAG once more; return what ran."""
    notes = dag_file / "notes"
    notes.unlink(missing_ok=True)
    ended = handoff("run", "--run-dir", "run", *words, "dag.py", env={"NOTES": str(notes), **env})
    assert ended.rc == rc, ended.err
    return counts_of(notes)


@pytest.mark.long
def test_resume_and_rerun_run_what_takes_the_elements_that_changed(handoff, dag_file):
    ran = run_again(handoff, dag_file, rc=1, RAISES="31 102")
    assert (ran["one"], ran["pairs"], ran["some"], ran["ys"]) == (1, 1, 0, 0)
    results = load(dag_file / "run")
    assert results["pairs"] == (([(30, 900), (32, 1024)],), {})
    with pytest.raises(ValueUnavailable, match="'some' was skipped"):
        results["some"]
    # what failed is made up for, and pairs are taken again, as there are more
    ran = run_again(handoff, dag_file)
    assert ran == Counter(["31", "102", "some", "pairs", "after-pairs"])
    results = load(dag_file / "run")
    assert {id: results[id] for id in VALUES} == VALUES
    assert run_again(handoff, dag_file) == Counter()
    # an element that nobody takes has changed; then one that is taken
    assert run_again(handoff, dag_file, CHANGED="200") == Counter(["200"])
    ran = run_again(handoff, dag_file, CHANGED="200 17")
    assert (ran["one"], ran["some"], ran["17"], ran["200"]) == (1, 0, 1, 0)


@pytest.mark.long
def test_rerun_of_an_element_runs_only_what_takes_it(handoff, dag_file):
    run_again(handoff, dag_file)
    assert run_again(handoff, dag_file, "--rerun", "ys[17]") == Counter(["17", "one"])
    assert run_again(handoff, dag_file, "--rerun", "ys[101:103]") == Counter(["101", "102", "some"])
    assert run_again(handoff, dag_file, "--rerun", "ys[200]") == Counter(["200"])
    assert run_again(handoff, dag_file, "--rerun", "made")["made"] == 1
    ran = run_again(handoff, dag_file, "--rerun", "ys[40]")
    assert ran["40"] == 1 and ran["one"] == 0 and load(dag_file / "run")["both"][:] == BOTH


# -- by the tables of a plan -----------------------------------------------------------------------------------


def plan_of_takers():
    """Tasks 0 to 6: an array, what takes 3 of it, 2 to 4, pairs of 0 to 2, the array; another array; what takes it."""
    dag = DAG("plan")
    xs = dag.map(abs, range(10), id="xs")
    dag.add_function(Function("one", [xs[3]], abs))
    dag.add_function(Function("some", [xs[2:5]], len))
    dag.add_function(Function("pairs", [Argument(xs[:3], missing="skip")], len))
    dag.add_function(Function("all", [xs], len))
    ys = dag.map(abs, [1, xs[3], Handle("one")], id="ys")
    dag.add_function(Function("end", [ys[0], "pairs"], max))
    plan = Plan()
    plan.add(dag.validate())
    return plan


@pytest.mark.parametrize(
    ("elements", "takers"),
    [([(3, 4)], {1, 2, 4}), ([(2, 3)], {2, 3, 4}), ([(5, 9)], {4}), ([(0, 1), (4, 5)], {2, 3, 4})],
)
def test_elements_are_taken_by_what_names_them_and_by_what_takes_all(elements, takers):
    plan = plan_of_takers()
    found = {task for task in range(1, 5) if takes_any(plan, task, 0, IntervalSet(elements))}
    assert found == takers


def test_single_elements_are_found_by_what_they_take():
    plan = plan_of_takers()
    assert single_elements(plan) == {0: [(5, 1, plan.arrays[5].handles[1][0][1])], 1: [(5, 2, 1)]}
    assert plan.selections.get(plan.arrays[5].handles[1][0][1]).elements == 3


def test_rerun_of_an_element_reaches_single_elements_of_other_arrays():
    plan = plan_of_takers()
    tasks, again = spread(plan, Rerun(elements={0: IntervalSet([(3, 4)])}))
    assert tasks == {1, 2, 4}
    assert {number: list(iter(each)) for number, each in again.items()} == {0: [(3, 4)], 5: [(1, 3)]}
    assert spread(plan, Rerun(tasks={1})) == ({1}, {5: IntervalSet([(2, 3)])})


def test_pairs_are_outdated_once_more_elements_have_values_or_may_have():
    plan = plan_of_takers()
    done = {task: Done(1, 0, 0.0, 0.0, 0, None, None, epoch=2) for task in (1, 2, 3, 6)}

    def outdated(launches, elements):
        return Pairs(plan, launches, elements).find_outdated(done.get)

    assert outdated({}, {}) == Rerun({3, 6})
    had = ArrayLaunch(2, 10, (), parts=[([(1, 3), (5, 6)], 1, pack([1, 2, 5]))], restored=[(1, [(0, 1)])])
    launches = {0: [ArrayLaunch(1, 10, ()), had]}
    assert outdated(launches, {}) == Rerun(), "it took all of them"
    assert outdated(launches, {0: [(2, [(0, 3)]), (3, [(3, 10)])]}) == Rerun()
    assert outdated(launches, {0: [(1, [(0, 2)]), (3, [(2, 10)])]}) == Rerun({3, 6}), "one was computed again"
    del had.restored[:]
    assert outdated(launches, {}) == Rerun({3, 6}), "element 0 may have a value now"
    done.clear()
    assert outdated(launches, {}) == Rerun()


def test_elements_made_of_pairs_are_outdated_too_one_by_one_or_all_of_them():
    dag = DAG("plan")
    xs = dag.map(abs, range(4), id="xs")
    pairs = Argument(xs, missing="skip")
    dag.map(max, range(3), Fixed(pairs), id="all")
    dag.map(len, [[], pairs, []], id="one")
    dag.map(max, range(3), Fixed(xs), id="list")
    plan = Plan()
    plan.add(dag.validate())
    launches = {0: [ArrayLaunch(1, 4, (), parts=[([(0, 3)], 1, pack([0, 1, 2]))])]}
    taken = {number: [(1, [(0, 2)])] for number in (1, 2, 3)}
    assert Pairs(plan, launches, taken).find_outdated({}.get) == Rerun({1}, {2: IntervalSet([(1, 2)])})
    launches[0][0].parts.append(([(3, 4)], 1, pack([3])))
    assert Pairs(plan, launches, taken).find_outdated({}.get) == Rerun()


# -- in this process -----------------------------------------------------------------------------------------


def run(dag, **options):
    return execute(dag, run_dir=False, check=False, max_retries=0, **options)


def told(*args, **kwargs):
    return args, kwargs


def fails_at_3(x):
    if x == 3:
        raise ValueError("bad")
    return x * 10


def test_what_takes_a_failed_element_is_skipped_and_pairs_leave_it_out():
    dag = DAG("failures")
    xs = dag.map(fails_at_3, range(6), id="xs")
    dag.add_function(Function("none", [xs[3]], told))
    dag.add_function(Function("slice", [xs[2:5]], told))
    dag.add_function(Function("other", [xs[4:], xs[0]], told))
    dag.add_function(Function("pairs", [Argument(xs, missing="skip"), Argument(xs[4:1:-1], missing="skip")], told))
    dag.map(told, range(2), xs[3], id="array")
    results = run(dag)
    assert results["other"] == (([40, 50], 0), {})
    assert results["pairs"] == (([(0, 0), (1, 10), (2, 20), (4, 40), (5, 50)], [(4, 40), (2, 20)]), {})
    for id in ("none", "slice"):
        with pytest.raises(ValueUnavailable, match="was skipped: a function it depends on failed"):
            results[id]
    assert results.counts() == {"done": 5 + 2, "failed": 1, "skipped": 2 + 2, "waiting": 0}


def test_pairs_of_elements_that_were_all_skipped_are_none_whether_one_by_one_or_as_a_whole(tmp_path):
    def read(*_):
        return int((tmp_path / "file").read_text())

    dag = DAG("skipped")
    one, all = dag.add_function(Function("one", [], read)), dag.map(read, range(3), id="all")
    for id, array in (
        ("whole", dag.map(max, range(3), one, id="whole")),
        ("single", dag.map(max, all, Fixed(1), id="single")),
    ):
        dag.add_function(Function(f"pairs of {id}", [Argument(array, missing="skip"), array[1:]], told))
        dag.add_function(Function(f"some of {id}", [Argument(array[1:], missing="skip")], told))
    first = execute(dag, run_dir=tmp_path / "r", check=False, max_retries=0)
    assert first["some of whole"] == first["some of single"] == (([],), {})
    assert first.counts() == {"done": 2, "failed": 4, "skipped": 3 + 3 + 2, "waiting": 0}
    (tmp_path / "file").write_text("7")
    second = execute(dag, run_dir=tmp_path / "r")
    assert second["some of whole"] == second["some of single"] == (([(1, 7), (2, 7)],), {})
    assert second["pairs of whole"] == second["pairs of single"] == (([(0, 7), (1, 7), (2, 7)], [7, 7]), {})


def test_what_is_made_of_pairs_at_second_hand_runs_again_though_it_failed_as_they_changed(tmp_path):
    def read(index, name="file"):
        return int((tmp_path / name).read_text()) if index else 1

    def total(pairs):
        return sum(value for _, value in pairs)

    def add(x, y=0):
        return x + y + read(1, "other")

    dag = DAG("second hand")
    xs = dag.map(read, range(2), id="xs")
    dag.add_function(Function("pairs", [Argument(xs, missing="skip")], total))
    dag.add_function(Function("behind", ["pairs"], add))
    dag.map(add, range(3), Handle("pairs"), id="array")
    (tmp_path / "other").write_text("0")
    first = execute(dag, run_dir=tmp_path / "r", check=False, max_retries=0)
    assert (first["behind"], [*first["array"]]) == (1, [1, 2, 3])
    (tmp_path / "file").write_text("10")
    (tmp_path / "other").unlink()
    second = execute(dag, run_dir=tmp_path / "r", check=False, max_retries=0)
    assert second["pairs"] == 11 and "behind" in second.errors
    (tmp_path / "other").write_text("0")
    third = execute(dag, run_dir=tmp_path / "r", max_retries=0)
    assert (third["behind"], [*third["array"]]) == (11, [11, 12, 13])


def test_elements_are_values_of_functions_and_one_that_failed_skips_its_element_alone():
    def once(*args):
        return args, handoff.current_task().index

    dag = DAG("handles")
    good = dag.add_function(Function("good", [], lambda: [1, 2]))
    bad = dag.add_function(Function("bad", [], fails_at_3, [3]))
    xs = dag.map(fails_at_3, range(6), id="xs")
    ys = dag.map(once, [good, 3, bad, xs[4], xs[3], xs[0:2], good], [1, good, 2, 3, 4, 5, good], good, id="ys")
    dag.add_function(Function("first", [ys[0], ys[5:]], told))
    dag.add_function(Function("third", [ys[2]], told))
    results = run(dag)
    found = results["ys"]
    assert [found.get(index) for index in range(7)] == [
        (([1, 2], 1, [1, 2]), 0),
        ((3, [1, 2], [1, 2]), 1),
        None,
        ((40, 3, [1, 2]), 3),
        None,
        (([0, 10], 5, [1, 2]), 5),
        (([1, 2], [1, 2], [1, 2]), 6),
    ]
    for index in (2, 4):
        with pytest.raises(ValueUnavailable):
            found[index]
    assert results["first"] == ((found[0], [found[5], found[6]]), {})
    assert results.counts() == {"done": 1 + 5 + 5 + 1, "failed": 2, "skipped": 3, "waiting": 0}


def test_an_element_that_is_a_value_is_tried_again(tmp_path):
    def flaky(x):
        (tmp_path / f"{x}-{handoff.current_task().attempt}").touch()
        if handoff.current_task().attempt < 2:
            raise ValueError("again")
        return x

    dag = DAG("again")
    ys = dag.map(flaky, [dag.add_function(Function(index, [], abs, [-index])) for index in range(3)], id="ys")
    results = execute(dag, run_dir=False, max_retries=1)
    assert list(results[ys]) == [0, 1, 2]
    assert {each.name for each in tmp_path.iterdir()} == {f"{x}-{attempt}" for x in range(3) for attempt in (1, 2)}


def test_handles_of_elements_name_results():
    dag = DAG("results")
    xs = dag.map(fails_at_3, range(6), id="xs")
    results = run(dag)
    assert (results[xs[4]], results[xs[-2:]], results[xs[2::-1]]) == (40, [40, 50], [20, 10, 0])
    with pytest.raises(FunctionError, match="bad"):
        results[xs[3]]


def test_each_consumer_has_a_list_and_arrays_of_its_own():
    def change(values, row):
        values.append(len(values))
        row += 1
        return len(values), float(row.sum())

    dag = DAG("own")
    xs = dag.map(lambda x: numpy.full(3, float(x)), range(10), id="xs")
    for number in range(3):
        dag.add_function(Function(number, [xs[2:6], xs[1]], change, writable=True))
    results = run(dag)
    assert [results[number] for number in range(3)] == [(5, 6.0)] * 3


def test_large_slices_reach_inline_functions_and_codecs():
    dag = DAG("large")
    xs = dag.map(lambda x: numpy.full(1000, x), range(300), id="xs")
    inline = dag.add_function(Function("sum", [xs[100:200]], sum, type="inline"))
    coded = Argument(xs[5:7], lambda value, source, target: sum(value), lambda payload, source, target: payload * 10)
    dag.add_function(Function("f", [inline, coded], lambda a, b: (int(a[0]), int(b[0]))))
    dag.map(lambda x, rows: len(rows) + x, range(3), Fixed(xs[10:290]), id="ys")
    results = run(dag)
    assert results["f"] == (sum(range(100, 200)), 110)
    assert list(results["ys"]) == [280, 281, 282]


def refuses():
    raise ValueError("it does not load")


class Refuses:
    def __reduce__(self):
        return refuses, ()


def test_an_input_that_cannot_be_decoded_is_named():
    dag = DAG("undecodable")
    bad = dag.add_function(Function("bad", [], Refuses))
    xs = dag.map(lambda x: Refuses(), range(3), id="xs")
    dag.add_function(Function("slice", [xs[1:]], told))
    dag.map(told, range(2), bad, id="all")
    dag.map(told, [1, bad, xs[2]], id="some")
    errors = run(dag).errors
    said = {key: str(error) for key, error in errors.items()}
    assert set(said) == {"slice", ("all", 0), ("all", 1), ("some", 1), ("some", 2)}
    assert "its argument 1, the value of xs[1:3], cannot be decoded" in said["slice"]
    assert "its input, the value of 'bad', cannot be decoded" in said["all", 1]
    assert "the value of 'bad', cannot be decoded" in said["some", 1]
    assert "the value of xs[2], cannot be decoded" in said["some", 2]


def test_linked_arrays_give_elements_to_functions_and_take_them():
    dag = DAG("linked")
    xs = dag.map(fails_at_3, range(6), id="xs")
    ys = dag.map(lambda x: x + 1, xs[1:], id="ys")
    zs = dag.map(lambda y, other: (y, other), ys, [0, xs[1], 2, ys[0], xs[3]], id="zs")
    dag.add_function(Function("f", [ys[0], ys[3:], zs[1], Argument(ys, missing="skip")], told))
    dag.add_function(Function("g", [ys[2]], told))
    results = run(dag)
    assert results["f"] == ((11, [41, 51], (21, 10), [(0, 11), (1, 21), (3, 41), (4, 51)]), {})
    assert [results["zs"].get(index) for index in range(5)] == [(11, 0), (21, 10), None, (41, 11), None]
    with pytest.raises(ValueUnavailable, match="skipped"):
        results["g"]
    assert set(results.errors) == {("xs", 3)}


def test_many_functions_take_an_element_each():
    dag = DAG("many")
    xs = dag.map(abs, range(2000), id="xs")
    for index in range(2000):
        dag.add_function(Function(index, [xs[index]], float))
    results = run(dag)
    assert [results[index] for index in range(2000)] == [float(index) for index in range(2000)]
