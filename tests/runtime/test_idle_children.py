"""Children that are put aside until a call needs their devices again."""

from __future__ import annotations

from handoff_mpi.runtime.idle_children import IdleChildren


class Child:
    def __init__(self, devices="", is_spent=False, is_dead=False):
        self.devices, self.is_spent, self.is_captured = devices, is_spent, True
        self.has_ended = lambda: is_dead


def test_the_latest_child_of_the_same_devices_comes_back_and_is_captured_again():
    idle = IdleChildren()
    first, second, plain = Child("a"), Child("a"), Child()
    assert [idle.put(each, 8) for each in (first, second, plain)] == [[], [], []]
    assert idle.take("b") is None and idle.take("a,b") is None
    assert idle.take("a") is second and not second.is_captured
    assert idle.all() == [first, plain]
    assert idle.take_all() == [first, plain] and idle.take("a") is None


def test_only_so_many_are_kept_and_none_that_is_spent_or_dead():
    idle = IdleChildren()
    children = [Child(str(number)) for number in range(4)]
    assert [idle.put(each, 2) for each in children] == [[], [], [children[0]], [children[1]]]
    for useless in (Child("x", is_spent=True), Child("x", is_dead=True)):
        assert idle.put(useless, 2) == [useless]
    children[3].has_ended = lambda: True
    assert idle.take("3") is None and idle.take("2") is children[2]
    idle.put(children[2], 2)
    assert idle.all() == [children[3], children[2]]
