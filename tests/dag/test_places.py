"""A message about a function names the line that added it."""

from __future__ import annotations

import inspect
import re

import pytest

from handoff_mpi import DAG, DAGError, Function, task
from handoff_mpi.dag import places


def one(x):
    return x


def items():
    yield 1


def line_here():
    return inspect.currentframe().f_back.f_lineno


def test_a_function_that_does_not_take_its_arguments_is_named_with_its_line():
    dag = DAG("lines")
    for number in range(3):
        dag.add_function(Function(("right", number), [], one, [number]))
    dag.add_function(Function("wrong", [], one, [1, 2]))
    line = line_here() - 1
    dag.add_function(Function("generator", [], items))
    with pytest.raises(DAGError) as raised:
        dag.validate()
    wrong, generator = raised.value.problems
    given = "one() takes 1 positional argument but 2 were given"
    assert wrong == f"function 'wrong': {given} (it was added in {__file__}, line {line})"
    assert generator.endswith(f"of its items (it was added in {__file__}, line {line + 2})")


def test_no_line_of_this_package_is_named():
    with DAG("tasks") as dag:
        task(items)()
    with pytest.raises(DAGError) as raised:
        dag.validate()
    assert str(raised.value).endswith("return list(...) of its items")


def test_a_loop_over_many_lines_is_noted_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(places, "MAX_NOTED", 4)
    dag = DAG("many")
    for number in range(3):
        dag.add_function(Function(("one", number), [], one, [number]))
        dag.add_function(Function(("two", number), [], one, [number]))
    lines = [re.sub(".*line ", "", dag._places.of(number)) for number in range(6)]
    assert lines[:2] == lines[2:4] and lines[0] != lines[1]
    assert lines[4:] == ["", ""]
