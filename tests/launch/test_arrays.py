"""Arrays from one end to the other: in one process, on ranks, in children, from a script; failures, deaths, resume."""

from __future__ import annotations

import json
import sys
from collections import Counter

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function, execute, load
from handoff_mpi.errors import UsageError, ValueUnavailable
from handoff_mpi.results.results import FunctionError
from handoff_mpi.runtime.journal_writer import MAX_RETRIED_CHARS
from handoff_mpi.worker.elements import ElementLoop
from tests.conftest import mpirun_command, run_process

PLACES = {
    "one process": ["run"],
    "ranks": ["run", "-n", "3"],
    "children": ["run", "--isolation", "process"],
    "children of ranks": ["run", "-n", "3", "--isolation", "process"],
}

RANKS = [*PLACES][1:]
OTHERS = ["one process", "children"]

DAG_FILE = """
import os, pathlib, sys
from handoff_mpi import DAG, Function, current_task

def square(x):
    if os.environ.get("NOTES"):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{current_task().index} ")
    if str(x) in os.environ.get("RAISES", "").split():
        raise ValueError(f"{x} is bad")
    if str(x) in os.environ.get("KILLS", "").split():
        os.kill(os.getpid(), 9)
    return x * x

def total(squares):
    return sum(squares), len(squares), type(squares).__name__

dag = DAG("arrays")
squares = dag.map(square, range(int(os.environ.get("COUNT", 5000))), id="squares", max_retries=0)
dag.add_function(Function("total", [squares], total))
"""


@pytest.fixture
def dag_file(tmp_path):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    return tmp_path


def counts_of(path):
    return Counter(path.read_text().split()) if path.exists() else Counter()


@pytest.mark.parametrize("place", ["one process", *(pytest.param(place, marks=pytest.mark.long) for place in RANKS)])
def test_each_element_runs_once_and_the_consumer_takes_the_list(handoff, dag_file, place):
    notes = dag_file / "notes"
    ended = handoff(*PLACES[place], "--run-dir", "run", "dag.py", env={"NOTES": str(notes)})
    assert ended.rc == 0, ended.err
    assert counts_of(notes) == Counter(map(str, range(5000)))
    results = load(dag_file / "run")
    assert results["total"] == (sum(x * x for x in range(5000)), 5000, "list")
    assert results["squares"][4999] == 4999**2
    assert results["squares"][-2:] == [4998**2, 4999**2]
    assert results.counts()["done"] == 5001


@pytest.mark.parametrize("place", ["ranks", *(pytest.param(place, marks=pytest.mark.long) for place in OTHERS)])
def test_an_element_that_raises_fails_alone(handoff, dag_file, place):
    ended = handoff(*PLACES[place], "--run-dir", "run", "dag.py", env={"RAISES": "17 4000"})
    assert ended.rc == 1
    assert "squares[17] failed on rank" in ended.err
    assert "squares[17] and 1 other (squares[4000]) failed" in ended.err
    assert ended.err.count("Traceback") == 1
    results = load(dag_file / "run")
    assert set(results["squares"].errors) == {17, 4000}
    with pytest.raises(FunctionError, match="17 is bad"):
        results["squares"][17]
    assert results["squares"][18] == 18**2
    assert set(results.errors) == {("squares", 17), ("squares", 4000)}
    with pytest.raises(ValueUnavailable, match="skipped"):
        results["total"]
    assert results.counts() == {"done": 4998, "failed": 2, "skipped": 1, "waiting": 0}


@pytest.mark.parametrize("place", ["children", *(pytest.param(place, marks=pytest.mark.long) for place in RANKS[::2])])
def test_an_element_that_kills_its_process_fails_alone(handoff, dag_file, place):
    ended = handoff(*PLACES[place], "--run-dir", "run", "--crash-limit", "2", "dag.py", env={"KILLS": "1234"})
    assert ended.rc == 1, ended.err
    results = load(dag_file / "run")
    assert set(results["squares"].errors) == {1234}
    assert results["squares"].errors[1234].kind == "death"
    assert results["squares"][1235] == 1235**2
    assert results.counts()["done"] == 4999


@pytest.mark.long
def test_a_resume_runs_what_is_missing_by_index_with_other_ranks(handoff, dag_file):
    notes = dag_file / "notes"
    assert handoff(*PLACES["ranks"], "--run-dir", "run", "dag.py", env={"RAISES": "7 99"}).rc == 1
    ended = handoff("run", "--run-dir", "run", "dag.py", env={"NOTES": str(notes)})
    assert ended.rc == 0, ended.err
    assert counts_of(notes) == Counter(["7", "99"])
    results = load(dag_file / "run")
    assert results["squares"][:] == [x * x for x in range(5000)]
    assert results["total"] == (sum(x * x for x in range(5000)), 5000, "list")
    notes.unlink()
    assert handoff("run", "--run-dir", "run", "dag.py", env={"NOTES": str(notes)}).rc == 0
    assert not notes.exists()


@pytest.mark.long
def test_an_element_that_ends_the_whole_job_is_found_by_the_next_launch_and_fails_alone(handoff, dag_file):
    words = ["run", "--isolation", "rank", "--run-dir", "run", "--crash-limit", "2", "dag.py"]
    assert handoff(*words, env={"KILLS": "1234"}).rc not in (0, 1)
    ended = handoff(*words, env={"KILLS": "1234"})
    assert ended.rc == 1, ended.err
    results = load(dag_file / "run")
    assert {index: error.kind for index, error in results["squares"].errors.items()} == {1234: "death"}
    assert results.counts()["done"] == 4999


@pytest.mark.long
def test_a_longer_range_keeps_what_it_has_and_its_consumer_runs_again(handoff, dag_file):
    notes = dag_file / "notes"
    assert handoff("run", "--run-dir", "run", "dag.py", env={"COUNT": "3000"}).rc == 0
    assert handoff("run", "--run-dir", "run", "dag.py", env={"COUNT": "3010", "NOTES": str(notes)}).rc == 0
    assert counts_of(notes) == Counter(map(str, range(3000, 3010)))
    assert load(dag_file / "run")["total"] == (sum(x * x for x in range(3010)), 3010, "list")


@pytest.mark.long
def test_elements_that_are_named_run_again_and_their_consumers(handoff, dag_file):
    notes = dag_file / "notes"
    assert handoff("run", "--run-dir", "run", "dag.py").rc == 0
    words = ["--run-dir", "run", "--rerun", "squares[3,100:105,-1]", "dag.py"]
    assert handoff("run", *words, env={"NOTES": str(notes)}).rc == 0
    assert counts_of(notes) == Counter(map(str, [3, *range(100, 105), 4999]))
    assert load(dag_file / "run")["squares"][:] == [x * x for x in range(5000)]
    ended = handoff("run", "--run-dir", "run", "--rerun", "squares[5000]", "dag.py")
    assert ended.rc == 2
    assert "the array has 5,000 elements" in ended.err


def test_status_counts_elements(handoff, dag_file):
    assert handoff("run", "--run-dir", "run", "dag.py").rc == 0
    told = json.loads((dag_file / "run" / "status.json").read_text())
    assert told["done"] == 5001


@pytest.mark.long
def test_explain_tells_how_far_an_array_has_come(handoff, dag_file):
    assert handoff("run", "--run-dir", "run", "dag.py", env={"RAISES": "17 4000"}).rc == 1
    said = handoff("explain", "run", "squares").out
    assert "squares has failed: ValueError: 2 of 5,000 elements failed, the first one at index 17" in said
    assert "The journal has values of 4,998 of its 5,000 elements." in said
    assert "in all:" in said and "on rank 0" in said
    assert "4,998 of 5,001 calls are done" in handoff("explain", "run").out
    assert handoff("run", "--run-dir", "run", "dag.py").rc == 0
    assert "has values of 5,000 of its 5,000 elements." in handoff("explain", "run", "squares").out
    assert "5,001 of 5,001 calls are done" in handoff("explain", "run").out


# -- in this process -----------------------------------------------------------------------------------------


def run(dag, **options):
    return execute(dag, run_dir=False, check=False, **options)


def test_several_inputs_fixed_values_and_handles_are_taken():
    dag = DAG("mixed")
    table = dag.add_function(Function("table", [], lambda: {"a": 10}))
    ys = dag.map(lambda x, y, k, table: x + y + k + table["a"], [1, 2, 3], numpy.arange(3), handoff.Fixed(100),
                 fixed={"table": table}, id="ys")  # fmt: skip
    dag.add_function(Function("sum", [ys], sum))
    results = run(dag)
    assert list(results["ys"]) == [111, 113, 115]
    assert results["sum"] == 339


def test_the_list_of_an_array_passes_codecs_and_inline_functions_in_each_run_of_a_dag():
    def told(*args, **kwargs):
        return *args, *kwargs.values()

    dag = DAG("codecs")
    xs = dag.map(abs, [-1, 2, -3], id="xs")
    coded = handoff.Argument(xs, lambda value, source, target: sum(value), lambda payload, source, target: payload * 10)
    largest = dag.add_function(Function("largest", [xs], max, type="inline"))
    dag.add_function(Function("all", [coded, largest], told))
    dag.add_function(Function("as list", [xs, "all"], told, argument_inclusion="as_list"))
    dag.map(told, [1, 2], largest, coded, fixed={"k": largest, "l": [coded]}, id="ys")
    for _ in range(2):
        results = run(dag)
        assert list(results["ys"]) == [(1, 3, 60, 3, [60]), (2, 3, 60, 3, [60])]
        assert (results["all"], results["as list"]) == ((60, 3), ([[1, 2, 3], (60, 3)],))


def test_arrays_share_arguments_that_they_cannot_write_to_or_have_their_own():
    def write(index, shared, array):
        shared.append(index)
        try:
            array[0] += 1
        except ValueError:
            return "read-only"
        return len(shared), float(array[0])

    dag = DAG("shared")
    for writable in (False, True):
        dag.map(write, range(50), handoff.Fixed([]), handoff.Fixed(numpy.zeros(3)), writable=writable, id=writable)
    results = run(dag)
    assert set(results[False]) == {"read-only"} and set(results[True]) == {(1, 1.0)}


def test_values_have_the_types_that_the_function_returned():
    values = [1, 1.0, True, None, "x", numpy.float32(2), {"k": [1]}, 10**30]
    dag = DAG("types")
    dag.map(lambda x: x, values, id="same")
    found = list(run(dag)["same"])
    assert found == values
    assert [type(each) for each in found] == [type(each) for each in values]


def test_an_empty_array_is_done():
    dag = DAG("empty")
    ys = dag.map(lambda x: x, [], id="ys")
    dag.add_function(Function("count", [ys], len))
    results = run(dag)
    assert list(results["ys"]) == []
    assert results["count"] == 0


def test_elements_are_tried_again(tmp_path):
    notes = str(tmp_path / "notes")

    def flaky(x):
        attempt = handoff.current_task().attempt
        with open(notes, "a") as file:  # noqa: PTH123 (for each of a thousand)
            file.write(f"{x}:{attempt} ")
        if x % 100 == 0 and attempt < 3:
            raise ValueError("again")
        return x

    dag = DAG("flaky")
    dag.map(flaky, range(1000), id="xs", max_retries=2)
    results = run(dag)
    assert results.status == "done"
    expected = [f"{x}:{attempt}" for x in range(1000) for attempt in range(1, 4 if x % 100 == 0 else 2)]
    assert counts_of(tmp_path / "notes") == Counter(expected)


def test_too_many_failures_end_the_array():
    def bad(x):
        raise TypeError("never")

    dag = DAG("bad")
    dag.map(bad, range(100_000), id="xs", max_failures=5)
    results = run(dag)
    assert results.status == "failed"
    assert len(results["xs"].errors) < 50_000
    with pytest.raises(ValueUnavailable, match="max_failures"):
        results["xs"][99_999]


def test_rank_0_takes_no_step_for_an_element(tmp_path, monkeypatch):
    """No line of Python runs for an element but those of the loop that calls it; rank 0 runs it here, too."""
    monkeypatch.chdir(tmp_path)
    lines_of_run(4_000)  # which imports modules
    # A line for each element would be 396,000 more. Leases take some too, and there are more on a busy machine.
    assert lines_of_run(400_000) - lines_of_run(4_000) < 200_000


def lines_of_run(count):
    """Return how many lines of Python run for an array, without the loop over its elements."""
    lines = 0

    def traced(frame, event, _):
        nonlocal lines
        lines += event == "line"
        return traced

    dag = DAG("many")
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: None if frame.f_code is ElementLoop._run_interval.__code__ else traced)
    try:
        dag.map(abs, range(count), id="xs")
        results = execute(dag, check=False)
    finally:
        sys.settrace(before)
    assert results["xs"][-1] == count - 1
    return lines


def test_wrong_elements_to_run_again_are_refused(tmp_path):
    dag = DAG("again")
    dag.map(abs, range(10), id="xs")
    for name, said in {"xs[x]": r"write xs\[3\], ", "xs[3:x]": r"write xs\[3\], ", "ys[3]": "does not hold",
                       "xs[10]": "10 elements", "xs[,]": "neither an index nor a slice"}.items():  # fmt: skip
        with pytest.raises(UsageError, match=said):
            execute(dag, run_dir=tmp_path / "run", rerun=[name])


@pytest.mark.long
def test_what_an_element_printed_is_kept_under_its_index(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(
        "from handoff_mpi import DAG, Function\n"
        "def say(x):\n    print('element', x)\n    return 1 / (x - 3)\n"
        "dag = DAG()\ndag.map(say, range(12), id='says', max_retries=0)\n"
        "dag.add_function(Function('one', (), say, [5]))\n"
    )
    ended = handoff("run", "--run-dir", "r", "--output", "capture", "--isolation", "process", "dag.py")
    assert ended.rc == 1, ended.err
    results = load(tmp_path / "r")
    assert results.output("says") == "".join(f"element {index}\n" for index in range(12))
    assert results.output(("says", 11)) == "element 11\n" and results.output("one") == "element 5\n"
    (key,) = results.errors
    assert results.output(key) == "element 3\n" and results.errors[key].output == "element 3"
    with pytest.raises(KeyError, match=r"no function \('says', 12\)"):
        results.output(("says", 12))


REFUSED = """
from handoff_mpi import DAG, execute, task

class Licence:
    def __init__(self): self.free, self.asked = 1, 0
    def register(self, rank, resources): pass
    def request(self, rank, cost):
        self.asked += 1
        grants = bool(self.asked % 3 == 0 and self.free)
        self.free -= grants
        return grants
    def release(self, rank, cost): self.free += 1

@task
def after(x, fixed=0): return x + 1

with DAG("refused") as dag:
    value = after(0)
    for _ in range(30):
        value = after(value)
    xs = after.map(range(300), fixed={"fixed": value}, id="xs")
    ys = after.map(xs, id="ys")
    after(ys[3])
results = execute(dag, resource_tracker=Licence(), run_dir=False)
if results is not None:
    print(results.status, results["ys"][299])
"""


REFUSED_ONCE = """
from handoff_mpi import Cluster, DAG

class Tracker:
    def __init__(self, refused): self.refused, self.asked = refused, 0
    def register(self, rank, resources): pass
    def request(self, rank, cost):
        self.asked += 1
        return self.asked != self.refused
    def release(self, rank, cost): pass

with Cluster() as cluster:
    if cluster:
        for refused in 5 * [*range(1, 12)]:
            dag = DAG("once")
            dag.map(abs, dag.map(abs, range(200), id="xs"), id="ys")
            options = {"run_dir": False, "progress": "none", "quiet": True}
            results = cluster.execute(dag, resource_tracker=Tracker(refused), **options)
            assert results["ys"][199] == 199
        print("done")
"""


@pytest.mark.long
def test_an_array_that_moves_to_the_head_of_what_waits_is_offered_to_the_tracker_again(tmp_path):
    (tmp_path / "once.py").write_text(REFUSED_ONCE)
    ended = run_process([*mpirun_command(3), sys.executable, "once.py"], tmp_path, 60)
    assert (ended.rc, ended.out) == (0, "done\n"), ended.err


@pytest.mark.long
def test_arrays_that_a_tracker_refuses_go_to_their_end(tmp_path):
    (tmp_path / "refused.py").write_text(REFUSED)
    ended = run_process([*mpirun_command(4), sys.executable, "refused.py"], tmp_path, 60)
    assert ended.rc == 0, ended.err
    assert ended.out == "done 301\n"


def test_messages_of_elements_that_are_tried_again_are_short_in_the_journal(tmp_path):
    def fails_once(x):
        if handoff.current_task().attempt == 1:
            raise OSError(f"{x}: {'x' * 3000} the end of {x}")
        return x

    dag = DAG("long messages")
    dag.map(fails_once, range(50), chunk=1, id="xs")
    assert execute(dag, run_dir=tmp_path / "r", output="off").status == "done"
    (record,) = load(tmp_path / "r").records()
    assert sum(each.calls for each in record.incidents) == 50
    for each in record.incidents:
        assert " the end of " in each.reason and len(each.reason) < MAX_RETRIED_CHARS + 50
