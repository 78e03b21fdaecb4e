"""Rubbish in the place of a strategy, a tracker or a store is refused at once, saying what is expected."""

from __future__ import annotations

import collections
import functools
import sys
from importlib import metadata

import numpy as np
import pytest

import handoff_mpi as handoff
from handoff_mpi.runtime.options import options_of
from handoff_mpi.testing import settings_restored


class Tracker:
    def register(self, rank, capabilities): ...
    def request(self, rank, cost): ...
    def release(self, rank, cost): ...


class Narrow(Tracker):
    def request(self, rank): ...


class Wide(Tracker):
    def request(self, rank, cost, *, urgently): ...


class Strategy:
    def allocate(self, ready, view): ...


class NarrowStrategy:
    def allocate(self, ready): ...


class OddPreparation(Strategy):
    def prepare(self): ...


class Store:
    def put(self, key, payload): ...
    def get(self, key): ...
    def delete(self, key): ...


class AsyncTracker(Tracker):
    async def request(self, rank, cost): ...


class YieldingTracker(Tracker):
    def release(self, rank, cost):
        yield


class AsyncStrategy:
    async def allocate(self, ready, view):
        yield


class NeedsArguments(Strategy):
    def __init__(self, size): ...


class NarrowScore(handoff.RatedStrategy):
    def score(self, cost): ...


async def make_some_time(rank): ...


def with_a_connection(method):
    """A decorator as users write them: what it wraps takes one argument more than it does itself."""

    @functools.wraps(method)
    def connected(self, *args):
        return method(self, "connection", *args)

    return connected


class Decorated(Tracker):
    @with_a_connection
    def request(self, connection, rank, cost): ...


class Static:
    @staticmethod
    def register(rank, capabilities): ...

    @classmethod
    def request(cls, rank, cost): ...

    release = print


class StaticStrategy:
    @staticmethod
    def allocate(ready, view): ...


class Hostile:
    def __getattr__(self, name):
        raise SystemExit(name)

    def __repr__(self):
        raise RuntimeError


STRATEGY = r"a name or an object with the method allocate\(ready, view\)"
RUBBISH = [
    ("allocation_strategy", 7, STRATEGY),
    ("allocation_strategy", None, STRATEGY),
    ("allocation_strategy", int, STRATEGY),
    ("allocation_strategy", Hostile(), STRATEGY),
    ("allocation_strategy", "best", "there is no allocation strategy 'best'; there are cost_optimized"),
    ("allocation_strategy", "", "there is no allocation strategy ''"),
    ("allocation_strategy", NarrowStrategy(), r"whose allocate cannot be called as allocate\(ready, view\)"),
    ("allocation_strategy", OddPreparation(), r"whose prepare cannot be called as prepare\(view\)"),
    ("resource_tracker", 7, r"resource_tracker is 7, which has no methods register\(rank, capabilities\), request"),
    ("resource_tracker", "x", "resource_tracker is 'x', which has no methods"),
    ("resource_tracker", Tracker, "resource_tracker is the class Tracker; give an object of it"),
    ("resource_tracker", Narrow(), r"whose request cannot be called as request\(rank, cost\)"),
    ("resource_tracker", Wide(), r"whose request cannot be called as request\(rank, cost\)"),
    ("resource_tracker", AsyncTracker(), "whose request is async, so that calling it would do nothing"),
    ("resource_tracker", YieldingTracker(), "whose release is a generator, so that calling it would do nothing"),
    ("allocation_strategy", AsyncStrategy(), "whose allocate is async"),
    ("allocation_strategy", AsyncStrategy, "the class AsyncStrategy, whose allocate is async"),
    ("allocation_strategy", NarrowStrategy, r"the class NarrowStrategy, whose allocate cannot be called as allocate\("),
    ("allocation_strategy", OddPreparation, r"whose prepare cannot be called as prepare\(view\)"),
    ("allocation_strategy", NeedsArguments, r"NeedsArguments, which needs arguments: give an object, NeedsArguments\("),
    ("allocation_strategy", NarrowScore(), r"whose score cannot be called as score\(cost, group\)"),
    ("allocation_strategy", "module:", "there is no allocation strategy 'module:'"),
    ("result_store", make_some_time, "which is async"),
    ("resource_tracker", Hostile(), "an object of Hostile, which has no methods"),
    ("result_store", 7, "must be a function of a rank that returns a store, not 7"),
    ("result_store", Store(), "it is a store itself: write lambda rank: store"),
    ("result_store", lambda: Store(), r"cannot be called as store\(rank\)"),
    ("result_store", lambda rank, more: Store(), r"cannot be called as store\(rank\)"),
    ("tracker_timeout", 0, "tracker_timeout must be a positive number of seconds, not 0"),
    ("tracker_timeout", True, "tracker_timeout must be"),
    ("tracker_timeout", "soon", "tracker_timeout must be"),
]


@pytest.mark.parametrize(("name", "value", "says"), RUBBISH, ids=[f"{row[0]}-{i}" for i, row in enumerate(RUBBISH)])
def test_rubbish_is_refused_at_once(name, value, says):
    with pytest.raises(handoff.UsageError, match=says):
        handoff.start(**{name: value})
    assert getattr(options_of({}), name) is not value


GOOD = [
    ("allocation_strategy", Strategy),
    ("allocation_strategy", Strategy()),
    ("allocation_strategy", StaticStrategy),
    ("allocation_strategy", "some.module:Strategy"),
    ("resource_tracker", Decorated()),
    ("resource_tracker", Static()),
    ("resource_tracker", Tracker()),
    ("result_store", lambda rank: Store()),
    ("result_store", dict),
    ("tracker_timeout", 1.5),
]


@pytest.mark.parametrize(("name", "value"), GOOD, ids=[f"{name}-{i}" for i, (name, _) in enumerate(GOOD)])
def test_what_can_be_used_is_taken(name, value):
    assert getattr(options_of({name: value}), name) == value


def a_dag():
    dag = handoff.DAG()
    for number in range(3):
        dag.add_function(handoff.Function(number, (), abs, [-number]))
    return dag


STRATEGIES_OF_A_USER = """
import handoff_mpi as handoff
NAME = "first_available"
made = []
class Good(handoff.RatedStrategy):
    def score(self, cost, group): return (group.load(), len(made))
    def __init__(self): made.append(self)
good = Good()
class Picky:
    def __init__(self, size): pass
    def allocate(self, ready, view): return ()
class Failing:
    def __init__(self): raise OSError("no such server")
    def allocate(self, ready, view): return ()
def function(): return good
"""
MODULE_AND_NAME = {
    "own_strategies:Missing": "cannot be loaded: AttributeError: module 'own_strategies' has no attribute 'Missing'",
    "not_there:Good": "cannot be loaded: ModuleNotFoundError: No module named 'not_there'",
    "own_strategies:Picky": "cannot be used: allocation_strategy is the class Picky, which needs arguments",
    "own_strategies:Failing": "cannot be used: allocation_strategy=Failing() failed: OSError: no such server",
    "own_strategies:NAME": "is the text 'first_available', not a class or an object with allocate",
    "own_strategies:function": "cannot be used: allocation_strategy must be a name or an object with the method",
}


@pytest.fixture
def own_strategies(tmp_path, monkeypatch):
    (tmp_path / "own_strategies.py").write_text(STRATEGIES_OF_A_USER)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_strategies", None)


@pytest.mark.usefixtures("own_strategies")
@pytest.mark.parametrize("name", ["own_strategies:Good", "own_strategies:good"])
def test_a_strategy_is_named_by_its_module(name, tmp_path):
    assert handoff.execute_local(a_dag(), allocation_strategy=name, run_dir=tmp_path / "run")[2] == 2


@pytest.mark.usefixtures("own_strategies")
@pytest.mark.parametrize("name", MODULE_AND_NAME)
def test_what_an_entry_point_or_module_names_must_be_a_strategy(name, tmp_path, monkeypatch):
    with pytest.raises(handoff.UsageError) as caught:
        handoff.execute_local(a_dag(), allocation_strategy=name, run_dir=tmp_path / "run")
    said = f"the allocation strategy {name!r} {MODULE_AND_NAME[name]}"
    assert str(caught.value).startswith(said)
    point = metadata.EntryPoint("theirs", name, "handoff_mpi.strategies")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    with pytest.raises(handoff.UsageError, match=r"the allocation strategy 'theirs' \(\w+:\w+\) "):
        handoff.execute_local(a_dag(), allocation_strategy="theirs", run_dir=tmp_path / "run")


def test_an_entry_point_that_is_not_written_as_one_is_named(tmp_path, monkeypatch):
    point = metadata.EntryPoint("theirs", "what is this", "handoff_mpi.strategies")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    with pytest.raises(handoff.UsageError, match=r"\(what is this\) cannot be loaded: an entry point is written"):
        handoff.execute_local(a_dag(), allocation_strategy="theirs", run_dir=tmp_path)


class Rated(handoff.RatedStrategy):
    ratings = [1]
    inherits = False

    def score(self, cost, group):
        rating = self.ratings.pop(0) if len(self.ratings) > 1 else self.ratings[0]
        return rating() if callable(rating) else rating


def leave():
    raise SystemExit(3)


RATINGS = {
    "none": ([None], "score returned None, which cannot be put in order"),
    "nan": ([float("nan")], "score returned nan, which cannot be put in order"),
    "complex": ([1j], "failed in score: TypeError"),
    "mixed": ([1, "x"], "failed in score: TypeError"),
    "an array": ([np.zeros(2)], "failed in score: ValueError"),
    "raises": ([lambda: 1 // 0], "failed in score: ZeroDivisionError"),
    "leaves": ([leave], "failed: SystemExit"),
}


@pytest.mark.parametrize("case", RATINGS)
def test_ratings_that_cannot_be_used_name_their_strategy(case, tmp_path):
    ratings, says = RATINGS[case]
    strategy = type("Mine", (Rated,), {"ratings": ratings})
    with pytest.raises(handoff.AllocationError, match=says) as caught:
        handoff.execute_local(a_dag(), allocation_strategy=strategy, run_dir=tmp_path)
    assert caught.value.exit_code == 2


def test_a_rated_strategy_that_rates_nothing_says_what_to_define(tmp_path):
    with pytest.raises(handoff.AllocationError, match=r"define score\(cost, group\)"):
        handoff.execute_local(a_dag(), allocation_strategy=handoff.RatedStrategy, run_dir=tmp_path)


def test_what_fails_in_prepare_names_its_strategy(tmp_path):
    class Unprepared(Rated):
        def prepare(self, view):
            raise KeyError("prices")

    with pytest.raises(handoff.AllocationError, match="the strategy Unprepared failed in prepare: KeyError: 'prices'"):
        handoff.execute_local(a_dag(), allocation_strategy=Unprepared, run_dir=tmp_path)


@pytest.fixture
def own_settings():
    with settings_restored():
        yield


@pytest.mark.usefixtures("own_settings")
def test_what_a_strategy_sees_of_ranks_is_written_as_users_write_it(tmp_path):
    handoff.register_local_node({"cpu": 4, "memory": 1000, "licence": 2.5, "gpu": 2})
    seen = []

    class Looking:
        def allocate(self, ready, view):
            for group in ready:
                for rank in view.ranks():
                    free = view.free(rank)
                    names = ("cpu", "memory", "licence", "gpu")
                    seen.append((group.cost.wanted(), [free[name] for name in names], view.load(rank)))
                    assert view.host(rank)
                    yield group[0], rank

    dag = handoff.DAG()
    dag.add_function(handoff.Function("a", (), abs, [1], cost={"cpu": 2, "licence": 0.5, "gpu": 1}))
    handoff.execute_local(dag, allocation_strategy=Looking(), run_dir=tmp_path)
    assert seen == [({"cpu": 2, "gpu": 1, "licence": 0.5}, [4, 1000, 2.5, 2], 0.0)]


CODECS = {
    "too few": (lambda value: value, r"serialize cannot be called as serialize\(value, source_rank, target_rank\)"),
    "keyword": (lambda value, source, *, target: value, "serialize cannot be called as"),
    "async": (make_some_time, "serialize cannot be called as"),
    "a class": (Tracker, "serialize cannot be called as.*it is a class: give an object of it"),
}


PLACES = {
    "args": lambda argument: handoff.Function("b", [argument], abs),
    "a constant": lambda argument: handoff.Function("b", (), abs, [argument]),
    "in a list": lambda argument: handoff.Function("b", (), abs, [[1, argument]]),
    "a keyword": lambda argument: handoff.Function("b", (), abs, kwargs={"x": argument}),
    "in an object": lambda argument: handoff.Function("b", (), abs, [collections.deque([argument])]),
}


@pytest.mark.parametrize("side", ["serialize", "deserialize"])
@pytest.mark.parametrize("case", CODECS)
@pytest.mark.parametrize("place", PLACES)
def test_a_codec_that_cannot_be_called_is_refused_with_its_function(place, side, case):
    codec, says = CODECS[case]
    dag = handoff.DAG()
    dag.add_function(handoff.Function("a", (), abs, [1]))
    dag.add_function(PLACES[place](handoff.Argument("a", **{side: codec})))
    says = says.replace("serialize", side).replace("value", "payload" if side == "deserialize" else "value")
    with pytest.raises(handoff.DAGError, match=rf"function 'b': an Argument's {says}"):
        dag.validate()


def broken(value, source, target):
    raise LookupError("no such column")


def unsendable(value, source, target):
    return sys._getframe()


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
@pytest.mark.parametrize(("side", "codec", "kind"), [
    ("serialize", broken, "LookupError"),
    ("serialize", unsendable, "EncodingError"),
    ("deserialize", broken, "LookupError"),
])  # fmt: skip
def test_a_codec_that_fails_fails_its_function_and_is_named(side, codec, kind, isolation, tmp_path):
    dag = handoff.DAG()
    dag.add_function(handoff.Function("a", (), abs, [1]))
    dag.add_function(handoff.Function("b", [handoff.Argument("a", **{side: codec})], abs, max_retries=0))
    results = handoff.execute_local(dag, check=False, isolation=isolation, run_dir=tmp_path)
    assert results.errors["b"].kind == kind
    assert f"(in {side} ({codec.__qualname__!r}) of an input, from rank 0 to rank 0)" in str(results.errors["b"])
    assert results["a"] == 1
