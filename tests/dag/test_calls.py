"""Calls that cannot work are refused with the DAG: once for each fault, with a count."""

from __future__ import annotations

import functools
import re
import types

import pytest

from handoff_mpi import DAG, Argument, DAGError, Function, execute_local, task


def one(x):
    return x


def generate(n):
    yield from range(n)


async def agenerate(n):
    for item in range(n):
        yield item


async def coroutine(n):
    return n


@types.coroutine
def old_coroutine(n):
    return (yield from coroutine(n))


class Generates:
    def __call__(self, n):
        yield n


def problems(*functions):
    """Return what is wrong, without the line that added a function: see test_places.py."""
    dag = DAG("d")
    for function in functions:
        dag.add_function(function)
    try:
        dag.validate()
    except DAGError as error:
        return [re.sub(r" \(it was added in .*?, line \d+\)", "", problem) for problem in error.problems]
    return []


def test_arguments_are_bound_as_they_will_be_given():
    found = problems(
        Function("a", (), lambda: 1),
        Function("b", ["a"], one, [2]),
        Function("c", ["a"], one, kwargs={"zz": 1}),
        Function("all", ["a", "b", "c"], one, argument_inclusion="as_list"),
        Function("none", (), one, argument_inclusion="as_list"),
        Function("more", ["a", "b"], one, [1], argument_inclusion="as_list"),
    )
    assert found == [
        "function 'b': one() takes 1 positional argument but 2 were given (and 1 other)",
        "function 'c': one() got an unexpected keyword argument 'zz'",
    ]


def test_a_call_of_a_task_is_refused_in_its_line():
    inline, as_list = task(one, type="inline"), task(one, argument_inclusion="as_list")
    with DAG("d") as dag:
        handles = [inline(1), as_list(), as_list(inline(2), inline(3))]
        for call, says in (
            (lambda: task(one)(1, 2), r"^one\(\) takes 1 positional argument but 2 were given$"),
            (inline, r"^one\(\) missing 1 required positional argument: 'x'$"),
            (lambda: inline(y=1), r"^one\(\) got an unexpected keyword argument 'y'$"),
            (lambda: as_list(handles[0], 1), r"^one\(\) takes 1 positional argument but 2 were given$"),
        ):
            with pytest.raises(DAGError, match=says):
                call()
    assert len(dag.validate()) == 5


def test_a_fault_is_told_once_with_how_many_functions_have_it():
    found = problems(*[Function(i, (), one, [i, i]) for i in range(500)], Function("x", (), one))
    assert found == [
        "function 0: one() takes 1 positional argument but 2 were given (and 499 others)",
        "function 'x': one() missing 1 required positional argument: 'x'",
    ]


def test_codecs_are_bound_to_a_value_and_two_ranks():
    argument = Argument("a", serialize=one, deserialize=max)
    (found,) = problems(Function("a", (), lambda: 1), Function("b", [argument], one))
    assert found.startswith("function 'b': an Argument's serialize cannot be called as serialize(value, source_")


@pytest.mark.parametrize(
    "code",
    [generate, functools.partial(generate), Generates(), functools.cache(generate), staticmethod(generate), agenerate],
    ids=["plain", "partial", "object", "cached", "static", "async"],
)
def test_generator_functions_are_refused_with_the_remedy(code):
    (found,) = problems(Function("a", (), code, [3]))
    assert "generator function" in found
    assert "return " in found


@pytest.mark.parametrize("code", [coroutine, old_coroutine, functools.wraps(generate)(lambda n: list(generate(n)))])
def test_what_only_looks_like_a_generator_function_is_not_refused(code):
    assert not problems(Function("a", (), code, [3]))


def test_an_inline_generator_function_is_used_where_it_is_called(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    dag = DAG("d")
    dag.add_function(Function("items", (), generate, [3], type="inline"))
    dag.add_function(Function("sum", ["items"], sum))
    assert execute_local(dag)["sum"] == 3


async def serialize(value, source, target):
    return value + 1


def generate_parts(payload, source, target):
    yield payload


def test_a_codec_may_be_async_and_make_a_generator_but_not_send_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    dag = DAG("d")
    dag.add_function(Function("a", (), int, [1]))
    dag.add_function(Function("b", (), sum, [Argument("a", serialize, generate_parts)]))
    assert execute_local(dag)["b"] == 2
    (found,) = problems(Function("a", (), int), Function("b", [Argument("a", generate_parts)], one))
    assert "serialize is a generator" in found
