"""Objects that several globals of a module share are one object in each process that gets them."""

from __future__ import annotations

import itertools
import pickle
import sys
import types

import pytest

from handoff_mpi import shared_globals
from handoff_mpi.by_value import holds_names, one_state
from handoff_mpi.carried_modules import CarriedModule, Definition, carry
from handoff_mpi.serialization import encode_code, sendable_id
from handoff_mpi.shared_globals import SharedGlobals

NAMES = itertools.count()


class Box:
    def __init__(self, *held):
        self.held = list(held)


@pytest.fixture
def module():
    module = types.ModuleType(f"module_that_shares_{next(NAMES)}")
    module.__file__ = f"<{module.__name__}>"
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def contents(**things):
    return SharedGlobals(things)


def test_the_name_stands_for_an_object_that_another_global_holds():
    box, plain = Box(), 5
    shared = contents(box=box, boxes=[box], plain=plain, numbers=[plain], alias=box)
    assert shared.name_in("boxes", box) == "box"
    assert shared.name_in("box", box) is None, "it is its own definition"
    assert shared.name_in("alias", box) == "box"
    assert shared.name_in("a function", box) == "box"
    assert shared.name_in("numbers", plain) is None
    assert shared.is_needed("boxes") and shared.is_needed("alias")
    assert not (shared.is_needed("box") or shared.is_needed("numbers"))


def test_objects_that_hold_one_another_lead_to_no_circle():
    first, second, third = Box(), Box(), Box()
    for one, other in itertools.permutations((first, second, third), 2):
        one.held.append(other)
    shared = contents(first=first, second=second, third=third)
    names = {"first": first, "second": second, "third": third}
    edges = {(place, shared.name_in(place, thing)) for place in names for thing in names.values()}
    assert edges - {(name, None) for name in names} == {("second", "first"), ("third", "first"), ("third", "second")}


def test_what_a_prompt_remembers_is_not_the_name_of_an_object():
    box = Box()
    assert contents(_=box, _12=box, Out={12: box}, box=box).name_of(box) == "box"


def test_very_large_objects_are_part_of_each(monkeypatch):
    monkeypatch.setattr(shared_globals, "MAX_OBJECTS", 10)
    box = Box(*([n] for n in range(20)))
    shared = contents(box=box, boxes=[box])
    assert shared.name_in("boxes", box) is None


def copy_of(module):
    """Return the module as another process has it: empty, until definitions come."""
    return CarriedModule(carry(module).about, None)


def sent(module, *names):
    """Return definitions of globals, and of all that they need, as another process gets them."""
    from handoff_mpi.by_value import _Definitions

    carried = carry(module)
    return [Definition(*each) for each in _Definitions().closure(carried, vars(module), names, set())]


def test_they_are_one_object_wherever_definitions_come(module):
    box = module.box = Box()
    module.boxes, module.by_name, module.alias = [box], {"box": box}, box
    other = copy_of(module)
    other.take(sent(module, "boxes"))
    other.take(sent(module, "by_name", "alias"))
    made = vars(other.copy)
    assert type(made["box"]) is Box
    assert made["boxes"][0] is made["box"] is made["by_name"]["box"] is made["alias"]


def test_objects_that_hold_one_another_are_made(module):
    first, second = Box(), Box()
    first.held, second.held = [second], [first]
    module.first, module.second = first, second
    other = copy_of(module)
    other.take(sent(module, "second", "first"))
    made = vars(other.copy)
    assert made["second"].held[0] is made["first"]
    assert made["first"].held[0].held[0] is made["first"]


def test_what_holds_a_changed_object_is_sent_again(module):
    module.box = Box(1)
    module.boxes = [module.box]
    other = copy_of(module)
    other.take(sent(module, "boxes"))
    before = vars(other.copy)["boxes"]
    other.take(sent(module, "boxes"))
    assert vars(other.copy)["boxes"] is before, "nothing has changed"
    module.box.held.append(2)
    other.take(sent(module, "boxes"))
    made = vars(other.copy)
    assert made["boxes"][0] is made["box"] and made["box"].held == [1, 2]


def test_a_definition_does_not_depend_on_what_was_pickled_before_it(module):
    first, second, third = Box(), Box(), Box()
    first.held, second.held, third.held = [second, third], [first], [first]
    module.first, module.second, module.third = first, second, third
    names = ("first", "second", "third")
    orders = [{each.name: each.blob for each in sent(module, *order)} for order in itertools.permutations(names)]
    assert all(order == orders[0] for order in orders)


def test_a_bare_object_is_told_from_its_name():
    assert holds_names(pickle.dumps(object(), protocol=5))
    assert holds_names(pickle.dumps([1.5, {"a": object()}], protocol=5))
    assert not holds_names(pickle.dumps(["object", ("object", 3)], protocol=5))
    assert sendable_id("object") == "object" and sendable_id(("object", 3)) == ("object", 3)


def test_code_that_refers_to_them_is_pickled_the_same_way_each_time(module):
    exec("UNSET = object()\ndef f(x=UNSET): return x is UNSET", vars(module))
    carry(module)
    with one_state():
        blobs = {bytes(encode_code(module.f)) for _ in range(3)}
    assert len(blobs) == 1
