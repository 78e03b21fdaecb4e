"""Handles among the elements that a user maps over: what an array makes of them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from handoff_mpi import DAG, Argument, ArrayHandle, DAGError, Function, Handle, execute_local
from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag import Plan
from handoff_mpi.dag.fingerprint import fingerprints
from handoff_mpi.dag.handle_elements import HandleInput
from handoff_mpi.dag.references import inputs_of
from handoff_mpi.dag.selections import Selection

H, G, XS = Handle("h"), Handle("g"), ArrayHandle("xs", 10)


def told(*args):
    return args


def with_elements(*columns, h=1, xs=range(10), code=told):
    dag = DAG("d")
    dag.add_function(Function("h", (), told, [h]))
    dag.add_function(Function("g", (), told))
    dag.map(told, xs, id="xs")
    dag.map(code, *columns, id="ys")
    return dag


def frozen(dag):
    plan = Plan()
    return plan, plan.add(dag.validate())


def test_an_array_depends_on_the_handles_among_its_elements_element_by_element():
    dag = with_elements([H, 3, G, XS[4], XS[1:3]], [5, H, G, 6, 7])
    assert inputs_of(dag["ys"]) == ["h", "g", "xs"]
    plan, specs = frozen(dag)
    assert plan.selections.all == [Selection(2, 4), Selection(2, range(1, 3))]
    assert plan.arrays[3].handles == {0: [(0, 0)], 2: [(0, 1), (1, 1)], 3: [(0, 4)], 4: [(0, 5)], 1: [(1, 0)]}
    assert specs[3].array.handles == {0: (0,), 2: (1,), 3: (4,), 4: (5,), 1: (0,)}
    assert (specs[3].inputs, specs[3].element_inputs, specs[3].needs) == ((), (0, 1, 2), (0, 1, 2))
    assert [spec.keep for spec in specs] == [False, False, False, True]


def test_elements_are_read_when_they_are_mapped_over():
    values = [H, 1, [2]]
    dag = with_elements(values)
    values[1] = 5
    elements = dag["ys"].elements[0]
    assert type(elements) is HandleInput and elements[0] is H and elements[1] == 1 and elements[2] == [2]
    assert elements.types() == {Handle, int, list, type(None)}
    assert len(elements) == 3
    elements.encode()
    assert elements.nbytes > 0 and elements[2] == [2] and elements[0] is H


@pytest.mark.parametrize("columns", [([1, 2],), (range(3),), ((each for each in "ab"),), (np.arange(3),)])
def test_an_array_without_handles_has_none(columns):
    dag = with_elements(*columns)
    assert not any(type(each) is HandleInput for each in dag["ys"].elements) and not dag["ys"].element_ids


def test_handles_come_from_a_generator_too():
    dag = with_elements(Handle(each) for each in "hg")
    assert dag["ys"].element_ids == ["h", "g"]


WRONG = {
    "gone": (([Handle("z")],), "there is no function 'z', which 'ys' takes"),
    "itself": (([Handle("ys")],), "there is a cycle: 'ys' -> 'ys'"),
    "another DAG's": (([1, ArrayHandle("xs", 20)[3]],), r"'ys': it takes ArrayElement\('xs'\[3\]\) of an array of 20"),
    "no array": (([Argument(H, missing="skip")],), "is for arrays, and 'h' is none"),
    "inline": (([1, Handle("i")],), "element 1 of argument 1 is the inline function .i., which has no value"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_has_no_value_is_refused(kind):
    columns, says = WRONG[kind]
    dag = with_elements(*columns)
    dag.add_function(Function("i", (), told, type="inline"))
    with pytest.raises(DAGError, match=says):
        dag.validate()


def test_a_handle_inside_an_element_is_refused_with_a_remedy():
    dag = with_elements([1, [H], (2, H)])
    with pytest.raises(DAGError, match=r"element 1 of argument 1 cannot be sent to a rank: Handle.*make it an element"):
        Plan().add(dag.validate())


# -- fingerprints ------------------------------------------------------------------------------------------


def digests_of(*columns, **options):
    dag = with_elements(*columns, **options)
    Plan().add(dag)
    marks = fingerprints(dag)
    return marks.of("ys"), [each.digest_of(range(1), None) for each in dag["ys"].elements], dag["ys"].elements


def test_an_element_is_the_same_if_the_value_is_that_it_takes():
    array, (first,), _ = digests_of([H, 1])
    assert digests_of([H, 1])[:2] == (array, [first])
    for changed in (digests_of([H, 1], h=2), digests_of([G, 1]), digests_of([None, 1])):
        assert changed[0] == array and changed[1] != [first]
    assert digests_of([H, 2])[1] == [first]
    assert digests_of([H, 1], code=max)[0] != array


def test_an_element_of_an_array_counts_without_the_others():
    _, (first,), _ = digests_of([XS[3], 1])
    changed = [0, 1, 2, 3, 4, 50, 6, 7, 8, 9]
    assert digests_of([XS[3], 1], xs=changed)[1] == [first]
    changed[3] = 30
    assert digests_of([XS[3], 1], xs=changed)[1] != [first]
    assert digests_of([XS[4], 1])[1] != [first]


def test_an_element_without_a_fingerprint_is_never_the_same():
    _, (digest,), (elements,) = digests_of([H, 1], h=iter(()))
    assert digest == bytes(16) or elements.marks[0] is not None
    elements.marks[0] = None
    assert elements.digest_of(range(1)) == bytes(16)
    assert elements.digest_of(range(1, 2)) != bytes(16)


@pytest.mark.parametrize(("count", "block"), [(10, 1), (5000, 2)])
def test_values_beside_handles_are_those_of_a_range_where_that_can_be_known(count, block):
    """A block of an earlier launch with a handle in it has one digest: what else it had is not known."""
    values, given = [*range(count)], range(count)
    values[3], values[8] = H, G
    mixed, plain = digests_of(values)[2][0], freeze_elements(given, "argument 1")
    others = IntervalSet([(0, 3), (4, 8), (9, count)])
    assert mixed.same_prefix(plain.digests()) == others
    earlier = mixed.digests()
    assert earlier[3] == block
    for index in (3, 8):
        others.discard(index // block * block, index // block * block + block)
    assert plain.same_prefix(earlier) == others
    assert mixed.value_digests() != plain.value_digests()
    values[4], values[-1] = True, 0
    changed = digests_of(values)[2][0].same_prefix(plain.digests())
    assert not changed.within(4, 5) and not changed.within(count - 1, count)


def test_elements_run_again_alone_that_are_handles_now_or_were(tmp_path):
    calls = tmp_path / "calls"

    def noted(x):
        with calls.open("a") as file:
            file.write(str(x))
        return 10 * x

    def run(*changed, of=range(5), place="run"):
        dag = DAG("d")
        one = dag.add_function(Function("one", (), abs, [1]))
        elements = [one if each in changed else each for each in of] if changed else of
        xs = dag.map(noted, elements, id="xs")
        dag.add_function(Function("total", [xs], lambda xs: noted(sum(xs) // 10)))
        results = execute_local(dag, run_dir=tmp_path / place)
        called = calls.read_text() if calls.exists() else ""
        calls.unlink(missing_ok=True)
        return [*results["xs"]], results["total"], called

    plain = [0, 10, 20, 30, 40], 100
    assert run() == (*plain, "0123410")
    assert run(of=[*range(5)]) == run(of=(*range(5),)) == (*plain, "")
    assert run(3) == ([0, 10, 20, 10, 40], 80, "18")
    assert run() == (*plain, ""), "the first launch had these values"
    assert run(3, place="other") == ([0, 10, 20, 10, 40], 80, "012418")
    assert run(place="other") == (*plain, "310")


@pytest.mark.parametrize("taken", [slice(0, 4, 2), slice(2, None, -1), slice(None, None, -2), slice(1, 4)], ids=str)
def test_elements_of_a_slice_are_the_same_if_the_values_are_that_they_take(taken):
    indices = range(4)[taken]

    def digests(h):
        elements = digests_of([1, 2, H, G], h=h)[2][0]
        return elements.digest_of(indices), [elements.digest_of(range(index, index + 1)) for index in indices]

    (before, ones), (now, others) = digests(1), digests(2)
    assert (before == now) == (ones == others) == (2 not in indices)
    assert digests(1) == (before, ones)


def test_what_takes_a_slice_runs_again_with_an_element_of_it_that_has_changed(tmp_path):
    def run(value):
        dag = DAG("d")
        xs = dag.map(abs, [dag.add_function(Function("h", (), abs, [value])), 1, 2, 3], id="xs")
        for id, taken in (("even", xs[::2]), ("odd", xs[1::2]), ("back", xs[::-1])):
            dag.add_function(Function(id, [taken], sum))
        results = execute_local(dag, run_dir=tmp_path / "run")
        return [results[id] for id in ("even", "odd", "back")]

    assert run(5) == [7, 4, 11]
    assert run(7) == [9, 4, 13]
