"""A host that goes silent as a whole is asked about; see HostFailureDetector."""

from __future__ import annotations

import itertools

from handoff_mpi.scheduler import HostFailureDetector

HOSTS = {"a": [0, 1], "b": [2, 3], "c": [4]}


def test_a_host_is_asked_about_once_all_its_ranks_are_silent():
    watch = HostFailureDetector(HOSTS, 3.0)
    heard = {1: 0.0, 2: 0.0, 3: 2.0, 4: 5.0}
    assert watch.look(heard, (), 4.9) == []
    assert watch.look(heard, (), 5.1) == [("b", "c")]
    assert watch.is_silent("b", heard, (), 5.1)
    assert list(watch.ranks("b", {3})) == [2]


def test_rank_0s_own_host_is_never_asked_about():
    assert HostFailureDetector({"a": [0, 1]}, 3.0).look({1: 0.0}, (), 100.0) == []


def test_the_control_is_rank_0s_host_where_all_others_are_silent():
    heard = {2: 0.0, 3: 0.0, 4: 0.0}
    assert HostFailureDetector(HOSTS, 3.0).look(heard, (), 9.0) == [("b", "a"), ("c", "a")]


def test_a_busy_host_that_answers_is_asked_ever_less_often():
    watch = HostFailureDetector(HOSTS, 3.0)
    heard = {2: 0.0, 3: 0.0}
    asked = [now for now in range(400) if watch.look({**heard, 4: now}, (), now)]
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert (asked[0], gaps[0]) == (4, 3)
    assert gaps == sorted(gaps)
    assert max(gaps) == 60
    heard = {2: 400.0, 3: 400.0}
    assert watch.look({**heard, 4: 404}, (), 404.0) == [("b", "c")], "heard of again, its silence starts again"


def test_ranks_that_are_gone_do_not_count():
    watch = HostFailureDetector(HOSTS, 3.0)
    assert watch.look({2: 0.0, 3: 0.0, 4: 9.0}, {2, 3}, 9.0) == []


def test_a_rank_never_heard_of_is_not_silent_yet():
    assert HostFailureDetector(HOSTS, 3.0).look({}, (), 1000.0) == []


def test_of_many_silent_hosts_some_are_asked_at_a_time():
    watch = HostFailureDetector({"a": [0], **{f"n{number}": [number] for number in range(1, 6)}}, 3.0)
    heard = dict.fromkeys(range(1, 6), 0.0)
    assert [host for host, _ in watch.look(heard, (), 4.0, 2)] == ["n1", "n2"]
    assert [host for host, _ in watch.look(heard, (), 5.0, 2)] == ["n3", "n4"]
    assert watch.look(heard, (), 5.0, 0) == []
