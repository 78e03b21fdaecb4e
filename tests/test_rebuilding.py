"""Objects that pickle knows only by name, or not at all, made again from their parts."""

from __future__ import annotations

import contextvars
import enum
import functools
import sys
import threading
import typing
import weakref

import pytest

from handoff_mpi import rebuilding
from handoff_mpi.rebuilding import BY_NAME, BY_PARTS, OF_A_PROCESS, default_of


def rebuilt(thing, reduced):
    """Make an object as pickle does with what a reduce function returns."""
    make, args, *rest = reduced
    made = make(*args)
    if len(rest) > 3 and rest[3] is not None:
        rest[3](made, rest[0])
    elif rest and rest[0] is not None:
        vars(made).update(rest[0])
    assert type(made) is type(thing) and made is not thing
    return made


def test_a_cached_function_keeps_its_parameters_and_attributes_and_not_its_cache():
    @functools.lru_cache(maxsize=3, typed=True)
    def square(x):
        return x * x

    square.note, _ = "mine", square(2)
    made = rebuilt(square, BY_NAME[type(square)](square))
    assert (made(4), made.note, made.cache_parameters()) == (16, "mine", {"maxsize": 3, "typed": True})
    assert made.cache_info().currsize == 1


def test_type_parameters_and_new_types():
    number = typing.TypeVar("number", bound=int, covariant=True)
    made = rebuilt(number, BY_NAME[typing.TypeVar](number))
    assert (made.__name__, made.__bound__, made.__covariant__, made.__module__) == ("number", int, True, __name__)
    seconds = typing.NewType("seconds", float)
    made = rebuilt(seconds, BY_NAME[type(seconds)](seconds))
    assert (made.__name__, made.__supertype__, made.__module__, made(2.0)) == ("seconds", float, __name__, 2.0)
    words = typing.ParamSpec("words")
    assert rebuilt(words, BY_NAME[typing.ParamSpec](words)).__name__ == "words"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pickle knows them from Python 3.12 on")
def test_a_cached_property_computes_once():
    class Model:
        def size(self):
            return object()

    bound = functools.cached_property(Model.size)
    bound.__set_name__(Model, "size")
    Model.size = rebuilt(bound, BY_PARTS[functools.cached_property](bound))
    model = Model()
    assert model.size is model.size


def test_each_process_has_its_own_locks_and_context_variables():
    for lock in (threading.Lock(), threading.RLock()):
        lock.acquire()
        made = rebuilt(lock, OF_A_PROCESS[type(lock)](lock))
        assert made.acquire(blocking=False), "it is free"
    variable = contextvars.ContextVar("limit", default=3)
    variable.set(5)
    made = rebuilt(variable, OF_A_PROCESS[type(variable)](variable))
    assert (made.name, made.get()) == ("limit", 3)
    without = contextvars.ContextVar("without")
    assert default_of(without) == () and rebuilt(without, OF_A_PROCESS[type(without)](without)).get(7) == 7
    local = threading.local()
    local.x = 1
    assert not hasattr(rebuilt(local, OF_A_PROCESS[threading.local](local)), "x")


def test_a_weak_dictionary_keeps_what_lives():
    class Key:
        pass

    key = Key()
    table = weakref.WeakKeyDictionary({key: 1, Key(): 2})
    assert dict(rebuilt(table, OF_A_PROCESS[weakref.WeakKeyDictionary](table))) == {key: 1}


def test_a_generic_function_has_its_implementations():
    @functools.singledispatch
    def size(thing):
        return 0

    size.register(str, len)
    assert rebuilding.is_singledispatch(size) and not rebuilding.is_singledispatch(rebuilt)
    made = rebuilt(size, rebuilding.reduce_singledispatch(size))
    assert (made("four"), made(4), made.__qualname__) == (4, 0, size.__qualname__)


def test_code_keeps_the_name_of_its_file():
    make, args = rebuilding.reduce_code(rebuilt.__code__)
    assert make(*args).co_filename == __file__


def test_a_bare_class_is_made_without_the_hooks_of_its_bases():
    class Base:
        made = []

        def __init_subclass__(cls):
            cls.made.append(cls)

    bare = rebuilding.make_bare_class(type, "Bare", (Base,), {"x": 1})
    assert (bare.__mro__[1], bare.x, Base.made) == (Base, 1, [])

    class Usual(Base):
        pass

    assert Base.made == [Usual], "the hook is there again"


def test_members_of_an_enum_keep_what_its_init_has_set():
    class Planet(enum.Enum):
        EARTH = (1, "blue")

        def __init__(self, number, colour):
            self.colour = colour

    assert rebuilding.members_of(Planet) == {"EARTH": {"colour": "blue"}}
    assert rebuilding.as_member(5) == 5
    assert Planet(rebuilding.as_member((1, "blue"))) is Planet.EARTH
    rebuilding.set_enum(Planet, ({"note": "mine"}, {"EARTH": {"colour": "green"}}))
    assert (Planet.note, Planet.EARTH.colour) == ("mine", "green")
