"""Rubbish in the place of a strategy, a tracker or a store is refused at once, saying what is expected."""

from __future__ import annotations

import pytest

import handoff_mpi as handoff
from handoff_mpi.runtime.options import options_of


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
    ("resource_tracker", Tracker()),
    ("result_store", lambda rank: Store()),
    ("result_store", dict),
    ("tracker_timeout", 1.5),
]


@pytest.mark.parametrize(("name", "value"), GOOD, ids=[f"{name}-{i}" for i, (name, _) in enumerate(GOOD)])
def test_what_can_be_used_is_taken(name, value):
    options_of({name: value})
