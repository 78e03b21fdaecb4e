"""Leases that take the values of others of their slot, computed by a rank itself and by a real child process."""

from __future__ import annotations

import pytest

from handoff_mpi.arrays.columns import TAKEN
from handoff_mpi.messages import ISOLATE, LEASE, OK
from tests.runtime import test_leases
from tests.runtime.test_leases import FUNCTIONS, NAMES, Rank
from tests.worker.leases import EACH, template, values_of

SOURCE = """
def pair(place, x): return [x, x]
def grow(place, x):
    x.append(0)
    return x
def count(place, x): return len(x)
"""


@pytest.fixture(params=["rank", "process"])
def rank(request, tmp_path, monkeypatch):
    functions = {**FUNCTIONS}
    exec(SOURCE, functions)
    monkeypatch.setattr(test_leases, "FUNCTIONS", functions)
    monkeypatch.setattr(test_leases, "NAMES", [*NAMES, "pair", "grow", "count"])
    rank = Rank(tmp_path, request.param)
    yield rank
    rank.close()


def follower(rank, number, leader, name, count, flags=LEASE):
    """An assignment of elements that take the values of lease ``leader``."""
    call = template(args=[rank.place, EACH], code=test_leases.NAMES.index(name))
    return (number, 1, "later", call, (), None, flags, (((0, count),), ((((TAKEN, count, leader, 0),),),), 0))


def test_a_chain_computes_what_its_leases_would_one_by_one(rank):
    chain = [follower(rank, 8, 7, "square", 100), follower(rank, 9, 8, "square", 100)]
    rank.dispatch(rank.lease(7, "square", 100), *chain)
    found = [rank.run(number) for number in (7, 8, 9)]
    assert [status for status, _ in found] == [OK] * 3
    assert [values_of(report) for _, report in found] == [{x: x**power for x in range(100)} for power in (2, 4, 8)]


def test_a_lease_that_must_run_in_a_child_gets_the_values_too(rank):
    rank.dispatch(rank.lease(7, "square", 5), follower(rank, 8, 7, "square", 5, flags=LEASE | ISOLATE))
    assert values_of(rank.run(8)[1]) == {x: x**4 for x in range(5)}


def test_what_a_function_changes_in_an_element_changes_no_value(rank):
    rank.dispatch(rank.lease(7, "pair", 5), follower(rank, 8, 7, "grow", 5), follower(rank, 9, 8, "count", 5))
    first, second, third = (values_of(rank.run(number)[1]) for number in (7, 8, 9))
    assert first == {x: [x, x] for x in range(5)} and second == {x: [x, x, 0] for x in range(5)}
    assert third == dict.fromkeys(range(5), 3)


def test_what_follows_goes_back_where_an_element_fails(rank):
    rank.dispatch(rank.lease(7, "fail_at_2", 4), follower(rank, 8, 7, "square", 4), follower(rank, 9, 8, "square", 4))
    rank.run(7)
    rank.run_until(lambda: any(each[0] == "returned" for each in rank.said))
    assert [each for each in rank.said if each[0] != "ended"] == [("returned", [(8, 1), (9, 1)])]


def test_parts_that_were_reported_while_the_first_lease_ran_are_handed_on_too(rank):
    rank.dispatch(rank.lease(7, "hold", 3), follower(rank, 8, 7, "square", 3))
    rank.end(0)
    rank.run_until(lambda: rank.begun() == [0, 1])
    rank.run_until(rank.parts)
    rank.end(1)
    rank.end(2)
    assert values_of(rank.run(8)[1]) == {0: 0, 1: 1, 2: 4}
