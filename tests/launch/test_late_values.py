"""Values that depend on folds of windowed arrays are taken over once all of these are known to be what they were."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from handoff_mpi import DAG, Function, execute_local
from handoff_mpi.dag import Plan
from handoff_mpi.launch.late_values import LateValues
from handoff_mpi.launch.resume import Resumed
from handoff_mpi.launch.takers import Sources, behind_windowed
from handoff_mpi.results.launches import Done
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.scheduler import ValueLocation
from handoff_mpi.simulation.shapes import Shape, Window
from tests.simulation.test_folds_of_windows import folded
from tests.simulation.test_linked_arrays import load_of

HOME, FILE, NOWHERE = ValueLocation.HOME, ValueLocation.FILE, ValueLocation.NOWHERE
#: Two folds of windowed arrays.
A, B = 2, 5
NOTHING_HAS_BEGUN = SimpleNamespace(has_not_begun=lambda task: True)


class Records(list):
    """A journal that keeps the records of what was restored."""

    def append(self, record):
        super().append(record)
        return True


@pytest.fixture
def plan():
    """Functions behind A, B and both, behind one of A, and behind no fold."""
    first, second = Window(4, 10), Window(4, 10)
    arrays = [Shape(0, window=first), *folded(0, first, 4), Shape(0, window=second), *folded(3, second, 4)]
    return load_of(*arrays, (A,), (B,), (6, 7), (6,), ()).plan()


def late(plan: Plan, **its):
    """Values to take over late, given as task to (where its value is, launch, payload or key)."""
    later = Resumed(array_values={})
    for task, (there, epoch, value) in its.items():
        number = int(task[1:])
        later.rest[number] = there
        later.done[number] = Done(1, 1, 0.0, 0.1, 8, value if there == HOME else None, None, epoch)
        if there == HOME:
            later.payloads[number] = value
        elif there == FILE:
            later.keys[number] = value
    resumed = Resumed(unknown=behind_windowed(plan), later=later)
    records, home = Records(), {}
    return LateValues(plan, resumed, JournalWriter(records, plan, lambda task: ("run", task)), home.__setitem__), (
        resumed,
        records,
        home,
    )


def test_what_depends_on_one_fold_does_not_wait_for_another(plan):
    values, (resumed, records, home) = late(plan, t6=(HOME, 1, b"6"), t7=(FILE, 1, "key"), t8=(HOME, 1, b"8"))
    assert values.take_over(NOTHING_HAS_BEGUN, {A: {1}}).tasks == {6: HOME}
    assert (home, resumed.keys, records) == ({6: b"6"}, {}, [("restored", [6])])
    assert values.take_over(NOTHING_HAS_BEGUN, {A: {1}, B: {1}}).tasks == {7: FILE, 8: HOME}
    assert (home, resumed.keys) == ({6: b"6", 8: b"8"}, {7: "key"})


def test_what_was_computed_while_a_fold_was_another_runs_again_and_so_does_all_behind_it(plan):
    values, (_, _, home) = late(plan, t6=(HOME, 2, b"6"), t7=(HOME, 1, b"7"), t8=(HOME, 1, b"8"), t9=(HOME, 1, b"9"))
    assert values.take_over(NOTHING_HAS_BEGUN, {A: {1, 3}}).tasks == {}
    assert values.take_over(NOTHING_HAS_BEGUN, {A: {1, 3}, B: {1}}).tasks == {7: HOME}
    assert home == {7: b"7"}


def test_what_has_begun_is_not_taken_over(plan):
    values, (resumed, records, home) = late(plan, t6=(HOME, 1, b"6"), t9=(FILE, 1, "key"))
    begun = SimpleNamespace(has_not_begun=lambda task: task != 6)
    assert values.take_over(begun, {A: {1}}).tasks == {9: FILE}
    assert (home, resumed.keys, records) == ({}, {9: "key"}, [("restored", [9])])


def test_what_has_no_value_and_is_needed_runs_again(plan):
    """Function 8 waits for B, and may run again: so 6 does, whose value is nowhere, unless 8 is taken over."""
    values, _ = late(plan, t6=(NOWHERE, 1, None), t8=(HOME, 1, b"8"), t9=(HOME, 1, b"9"))
    assert values.take_over(NOTHING_HAS_BEGUN, {A: {1}}).tasks == {9: HOME}
    values, _ = late(plan, t6=(NOWHERE, 1, None), t7=(NOWHERE, 1, None), t8=(HOME, 1, b"8"), t9=(HOME, 1, b"9"))
    assert values.take_over(NOTHING_HAS_BEGUN, {A: {1}, B: {1}}).tasks == {6: NOWHERE, 7: NOWHERE, 8: HOME, 9: HOME}


def test_a_fold_that_depends_on_another_is_behind_it():
    first, second = Window(4, 10), Window(4, 10)
    load = load_of(Shape(0, window=first), *folded(0, first, 4), Shape(0, window=second), *folded(3, second, 4), (B,))
    assert behind_windowed(load.plan()) == {6}
    load.specs[3].inputs = (A,)
    assert behind_windowed(load.plan()) == {3, 4, 5, 6}
    assert behind_windowed(load_of((), (0,)).plan()) == set()


def taking_nothing(notes, fails=False):
    """A DAG of what takes nothing of arrays behind a fold, and of what takes something."""

    def note(name):
        def noted(*_, **__):
            with notes.open("a") as file:
                file.write(f"{name} ")

        return noted

    def double(x):
        if fails:
            raise ValueError("fails")
        return 2 * x

    dag = DAG("d")
    xs = dag.map(double, range(20), window=8, id="xs")
    total = dag.reduce(lambda a, b: a + b, xs, id="total", fan_in=4)
    ys = dag.map(note("ys"), range(3), fixed={"total": total}, id="ys")
    nothing = dag.map(note("nothing"), [], fixed={"total": total}, id="nothing")
    for id, inputs in (("slice", [ys[2:2]]), ("all", [nothing]), ("next", ["slice"]), ("both", [ys[1:], nothing])):
        dag.add_function(Function(id, inputs, note(id)))
    dag.map(note("elements"), [ys[0:0], 5], id="elements")
    dag.map(note("fixed"), range(2), fixed={"none": ys[3:]}, id="fixed")
    dag.map(note("taker"), [ys[0:0], ys[1]], id="taker")
    return dag


def test_what_takes_nothing_of_an_array_behind_a_fold_is_not_behind_it(tmp_path):
    plan = Plan()
    plan.add(taking_nothing(tmp_path / "notes").validate())
    assert {plan.ids[task] for task in behind_windowed(plan)} == {"ys", "nothing", "both", "taker"}
    sources, ys = Sources(plan), plan.number_of["ys"]
    of = {id: {plan.ids[each] for each in sources(plan.number_of[id])} for id in ("slice", "next", "both", "taker")}
    assert of == {"slice": set(), "next": {"slice"}, "both": {"ys"}, "taker": {"ys"}}
    assert all(ys in plan.specs[plan.number_of[id]].needs for id in ("slice", "both", "elements", "fixed"))


@pytest.mark.parametrize("fails", [False, True])
def test_what_takes_nothing_of_an_array_behind_a_fold_is_taken_over_at_once(fails, tmp_path):
    """It begins before the fold is known, and was computed again in each launch therefore."""
    notes = tmp_path / "notes"
    for _ in range(3):
        notes.write_text("")
        dag = taking_nothing(notes, fails)
        results = execute_local(dag, run_dir=tmp_path / "run", keep="all", check=False, max_retries=0)
        called = set(notes.read_text().split())
        if _ == 0:
            assert called > {"slice", "all", "next", "elements", "fixed"}
        else:
            assert called <= {"taker"}, "it takes an element, too"
        assert results["slice"] is results["all"] is results["next"] is None
