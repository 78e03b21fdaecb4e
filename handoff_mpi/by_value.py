"""Pickles functions and classes of carried modules by value, as their definitions; see :mod:`carried_modules`.

A function or class that its module holds under its own name is pickled as this name, together with its definition; the
receiver gets the one object with that name in its copy of the module. Definitions are pickled one by one, each with
the names of the globals that it needs, and the first reference in a pickle carries them. Functions and classes without
such a name (lambdas, those that functions create) are pickled in place, as by cloudpickle.
"""

from __future__ import annotations

import copyreg
import enum
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, TypeAlias

import cloudpickle
import xxhash
from cloudpickle import cloudpickle as internals

from handoff_mpi.annotation_names import names_in_annotations
from handoff_mpi.carried_modules import (
    CARRIED_NAMES,
    CarriedModule,
    Definition,
    carried_as,
    look_up,
    make_class,
    make_function,
    make_local_class,
    module_named,
    resolve,
)
from handoff_mpi.rebuilding import (
    BY_NAME,
    BY_PARTS,
    OF_A_PROCESS,
    as_member,
    is_singledispatch,
    members_of,
    qualname_of,
    reduce_code,
    reduce_singledispatch,
    set_enum,
)
from handoff_mpi.shared_globals import SharedGlobals

#: By type, the reduce function of an object: see ``object.__reduce__``.
Reducers: TypeAlias = "Mapping[type, Callable[[Any], tuple[Any, ...]]]"

_NO_REDUCERS: Reducers = {}
#: Attributes that count when a class is made.
_AT_CREATION = ("__slots__", "__orig_bases__", "__class__")
#: Every module has these of its own.
_OF_ANY_MODULE = frozenset({"__spec__", "__loader__", "__package__", "__builtins__", "__cached__"})
_NOT_PLAIN = (FunctionType, type, ModuleType)
_OF_DEFINITIONS: Reducers = {**OF_A_PROCESS, **BY_PARTS}


class _Definitions:
    """The definitions of one state of the modules, each made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, str], Definition | None] = {}
        self._shared: dict[int, SharedGlobals] = {}

    def closure(
        self, module: CarriedModule, contents: dict[str, object], names: Iterable[str], seen: set[tuple[int, str]]
    ) -> tuple[tuple[object, ...], ...]:
        """Return the definitions of ``names`` and of all that these need, except those in ``seen``; add them to it.

        Definitions in progress are left out: an outer call is making them, and sends them.
        """
        found: list[tuple[object, ...]] = []
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if (id(contents), name) in seen or name not in contents:
                continue
            seen.add((id(contents), name))
            definition = self.definition(module, contents, name)
            if definition is not None:
                found.append(tuple(definition))
                waiting += definition.needs
        return tuple(found)

    def shared(self, contents: dict[str, object]) -> SharedGlobals:
        """Return which globals of a module may hold one another."""
        found = self._shared.get(id(contents))
        if found is None:
            found = self._shared[id(contents)] = SharedGlobals(contents)
        return found

    def definition(self, module: CarriedModule, contents: dict[str, object], name: str) -> Definition | None:
        """Return the definition of the global ``name``; None while it is being made."""
        key = (id(module), id(contents), name)
        if key not in self._made:
            self._made[key] = None
            try:
                self._made[key] = module.define(contents, name, _Definer(self, module, contents, name).dump)
            except BaseException:
                del self._made[key]
                raise
        return self._made[key]


class _Definer:
    """Pickles the object that a global stands for."""

    def __init__(
        self, definitions: _Definitions, module: CarriedModule, contents: dict[str, object], name: str
    ) -> None:
        self._definitions = definitions
        self._place = module, contents, name

    def dump(self, thing: object) -> tuple[bytes, tuple[str, ...]]:
        """Return the pickle, and the names of the globals that it needs."""
        if type(thing) is ModuleType and thing.__name__ in sys.modules and not carried_as(thing.__name__):
            return pickle.dumps(_Import(thing.__name__), protocol=5), ()
        _, contents, name = self._place
        if not isinstance(thing, _NOT_PLAIN) and not self._definitions.shared(contents).is_needed(name):
            try:
                blob = pickle.dumps(thing, protocol=5)
                if not holds_names(blob):
                    return blob, ()
            except Exception:
                pass  # the other pickler accepts more objects, and gives better errors
        with io.BytesIO() as file:
            pickler = _DefinitionPickler(file, definitions=self._definitions, place=self._place)
            pickler.dump(thing)
            return file.getvalue(), tuple(pickler.needs)


class _Import:
    """Unpickled, it is the module of that name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[object, ...]:
        return internals.subimport, (self._name,)


class _State(threading.local):
    definitions: _Definitions | None = None


_state = _State()


@contextmanager
def one_state() -> Iterator[None]:
    """The globals of carried modules do not change inside of this: each is pickled once, however many refer to it."""
    if _state.definitions is not None:
        yield
        return
    _state.definitions = _Definitions()
    try:
        yield
    finally:
        _state.definitions = None


def holds_names(blob: bytes) -> bool:
    """Whether a pickle may refer to a module that travels by value by its name, or hold a sentinel of such a module."""
    if pickle.STACK_GLOBAL not in blob:  # behind each name: most values consist of built-in ones, which have none
        return False
    if len(_marks) != len(CARRIED_NAMES) + len(_MAIN) + 1:
        _marks[:] = [_SENTINEL, *map(_mark, (*_MAIN, *CARRIED_NAMES))]
    for mark in _marks:  # noqa: SIM110 - a generator takes as long as all the rest
        if mark in blob:
            return True
    return False


def is_in_place(reduced: Any) -> bool:
    """Whether a pickle holds the whole of a function or class, and not its name."""
    return reduced is not NotImplemented and reduced[0] is not resolve


def _mark(name: str) -> bytes:
    """Return the name of a module as a pickle has it, a string of its own."""
    text = name.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(text)]) + text if len(text) < 256 else text


_MAIN = ("__main__", "__mp_main__")
#: The class of a bare ``object()``, a sentinel of a carried module perhaps: its name, looked up at once.
_SENTINEL = b"\x8c\x06object" + pickle.MEMOIZE + pickle.STACK_GLOBAL
#: The names of modules as pickles have them.
_marks: list[bytes] = []


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles like cloudpickle, except that contents of carried modules are pickled as definitions.

    Args:
        file: receives the pickle.
        buffer_callback: see :class:`pickle.Pickler`.
        reducers: reduce functions for objects of some types; they do not apply inside code.
        takes_process_objects: whether locks and similar objects are replaced by new ones: see ``OF_A_PROCESS``.
        definitions: those of the state that is pickled.
        place: the global that is being defined: its module, the globals that hold it, and its name.

    Attributes:
        needs: the names of the globals that the pickle needs; only for a definition.
    """

    def __init__(
        self,
        file: io.BytesIO,
        buffer_callback: Any = None,
        reducers: Reducers = _NO_REDUCERS,
        takes_process_objects: bool = False,
        definitions: _Definitions | None = None,
        place: tuple[CarriedModule, dict[str, object], str] | None = None,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        usual = _OF_DEFINITIONS if place is not None or takes_process_objects else BY_PARTS
        self._reducers = {**usual, **reducers} if reducers else usual
        self._definitions = definitions or _state.definitions or _Definitions()
        self._place = place
        self._sent: set[tuple[int, str]] = set()
        self.needs: dict[str, None] = {}

    def reducer_override(self, obj: Any) -> object:
        """Reduce an object for which pickle has no built-in form; pickle calls this."""
        kind = type(obj)
        reduce = self._reducers.get(kind)
        if reduce is not None:
            return reduce(obj)
        if kind is CodeType:
            return reduce_code(obj)
        if kind is FunctionType:
            return self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind in BY_NAME:
            return self._reduce_named(obj, BY_NAME[kind])
        if kind is object:
            return self._reduce_sentinel(obj)
        return self._reduce_object(obj, kind)

    def _reduce_object(self, obj: object, kind: type) -> object:
        """Reduce an object; one whose class returns a name for pickle, as a sentinel's does, refers to the module."""
        if not carried_as(getattr(kind, "__module__", None)) or not _has_reduce_of_its_own(kind):
            return super().reducer_override(obj)
        name = obj.__reduce_ex__(5)
        if type(name) is not str:
            return name
        return self._reference(obj, name) or (copyreg.__newobj__, (kind,), getattr(obj, "__dict__", None))  # type: ignore[attr-defined]

    def _reduce_sentinel(self, obj: object) -> object:
        for module in [module for name in list(CARRIED_NAMES) for module in carried_as(name)]:
            for contents in module.contents():
                name = self._definitions.shared(contents).name_of(obj)
                if name is not None and (
                    self._place is None or not (self._place[1] is contents and self._place[2] == name)
                ):
                    return resolve, (module.about, name, self._needed(module, contents, [name]))
        return NotImplemented

    def _reduce_function(self, function: FunctionType) -> object:
        reference = self._reference(function, function.__qualname__)
        if reference is not None:
            return reference
        if is_singledispatch(function):
            return reduce_singledispatch(function)
        if carried_as(function.__module__):
            return self._dynamic_function_reduce(function)
        return super().reducer_override(function)

    def _reduce_class(self, kind: type) -> object:
        qualname = kind.__qualname__
        reference = self._reference(kind, qualname)
        if reference is not None:
            return reference
        if not carried_as(kind.__module__):
            return super().reducer_override(kind)
        make, args, (attributes, slots), *rest = internals._dynamic_class_reduce(kind)
        if issubclass(kind, enum.Enum):
            members = {name: as_member(member.value) for name, member in kind.__members__.items()}  # aliases too
            args = (*args[:3], members, *args[4:])
            attributes = {name: each for name, each in attributes.items() if name not in members}
            slots, rest = members_of(kind), [None, None, set_enum]
        module = carried_as(kind.__module__)[-1]
        contents = module.holder_of(kind, qualname)
        if contents is None:
            contents = next(module.contents())
            definitions = self._needed(module, contents, names_in_annotations(kind, contents))
            return make_local_class, (module.about, definitions, make, args), (attributes, slots), *rest
        self._needed(module, contents, names_in_annotations(kind, contents))
        if make is internals._make_skeleton_class:
            created = {name: attributes.pop(name) for name in _AT_CREATION if name in attributes}
            attributes = {name: each for name, each in attributes.items() if type(each) is not MemberDescriptorType}
            args = (args[0], args[1], kind.__bases__, {**args[3], **created}, None, None)
        else:
            args = (*args[:-2], None, args[-1])  # the receiver finds it by name, not by cloudpickle's class id
        return make_class, (module.about, qualname, make, args), (attributes, slots), *rest

    def _reduce_named(self, thing: object, rebuild: Callable[[object], tuple[object, ...]]) -> object:
        name = qualname_of(thing)
        if name is None:
            return rebuild(thing)
        reference = self._reference(thing, name)
        if reference is not None:
            return reference
        module = module_named(getattr(thing, "__module__", None))
        if module is None or look_up(vars(module), name) is not thing:
            return rebuild(thing)
        return name

    def _reference(self, thing: object, qualname: str) -> tuple[object, ...] | None:
        """Return what stands for ``thing`` where a carried module holds it by its name, if one does."""
        for module in carried_as(getattr(thing, "__module__", None)):
            contents = module.holder_of(thing, qualname)
            if contents is None:
                continue
            name = qualname.partition(".")[0]
            place = self._place
            if place is not None and place[1] is contents and place[2] == name:
                return None
            return resolve, (module.about, qualname, self._needed(module, contents, [name]))
        return None

    def _needed(self, module: CarriedModule, contents: dict[str, object], names: list[str]) -> tuple[object, ...]:
        """Return the definitions that are to travel here; within another one of the module their names are noted."""
        if self._place is not None and self._place[1] is contents:
            self.needs.update(dict.fromkeys(name for name in names if name in contents))
            return ()
        return self._definitions.closure(module, contents, names, self._sent)

    def _dynamic_function_reduce(self, function: FunctionType) -> object:
        """Called by cloudpickle for a function that travels in its place."""
        contents = function.__globals__
        for module in carried_as(contents.get("__name__")):
            if any(each is contents for each in module.contents()):
                return self._reduce_in_place(function, module, contents)
        reduced: tuple[object, ...] = super()._dynamic_function_reduce(function)
        return reduced

    def _reduce_in_place(self, function: FunctionType, module: CarriedModule, contents: dict[str, object]) -> object:
        code, _, _, _, closure = self._function_getnewargs(function)
        attributes, state = internals._function_getstate(function)
        names = [name for name in state["__globals__"] if name not in _OF_ANY_MODULE]
        names += names_in_annotations(function, contents)
        definitions = self._needed(module, contents, names)
        state["__globals__"] = {}
        args = (code, module.about, definitions, closure, *self._own_name(function))
        return make_function, args, (attributes, state), None, None, internals._function_setstate

    def _own_name(self, function: FunctionType) -> tuple[str, ...]:
        """Return the name of the global that this defines, if ``function`` is that global."""
        place = self._place
        return (place[2],) if place is not None and place[1].get(place[2]) is function else ()


class _DefinitionPickler(ByValuePickler):
    """Pickles the object of a global, with the names of other globals in place of their objects.

    A hash of the other one's pickle is beside its name, so that a definition changes when an object that it holds does.
    """

    def __init__(
        self, file: io.BytesIO, definitions: _Definitions, place: tuple[CarriedModule, dict[str, object], str]
    ) -> None:
        super().__init__(file, definitions=definitions, place=place)
        self._shared = definitions.shared(place[1])

    def persistent_id(self, obj: object) -> tuple[str, int] | None:
        """Called by pickle for each object."""
        assert self._place is not None
        module, contents, own_name = self._place
        name = self._shared.name_in(own_name, obj)
        definition = None if name is None else self._definitions.definition(module, contents, name)
        if name is None or definition is None or definition.blob is None:
            return None
        self.needs[name] = None
        return name, xxhash.xxh3_64_intdigest(definition.blob)


def _has_reduce_of_its_own(kind: Any) -> bool:
    return kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__
