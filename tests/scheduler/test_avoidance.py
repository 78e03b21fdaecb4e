"""A failed function runs next on another host where there is one, else on another rank, else where it was."""

from __future__ import annotations

import pytest

from handoff_mpi.allocation import CostOptimized, FirstAvailable, Ledger, LoadBalanced
from handoff_mpi.resources import Capability
from handoff_mpi.scheduler import RankLost, avoidance
from tests.scheduler.transcript import Dialogue, cpus, died, done, raised, task, timed_out


def hosts(names, slots=1):
    """The ledger of ranks 1, 2, ... on the hosts that the letters name."""
    ranks = range(1, len(names) + 1)
    return Ledger(
        [Capability(rank, names[rank - 1], cpus(names.count(names[rank - 1]) * slots)) for rank in ranks],
        dict.fromkeys(ranks, slots),
    )


@pytest.mark.parametrize("failed", [raised, timed_out, died])
def test_a_failed_function_runs_on_another_host_first(failed):
    run = Dialogue(hosts("aab"))
    run.submit(task())
    assert run.tell(1.0, failed(1, 0)) == ["3.0 claims for 0#2"]


@pytest.mark.parametrize("strategy", [FirstAvailable, LoadBalanced, CostOptimized])
def test_a_failed_function_waits_for_another_host_although_ranks_of_its_own_are_idle(strategy):
    run = Dialogue(hosts("aab"), strategy())
    run.submit(task(), task(pin=2), task(pin=3))
    assert run.tell(1.0, raised(1, 0), done(2, 1)) == []
    assert run.tell(2.0, done(3, 2)) == ["3.0 claims for 0#2"]


def test_a_function_that_failed_on_several_hosts_avoids_them_all():
    run = Dialogue(hosts("aabbc"))
    run.submit(task())
    assert run.tell(1.0, raised(1, 0)) == ["3.0 claims for 0#2"]
    assert run.tell(2.0, raised(3, (0, 2))) == ["5.0 claims for 0#3"]


def test_a_function_that_failed_on_all_hosts_avoids_the_last_one():
    run = Dialogue(hosts("aabb"))
    run.submit(task())
    run.tell(1.0, raised(1, 0))
    assert run.tell(2.0, raised(3, (0, 2))) == ["1.0 claims for 0#3"]


def test_on_one_host_a_failed_function_runs_on_another_rank():
    run = Dialogue(hosts("aa"))
    run.submit(task())
    assert run.tell(1.0, raised(1, 0)) == ["2.0 claims for 0#2"]


def test_a_function_pinned_to_a_host_runs_on_another_rank_of_it():
    run = Dialogue(hosts("aab"))
    run.submit(task(pin="a"))
    assert run.tell(1.0, raised(1, 0)) == ["2.0 claims for 0#2"]


def test_a_failed_function_stays_on_its_host_once_no_other_is_left():
    run = Dialogue(hosts("aab"))
    run.submit(task(), task(pin=3))
    assert run.tell(1.0, raised(1, 0)) == []
    assert "2.0 claims for 0#2" in run.tell(2.0, RankLost(3, "it died"))


def test_the_sets_of_hosts_to_avoid_are_bounded(monkeypatch):
    monkeypatch.setattr(avoidance, "MAX_HOST_SETS", 1)
    avoid = avoidance.Avoidance(hosts("abc").rank_states)
    for rank in (1, 2):
        avoid.note(0, rank)
    for rank in (1, 3):
        avoid.note(1, rank)
    assert list(avoid.wishes(0)) == [(None, {"a", "b"}), (None, {"b"}), (2, frozenset()), (None, frozenset())]
    assert list(avoid.wishes(1)) == [(None, {"c"}), (3, frozenset()), (None, frozenset())]
