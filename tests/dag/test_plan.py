"""Validation names every culprit; freezing looks through inline functions and sends constants once."""

from __future__ import annotations

import operator
import random
import sys
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pytest

from handoff_mpi import DAG, Argument, DAGError, Function, Handle, collocated, task
from handoff_mpi.dag import Plan, build_call
from handoff_mpi.dag.validation import are_right_at_first_sight, find_all_problems
from handoff_mpi.serialization import PICKLED, PLAIN, decode, decode_code


def evaluate(dag, **values):
    """Run a DAG serially through its call templates; return id to value."""
    plan = Plan()
    plan.add(dag.validate())
    codes = [decode_code(blob) for blob in plan.codes]
    done = dict(values)
    waiting = list(range(len(plan)))
    while waiting:
        number = waiting.pop(0)
        sources = plan.sources[number]
        if any(plan.ids[each] not in done for each, _ in sources):
            waiting.append(number)
            continue
        inputs = [done[plan.ids[each]] for each, _ in sources]
        code, args, kwargs = build_call(
            plan.call_templates[number], inputs, codes.__getitem__, lambda k: decode(plan.constants[k])
        )
        done[plan.ids[number]] = code(*args, **kwargs)
    return done


def test_every_culprit_is_named_at_once():
    dag = DAG("bad")
    dag.add_function(Function("a", ["x"], print))
    dag.add_function(Function("b", ["y", "c"], print))
    dag.add_function(Function("c", ["b"], print, node=collocated("z")))
    with pytest.raises(DAGError) as caught:
        dag.validate()
    text = str(caught.value)
    for part in ("no function 'x'", "no function 'y'", "'z' to be collocated", "there is a cycle: "):
        assert part in text, part
    assert len(caught.value.problems) == 4


def test_a_wrong_field_hides_no_other_culprit():
    dag = DAG("worse")
    dag.add_function(Function("a", (), print, timeout=-1))
    dag.add_function(Function("b", ["c", "gone"], print))
    dag.add_function(Function("c", ["b"], print))
    dag.add_function(Function("twice", (), print))
    dag.add_function(Function("twice", (), print, node=collocated("nobody")))
    dag.add_function(Function("odd", 5, print))
    dag.add_function(Function("last", ["odd"], print, node=collocated("lost")))
    with pytest.raises(DAGError) as caught:
        dag.validate()
    text = str(caught.value)
    parts = ["timeout", "no function 'gone'", "there is a cycle: ", "'twice' is used by 2", "args must be"]
    for part in [*parts, "no 'lost' to", "no 'nobody' to"]:
        assert part in text, part
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"code": 5}, "code must be callable"),
        ({"args": [[1]]}, "constants go into extra_args"),
        ({"args": "abc"}, "args must be a list"),
        ({"cost": {"cpu": "many"}}, "is not an amount"),
        ({"cost": {"gpu": 1.5}}, "whole number of devices"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"priority": 1.5}, "priority"),
        ({"node": 2.5}, "node"),
        ({"type": "lazy"}, "type is"),
        ({"argument_inclusion": "spread"}, "argument_inclusion is"),
    ],
)
def test_wrong_fields_are_named(fields, says):
    dag = DAG()
    dag.add_function(Function(**{"id": "f", "code": print, **fields}))
    with pytest.raises(DAGError, match=says):
        dag.validate()


ODDITIES = {
    "id": [None, (1, 2), 1.0, "3", True],
    "code": [None, 5, lambda: 1, max],
    "args": [[], (), "ab", [[1]], [None], [1], [Handle(2)], [Handle(Handle(1))], ["gone"], [Argument(1, serialize=5)]],
    "extra_args": [[], (1, "x"), [[Handle(3)]], [Handle("gone")], [{"k": (Handle(1),)}], "text", {1}],
    "kwargs": [{}, {"k": 1}, {1: 1}, {"k": [Handle(0)]}, {"k": Handle("gone")}, None, MappingProxyType({"k": 1})],
    "cost": [None, {}, {"cpu": 1.0}, {"cpu": True}, {"cpu": -1}, {"cpu": Fraction(1)}, {"cpu": []}, {1: 1}, 7],
    "max_retries": [None, 0, 3, -1, True, 1.0],
    "timeout": [None, 1, 0.5, 0, -1, True, float("inf"), float("nan"), "1"],
    "node": [None, 0, 2, -1, True, "host", 1.5, collocated(0), collocated("gone")],
    "priority": [0, -5, True, 1.0, None],
    "version": ["", "2", 2],
    "type": ["regular", "inline", "odd", None, []],
    "argument_inclusion": ["variadic", "as_list", "odd", []],
}


def test_what_is_right_at_first_sight_is_right():
    """Compared with the way that looks at one function after the other, over DAGs with some oddities or none."""
    rng = random.Random(1)
    quick = 0
    for _ in range(3_000):
        functions = [Function(number, [number - 1] if number else [], max, [number]) for number in range(5)]
        for _ in range(rng.randrange(4)):
            name = rng.choice(list(ODDITIES))
            setattr(rng.choice(functions), name, rng.choice(ODDITIES[name]))
        by_id = {}
        for function in functions:
            by_id.setdefault(function.id, function)
        if are_right_at_first_sight(functions):
            quick += 1
            assert find_all_problems(functions, by_id) == [], functions
    assert 500 < quick < 2_500


def test_duplicate_ids_are_named():
    dag = DAG()
    for _ in range(3):
        dag.add_function(Function("same", (), print))
    with pytest.raises(DAGError, match="'same' is used by 3 functions"):
        dag.validate()


def test_a_long_chain_is_validated_without_recursion():
    dag = DAG()
    for number in range(20_000):
        dag.add_function(Function(number, [number - 1] if number else [], abs))
    assert len(dag.validate()) == 20_000


def test_handles_nest_in_containers():
    @task
    def one():
        return 1

    @task
    def pack(*args, **kwargs):
        return args, kwargs

    with DAG() as dag:
        x = one()
        pack(x, [x, {"k": (x, 2)}], 3, named=[x])
    assert evaluate(dag)["pack"] == ((1, [1, {"k": (1, 2)}], 3), {"named": [1]})
    assert pack(5) == ((5,), {}), "outside a DAG it is the plain function"


def test_inline_functions_are_looked_through():
    dag = DAG()
    dag.add_function(Function("a", (), operator.pos, [1]))
    dag.add_function(Function("i", ["a"], operator.neg, type="inline"))
    dag.add_function(Function("j", ["i", "i"], operator.mul, type="inline"))
    dag.add_function(Function("out", ["i", "j", "a"], lambda i, j, a: (i, j, a)))
    done = evaluate(dag)
    assert done["out"] == (-1, 1, 1)
    assert set(done) == {"a", "out"}, "inline functions are no results"


def test_as_list_and_kwargs():
    dag = DAG()
    dag.add_function(Function("a", (), abs, [-1]))
    dag.add_function(Function("b", ["a", "a"], sorted, kwargs={"reverse": True}, argument_inclusion="as_list"))
    assert evaluate(dag)["b"] == [1, 1]


def test_tasks_that_differ_in_nothing_share_what_the_scheduler_knows_of_them():
    dag = DAG()
    for number in range(10):
        dag.add_function(Function(number, (), max, [number], cost={"cpu": 2}))
    dag.add_function(Function("sum", [0, 1], max))
    dag.add_function(Function("expensive", (), max, [1], cost={"cpu": 2}, priority=1))
    dag.add_function(Function("near", (), max, [1], cost={"cpu": 2}, node=collocated(2)))
    plan = Plan()
    plan.add(dag)
    by_spec = {}
    for number, spec in enumerate(plan.specs):
        by_spec.setdefault(id(spec), []).append(plan.ids[number])
    # What is taken is not kept; what is collocated has a group.
    assert sorted(map(str, by_spec.values())) == sorted(
        map(str, [[0, 1], [2], ["near"], [3, 4, 5, 6, 7, 8, 9], ["sum"], ["expensive"]])
    )
    assert (plan.specs[2].group, plan.specs[2].keep, plan.specs[0].keep) == (2, True, False)


def test_small_constants_are_carried_as_they_are():
    def greedy(*args, **kwargs):
        return kwargs.pop("a"), kwargs.setdefault("b", 5)

    kwargs = {"a": 1}
    dag = DAG()
    dag.add_function(Function("named", (), greedy, kwargs=kwargs))
    dag.add_function(Function("both", ["named"], greedy, [2], kwargs={"a": "x", "b": (None, 1.5)}))
    dag.add_function(Function("not plain", (), greedy, kwargs={"a": [1]}))
    plan = Plan()
    plan.add(dag)
    kwargs["a"] = 7
    assert [call_template[2] and call_template[2][0] for call_template in plan.call_templates] == [
        PLAIN,
        PLAIN,
        PICKLED,
    ]
    for _ in range(2):  # no call sees what another did to its arguments
        code, args, named = build_call(plan.call_templates[0], [], {0: greedy}.get, None)
        assert code(*args, **named) == (1, 5)


def test_neighbours_with_the_very_same_constants_share_them():
    one, text = 2**40, "a text"
    constants = [[one, text], [one, text], [one, text], [1], [True], [1.0], [0.0], [-0.0], [], [one], [one, text]]
    dag = DAG()
    for number, extra in enumerate(constants):
        dag.add_function(Function(number, [0] if number == 2 else (), max if number < 9 else min, extra))
    plan = Plan()
    plan.add(dag)
    first, second, third, *others = plan.call_templates
    assert first is second is third, "its inputs are no part of it"
    assert len({id(each) for each in others}) == len(others)
    for template, extra in zip(plan.call_templates, constants, strict=True):
        code, args, named = build_call(template, [], {0: max, 1: min}.get, None)
        assert repr(args) == repr(type(args)(extra)) and not named
        assert code is (max if extra is not constants[-1] and extra is not constants[-2] else min)


def test_a_large_constant_is_encoded_once():
    big = np.ones(100_000)
    dag = DAG()
    for number in range(10):
        dag.add_function(Function(number, (), np.sum, [big]))
    plan = Plan()
    plan.add(dag)
    assert len(plan.constants) == 1
    assert all(call_template[3] == (0,) for call_template in plan.call_templates)
    assert evaluate(dag)[3] == 100_000


def test_all_unpicklable_constants_are_named():
    dag = DAG()
    dag.add_function(Function("one", (), print, [sys._getframe()]))
    dag.add_function(Function("two", (), print, kwargs={"end": (x for x in ())}))
    with pytest.raises(DAGError, match=r"(?s)'one'.*'two'"):
        Plan().add(dag)


def test_sinks_and_named_ids_are_kept():
    dag = DAG()
    dag.add_function(Function("a", (), abs, [1]))
    dag.add_function(Function("b", ["a"], abs))
    assert [spec.keep for spec in Plan().add(dag)] == [False, True]
    assert [spec.keep for spec in Plan("all").add(dag)] == [True, True]
    assert [spec.keep for spec in Plan(["a"]).add(dag)] == [True, True]


def test_collocated_functions_share_a_group():
    dag = DAG()
    for id, other in (("a", None), ("b", "a"), ("c", "b"), ("d", None)):
        dag.add_function(Function(id, (), abs, node=collocated(other) if other else None))
    groups = [spec.group for spec in Plan().add(dag)]
    assert groups[0] == groups[1] == groups[2] is not None
    assert groups[3] is None


def test_a_timeout_that_no_clock_can_hold_is_refused():
    dag = DAG()
    dag.add_function(Function("a", (), abs, [-1], timeout=10**400))
    with pytest.raises(DAGError, match="timeout must be a positive number of seconds"):
        dag.validate()
