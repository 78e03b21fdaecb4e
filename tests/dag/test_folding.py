"""Declarations of folds, and plain calls in their order."""

import functools
import operator
import pickle

import pytest

from handoff_mpi import DAG, Argument, DAGError, Fixed, Function, Handle, task
from handoff_mpi.dag import Plan
from handoff_mpi.dag.folding import Fold, fold_here
from handoff_mpi.dag.handle import ArrayHandle
from handoff_mpi.dag.validation import are_right_at_first_sight, find_all_problems


def add(a, b):
    return a + b


def one(a):
    return a


async def later(a, b):
    return a


XS = ArrayHandle("xs", 3)
REFUSED = {
    "no function": (lambda dag: dag.reduce([1], add), "reduce takes the function first"),
    "a handle as function": (lambda dag: dag.reduce(Handle("f"), [1]), "reduce takes the function first"),
    "no values": (lambda dag: dag.reduce(add, []), r"^reduce\(add\): there is nothing to fold; give at least one"),
    "an empty slice": (lambda dag: dag.reduce(add, XS[3:]), "nothing to fold"),
    "a value that is not known": (lambda dag: dag.reduce(add, Handle("x")), "not known before the run; pass an array"),
    "an Argument": (lambda dag: dag.reduce(add, Argument("x")), "not known before the run"),
    "a number": (lambda dag: dag.reduce(add, 5), "values is 5, which is not iterable; pass an array, or an iterable"),
    "a fixed value": (
        lambda dag: dag.reduce(add, Fixed([1])),
        r"values is Fixed\(.*, which is one value; pass an array",
    ),
    "fixed": (lambda dag: dag.reduce(add, [1], fixed=[1]), r"^reduce\(add\): fixed is \[1\], and must map names"),
    "a window": (lambda dag: dag.reduce(add, [1], window=5), "^reduce.* that are known; leave out window="),
    "an initial value": (lambda dag: dag.reduce(add, [1], initial=5), "no initial value; put one among the values"),
    "as a list": (
        lambda dag: dag.reduce(add, [1], argument_inclusion="as_list"),
        "two values; leave out argument_incl",
    ),
    "an unknown option": (
        lambda dag: dag.reduce(add, [1], wide=5),
        "all: chunk, cost, cwd, env, fan_in, fixed, id, max_r",
    ),
    "a function of one": (lambda dag: dag.reduce(one, [1]), "called with two values: .*takes 1 positional argument"),
    "an async function": (lambda dag: dag.reduce(later, [1]), "async function; fold with a plain function"),
    "a fan-in of one": (lambda dag: dag.reduce(add, [1], fan_in=1), "fan_in must be a whole number from 2, not 1"),
    "half a fan-in": (lambda dag: dag.reduce(add, [1], fan_in=2.5), "fan_in must be a whole number from 2, not 2.5"),
    "failures": (lambda dag: dag.reduce(add, [1], max_failures=1), "no value if any .*; leave out max_failures="),
    "a misspelt option": (lambda dag: dag.reduce(add, [1], costs={}), r"^reduce\(add\) got .*did you mean cost\?"),
    "inline": (lambda dag: dag.reduce(task(add, type="inline"), [1]), "cannot be inline"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_where_it_is_declared(kind):
    declare, says = REFUSED[kind]
    dag = DAG()
    with pytest.raises(DAGError, match=f"(?s){says}"):
        declare(dag)
    assert len(dag) == 0


def test_a_fold_is_one_function_with_a_plain_handle():
    with DAG() as dag:
        xs = dag.map(one, range(1000), id="xs")
        first = dag.reduce(add, xs)
        second = task(add, cost={"cpu": 2}).reduce(xs[::2], fan_in=10, id="half", timeout=5)
    assert (type(first), first.id, second.id) == (Handle, "add", "half")
    assert (dag["half"].cost, dag["half"].timeout, dag["half"].name) == ({"cpu": 2}, 5, "add")
    assert find_all_problems(dag.functions, {each.id: each for each in dag}) == []
    assert are_right_at_first_sight(dag.functions)
    specs = Plan().add(dag)
    assert [spec.needs for spec in specs] == [(), (0,), (0,)] and [spec.keep for spec in specs] == [False, True, True]
    assert [spec.array.count for spec in specs] == [1000, 16 + 1, 50 + 5 + 1]


def test_links_to_what_is_not_there_or_is_no_such_array_are_found():
    for other, says in (
        (lambda dag: None, "there is no function 'xs', which '.*' takes"),
        (lambda dag: dag.map(one, range(4), id="xs"), "argument 1 stands for elements of an array of 3.*'xs' has 4"),
        (lambda dag: dag.reduce(add, range(3), id="xs"), "argument 1 stands for elements of 'xs', which is no array"),
    ):
        dag = DAG()
        other(dag)
        dag.map(one, XS, id="ys")
        with pytest.raises(DAGError, match=says):
            dag.validate()
    dag = DAG()
    dag.map(add, XS, ArrayHandle("ys", 3), id="zs")
    dag.map(one, ArrayHandle("zs", 3), id="xs")
    dag.map(one, range(3), id="ys")
    with pytest.raises(DAGError, match=r"there is a cycle: '.s' -> '.s' -> '.s'"):
        dag.validate()


def test_plain_calls_fold_in_the_same_order():
    values = [1 / (index + 1) for index in range(1000)]
    blocks = [functools.reduce(add, values[low : low + 10]) for low in range(0, 1000, 10)]
    blocks = [functools.reduce(add, blocks[low : low + 10]) for low in range(0, 100, 10)]
    assert fold_here(add, values, 10, {}) == functools.reduce(add, blocks)
    assert task(add).reduce([5]) == 5 and task(add).reduce("abc", fan_in=2) == "abc"
    assert fold_here(functools.partial(lambda a, b, by: a + by * b, by=1), [1, 2], 2, {"fixed": {"by": 3}}) == 7
    with pytest.raises(DAGError, match="nothing to fold"):
        fold_here(add, [], 64, {})
    for values, options, says in (
        (3, {}, "values is 3, which is not iterable"),
        ([1], {"fixed": [1]}, "must map names"),
    ):
        with pytest.raises(DAGError, match=rf"^reduce\(add\): .*{says}"):
            task(add).reduce(values, **options)


def test_a_handle_inside_a_value_is_refused_with_a_remedy():
    dag = DAG()
    h = dag.add_function(Function("h", (), one, [1]))
    dag.reduce(add, [1, [h]])
    with pytest.raises(DAGError, match=r"element 1 of values cannot be sent to a rank: Handle.*; make it an element"):
        Plan().add(dag.validate())


def test_a_fold_is_called_by_the_name_of_its_function():
    fold = pickle.loads(pickle.dumps(Fold(operator.add)))
    assert (fold.__name__, fold([1, 2, 3])) == ("add", 6)
