"""Validation names every culprit; freezing looks through inline functions and sends constants once."""

from __future__ import annotations

import operator
import sys

import numpy as np
import pytest

from handoff_mpi import DAG, DAGError, Function, collocated, task
from handoff_mpi.dag import Plan, build_call
from handoff_mpi.encoding import PICKLED, PLAIN, decode, decode_code


def evaluate(dag, **values):
    """Run a DAG serially through its recipes; return id to value."""
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
            plan.recipes[number], inputs, codes.__getitem__, lambda k: decode(plan.constants[k])
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
    assert [recipe[2] and recipe[2][0] for recipe in plan.recipes] == [PLAIN, PLAIN, PICKLED]
    for _ in range(2):  # no call sees what another did to its arguments
        code, args, named = build_call(plan.recipes[0], [], {0: greedy}.get, None)
        assert code(*args, **named) == (1, 5)


def test_a_large_constant_is_encoded_once():
    big = np.ones(100_000)
    dag = DAG()
    for number in range(10):
        dag.add_function(Function(number, (), np.sum, [big]))
    plan = Plan()
    plan.add(dag)
    assert len(plan.constants) == 1
    assert all(recipe[3] == (0,) for recipe in plan.recipes)
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
