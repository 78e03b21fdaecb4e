"""Collocated groups: one member leads until it is placed, the others wait for its rank."""

from __future__ import annotations

import pytest

from handoff_mpi.dag import TaskSpec
from handoff_mpi.scheduler.groups import CollocatedGroups
from tests.scheduler.test_avoidance import hosts
from tests.scheduler.transcript import CPU, cpus

GROUP = 7


def groups(*pins, costs=None):
    """A group whose members, 0, 1, ..., have these pins, on ranks 1 and 2 of host a and 3 of host b."""
    costs = costs or [CPU] * len(pins)
    specs = [TaskSpec((), cost, pin=pin, group=GROUP) for pin, cost in zip(pins, costs, strict=True)]
    found = CollocatedGroups(hosts("aab").rank_states, specs)
    for number in range(len(pins)):
        found.widen(number)
    return found


def test_the_first_member_leads_and_the_others_wait_for_its_rank():
    found = groups(None, None, None)
    assert [found.must_wait(number, GROUP) for number in (1, 0, 2)] == [False, True, True]
    assert [found.leader_before(number) for number in (0, 1, 2)] == [1, None, 1]
    assert found.bind(1, 2) == [0, 2]
    assert (found.bound, found.leaders, found.parked) == ({GROUP: 2}, {}, {})
    assert found.bind(0, 2) is None, "it is bound already"


def test_a_member_that_no_longer_leads_lets_the_others_lead():
    found = groups(None, None)
    found.must_wait(0, GROUP)
    found.must_wait(1, GROUP)
    assert found.release_from(1) == []
    assert found.release_from(0) == [1]
    assert not found.must_wait(1, GROUP)


def test_the_need_is_that_of_each_member_one_by_one_and_a_new_mapping_when_it_grows():
    found = groups(None, None, costs=[cpus(2), {**cpus(1), "memory": 5}])
    before = found.need[GROUP]
    assert before == {**cpus(2), "memory": 5}
    found.must_wait(0, GROUP)
    assert found.take_outgrown() == [], "nobody led when it grew"
    found.widen(1)
    assert found.need[GROUP] == before
    assert found.need[GROUP] is not before
    assert (found.take_outgrown(), found.take_outgrown()) == ([GROUP], [])


@pytest.mark.parametrize(("pin", "after_leave"), [(None, {}), (1, {GROUP: 1})])
def test_a_group_leaves_a_rank_unless_it_is_pinned_there(pin, after_leave):
    found = groups(pin, None)
    found.bind(0, 1)
    found.leave(2)
    assert found.bound == {GROUP: 1}
    found.leave(1)
    assert found.bound == after_leave
    found.unbind(1)
    assert found.bound == {}, "a rank that is lost binds nobody"


def test_a_pin_on_a_host_unbinds_a_group_that_is_bound_elsewhere():
    found = groups(None, "b")
    assert (found.bound, found.hosts) == ({}, {GROUP: "b"})
    found.bind(0, 3)
    found.widen(1)
    assert found.bound == {GROUP: 3}, "rank 3 is on host b"
    found.bound[GROUP] = 1
    found.widen(1)
    assert found.bound == {}


def test_a_member_that_failed_leads_again_unless_the_group_is_pinned():
    found = groups(None, None)
    assert found.rebind(0) is None, "it is not bound"
    found.bind(0, 2)
    assert found.rebind(1) == 2
    assert (found.bound, found.leaders) == ({}, {GROUP: 1})
    assert groups(1, None).rebind(1) is None
