"""Rebuilds objects in other processes that pickle knows only by name, or not at all.

A process that cannot import the module of such an object makes it from its parts. Each process then has its own object:
a cache, a lock, a context variable.
"""

from __future__ import annotations

import _thread
import abc
import contextvars
import enum
import functools
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any, TypeAlias

from cloudpickle import cloudpickle as internals

#: The result of a reduce function: a callable, its arguments, and optionally a state.
Reduced: TypeAlias = "tuple[Any, ...]"

#: Attributes that Python gives each member of an enum.
_OF_ANY_MEMBER = ("_value_", "_name_", "__objclass__", "_sort_order_")
_NO_FILE = "<dynamic-code>"
_SINGLEDISPATCH = functools.singledispatch(print).__code__  # type: ignore[attr-defined]


def reduce_code(thing: CodeType) -> Reduced:
    """Reduce code as cloudpickle does, but keep its file name."""
    make, args = internals._code_reduce(thing)
    return make, tuple(thing.co_filename if each is _NO_FILE or each == _NO_FILE else each for each in args)


def make_bare_class(
    metaclass: type, name: str, bases: tuple[object, ...], contents: Mapping[str, object], *unused: object
) -> type:
    """Return a class without calling the hooks of its bases and metaclass that a class statement calls."""
    resolved = types.resolve_bases(bases)
    namespace = {**contents, **({} if resolved is bases else {"__orig_bases__": bases})}
    make = abc.ABCMeta.__new__ if issubclass(metaclass, abc.ABCMeta) else type.__new__
    with _without_init_subclass(resolved):
        return make(metaclass, name, tuple(resolved), namespace)


@contextmanager
def _without_init_subclass(bases: Iterable[type]) -> Iterator[None]:
    """Disable ``__init_subclass__`` of the bases, which ``type.__new__`` would call."""
    owners = [next(each for each in base.__mro__ if "__init_subclass__" in vars(each)) for base in bases]
    before = {owner: vars(owner)["__init_subclass__"] for owner in owners if owner is not object}
    try:
        for owner in before:
            type.__setattr__(owner, "__init_subclass__", classmethod(lambda cls, **options: None))
        yield
    finally:
        for owner, method in before.items():
            type.__setattr__(owner, "__init_subclass__", method)


def as_member(value: object) -> object:
    """Return the value of a member of an enum for a class body, where functions and classes are not members."""
    if callable(value) or hasattr(type(value), "__get__"):
        return getattr(enum, "member", lambda each: each)(value)  # Python 3.10 has no such members
    return value


def members_of(kind: type[enum.Enum]) -> dict[str, dict[str, object]]:
    """Return the attributes of the members of an enum, which its own ``__init__`` or ``__new__`` may have set."""
    return {
        name: {key: each for key, each in vars(member).items() if key not in _OF_ANY_MEMBER}
        for name, member in kind.__members__.items()
    }


def set_enum(kind: type[enum.Enum], state: tuple[dict[str, object], dict[str, dict[str, object]]]) -> None:
    """Complete an enum that was made of the names and values of its members."""
    attributes, members = state
    internals._class_setstate(kind, (attributes, {}))
    for name, member in members.items():
        vars(kind[name]).update(member)


def is_singledispatch(function: FunctionType) -> bool:
    """Whether ``functools.singledispatch`` has made this function."""
    return function.__code__ is _SINGLEDISPATCH


def reduce_singledispatch(function: Any) -> Reduced:
    """Return a generic function as its implementations; its cache is made of weak references."""
    implementations = dict(function.registry)
    default = implementations.pop(object)
    return (
        _make_singledispatch,
        (default, function.__module__, function.__qualname__),
        implementations,
        None,
        None,
        _set,
    )


def _make_singledispatch(default: Callable[..., object], module: str, qualname: str) -> object:
    made: Any = functools.singledispatch(default)
    made.__module__, made.__qualname__ = module, qualname
    return made


def _set(function: Any, implementations: Mapping[type, Callable[..., object]]) -> None:
    for kind, implementation in implementations.items():
        function.register(kind, implementation)


def _lru_cache(wrapper: Any) -> Reduced:
    attributes = {name: value for name, value in vars(wrapper).items() if name != "__wrapped__"}
    return _make_lru_cache, (wrapper.__wrapped__, wrapper.cache_parameters()), attributes, None, None, _update


def _make_lru_cache(function: Callable[..., object], parameters: Mapping[str, Any]) -> object:
    return functools.lru_cache(**parameters)(function)


def _update(thing: object, attributes: Mapping[str, object]) -> None:
    vars(thing).update(attributes)


def _new_type(thing: Any) -> Reduced:
    return _make_new_type, (thing.__name__, thing.__qualname__, thing.__module__, thing.__supertype__)


def _make_new_type(name: str, qualname: str, module: str, supertype: object) -> object:
    make: Any = typing.NewType
    made = make(name, supertype)
    made.__qualname__, made.__module__ = qualname, module
    return made


def _type_var(thing: object) -> Reduced:
    name, bound, constraints, covariant, contravariant, _ = internals._decompose_typevar(thing)
    variance = {"covariant": covariant, "contravariant": contravariant}
    return _make_type_parameter, (typing.TypeVar, thing.__module__, (name, *constraints), {"bound": bound, **variance})


def _type_parameter(thing: Any) -> Reduced:
    return _make_type_parameter, (type(thing), thing.__module__, (thing.__name__,), {})


def _make_type_parameter(kind: Any, module: str, args: tuple[object, ...], options: Mapping[str, object]) -> object:
    made = kind(*args, **options)
    try:
        made.__module__ = module
    except AttributeError:
        pass
    return made


def _type_alias(thing: Any) -> Reduced:
    return type(thing), (thing.__name__, thing.__value__)


def _cached_property(thing: Any) -> Reduced:
    return _make_cached_property, (type(thing), thing.func, thing.attrname)


def _make_cached_property(kind: type, function: Callable[..., object], name: str | None) -> object:
    made: Any = kind(function)
    if name is not None:
        made.__set_name__(None, name)
    return made


def default_of(variable: contextvars.ContextVar[object]) -> tuple[object, ...]:
    """Return the default of a context variable; an empty tuple if it has none."""
    try:
        return (contextvars.Context().run(variable.get),)
    except LookupError:
        return ()


def _context_variable(thing: contextvars.ContextVar[object]) -> Reduced:
    return _make_context_variable, (thing.name, *default_of(thing))


def _make_context_variable(name: str, *default: object) -> object:
    return contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)


def _weak_dictionary(thing: Any) -> Reduced:
    return type(thing), (dict(thing),)


#: Objects that pickle knows by their names: these are looked for in their modules first. Others may add their types.
BY_NAME: dict[type, Callable[[Any], Reduced]] = {
    functools._lru_cache_wrapper: _lru_cache,
    typing.NewType: _new_type,
    typing.TypeVar: _type_var,
}
for _name in ("ParamSpec", "TypeVarTuple"):
    if hasattr(typing, _name):
        BY_NAME[getattr(typing, _name)] = _type_parameter
if sys.version_info >= (3, 12):
    BY_NAME[typing.TypeAliasType] = _type_alias

#: Objects that pickle does not know, wherever they are.
BY_PARTS: dict[type, Callable[[object], Reduced]] = {
    functools.cached_property: _cached_property,
}
if sys.version_info >= (3, 12):
    del BY_PARTS[functools.cached_property]  # pickle knows it

#: Objects that functions and classes of a module use, one in each process; a value must not contain them.
OF_A_PROCESS: dict[type, Callable[[Any], Reduced]] = {
    _thread.LockType: lambda thing: (threading.Lock, ()),
    _thread.RLock: lambda thing: (threading.RLock, ()),
    threading.local: lambda thing: (threading.local, ()),
    weakref.WeakKeyDictionary: _weak_dictionary,
    weakref.WeakValueDictionary: _weak_dictionary,
    contextvars.ContextVar: _context_variable,
}


def qualname_of(thing: object) -> str | None:
    """Return the name by which pickle looks for an object of those types."""
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    return name if type(name) is str else None
