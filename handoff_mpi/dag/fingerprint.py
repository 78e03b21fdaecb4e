"""Fingerprints of functions: is a value that was kept still the value of the function that made it?

A function whose fingerprint is still the same is taken to have the same value. What goes into it:

- The function's id, ``version=``, ``argument_inclusion``, and Python's major and minor version.
- Its code: bytecode and constants, to any depth of nested functions. File names, line numbers, comments and
  docstrings do not count, nor do annotations of functions. The name of a function does, its qualified name does not.
- What its code is bound to: defaults, keyword defaults, closure, attributes set on the function, what it wraps.
- The globals its code reads, by value: helpers and classes (methods, attributes, bases) likewise, recursively;
  constants and objects as below. ``__name__``, ``__file__`` and their like count by name alone.
- Its ``cwd`` and ``env``, as they were given.
- Its constants (``extra_args``, ``kwargs``): by type and value. Sets have no order; lists, tuples and dicts have. numpy
  arrays count by dtype, shape and content, other objects by what they give to pickle. A handle stands for its function.
- The fingerprints of its inputs, inline functions among them, and the codes of an :class:`Argument`.

All of that holds for what travels by value: what the script (``__main__``, ``dag.py``) defines. What is imported counts

- from the standard library, by name, with Python's version;
- from site-packages, by name, with the name and version of its distribution; handoff_mpi itself too, wherever it is;
- from anywhere else, by the code of the *whole file* that defines it (comments and docstrings left out, extension
  modules by their bytes) and of the files which that one imports, inside functions too. Not by the one function:
  such a module is imported whole on the ranks, and what it does on import, what it looks up by a computed name and
  the state it builds up would be missed. Editing a module therefore recomputes all that relies on it. A package that is
  referred to as a whole (``import package``) counts with all of its modules that are loaded.

What does not go in: cost, retries, timeout, node, priority and type of the function; where the script lies and what it
is called; what ``setup(rank)`` puts into the globals; data that a function reads from files; what loggers, weak
dictionaries, locks and thread-local objects hold; whether equal objects are one object; imports and globals by a
computed name; changes made to imported modules at run time, and to distributions that keep their version (install one's
own as editable, or raise it).

What has no such canonical form (an open file, a socket, an object that refuses to be pickled) has no fingerprint, nor
has anything that depends on it: :attr:`Fingerprints.notes` says why, and such functions run again.

No code of users is run but what pickling an object runs. Exceptions of objects do not escape. The same script
gives the same fingerprints in any process, with any PYTHONHASHSEED, from any directory and under any name.
"""

from __future__ import annotations

import builtins
import contextvars
import copyreg
import dis
import functools
import importlib.machinery
import importlib.util
import marshal
import pickle
import sys
import sysconfig
import types
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import compress
from typing import Any, TypeAlias

import cloudpickle

from handoff_mpi.carried_modules import CARRIED_NAMES
from handoff_mpi.dag.function import Argument, Function, input_id
from handoff_mpi.dag.handle import Handle
from handoff_mpi.dag.kinds import Kinds
from handoff_mpi.dag.references import ReferenceFinder
from handoff_mpi.dag.surroundings import written_surroundings
from handoff_mpi.dag.task import Task
from handoff_mpi.rebuilding import OF_A_PROCESS, default_of
from handoff_mpi.version import VERSION

NBYTES = 16

#: Changed whenever the rules change, so that older fingerprints match nothing.
_RULES = 1
_MAX_LEAF_LENGTH = 1024
_MAX_TUPLE_LENGTH = 16
_DEEPEST = 20_000
_MAX_REFINEMENTS = 500_000
_MISSING = object()

#: Id and fingerprint of a function to the fingerprint that it goes by.
Settle: TypeAlias = "Callable[[Hashable, bytes], bytes]"

_NUMBERS = frozenset({type(None), bool, int, float, complex, type(...)})
_SIZED = frozenset({str, bytes})
_SCALARS = _NUMBERS | _SIZED

#: What tells where code comes from rather than what it does; read by a function, they count by name alone.
_PLACE_NAMES = frozenset(
    {"__name__", "__file__", "__spec__", "__loader__", "__package__", "__cached__", "__path__", "__builtins__"}
)
#: Stored by a class body or a module, or set by functools.update_wrapper, and without effect on values.
_METADATA = frozenset(
    {"__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__", "__type_params__"}
)
_WRAPPER_METADATA = _METADATA | {"__annotations__", "__annotate__"}
#: Of classes, what comes to be while they are used, too.
_CLASS_METADATA = _METADATA | {"__dict__", "__weakref__", "_abc_impl"}
_CLASS_METADATA |= {"__annotations_cache__", "__slotnames__", "_value2member_map_"}
_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CONSTANT_OPS = frozenset({"LOAD_CONST", "LOAD_SMALL_INT"})
_HAS_CONST = frozenset(dis.hasconst)
_HAS_NAME = frozenset(dis.hasname)
_HAS_DOCSTRING_FLAG = 0x4000000  # from Python 3.13 on
_HEAP_TYPE_FLAG = 1 << 9


class Fingerprints:
    """The fingerprints of the functions of a DAG.

    Attributes:
        notes: why a function has none, by id.
        visited: how many objects, code objects and modules were looked at, each once.
        codes: the digests of the codes of each name, in order.
        python: Python's major and minor version.
    """

    __slots__ = ("_of", "codes", "notes", "python", "visited")

    def __init__(
        self,
        of: dict[Hashable, bytes],
        notes: dict[Hashable, str],
        visited: int,
        codes: dict[str, list[bytes]] | None = None,
    ) -> None:
        self._of = of
        self.notes = notes
        self.visited = visited
        self.codes = {} if codes is None else codes
        self.python = ".".join(map(str, sys.version_info[:2]))

    def of(self, id: Hashable) -> bytes | None:
        """Return the fingerprint of the function ``id``, 16 bytes, or None if it has none."""
        try:
            return self._of.get(id)
        except Exception:  # an id that cannot be hashed or compared names no function
            return None


def fingerprints(
    functions: Iterable[Function], settle: Settle | None = None, kinds: Kinds | None = None
) -> Fingerprints:
    """Return the fingerprints of ``functions``, which may come in any order.

    Time and memory are linear in the functions and what they refer to. Nothing is kept between calls.

    Args:
        settle: returns the fingerprint that a function goes by instead of its own, also where others take its value.
        kinds: of the functions.
    """
    functions = list(functions)
    reader = _Reader()
    readings: list[_Reading] = []
    number_of: dict[Hashable, int] = {}
    for function, kind in zip(functions, (kinds or Kinds(functions)).of, strict=True):
        try:
            number = number_of.setdefault(function.id, len(readings))
        except Exception:  # no one can ask for it
            continue
        if number < len(readings):
            readings[number] = _Reading(function.id, note="its id is used by several functions")
        else:
            readings.append(reader.read(function, kind))
    _link(readings, number_of)
    _combine(readings, settle)
    reader.graph.clear()
    of = {reading.id: reading.fingerprint for reading in readings if reading.fingerprint is not None}
    notes = {reading.id: reading.note for reading in readings if reading.note}
    return Fingerprints(of, notes, reader.graph.visited, reader.codes())


@dataclass(slots=True)
class _Reading:
    """The content of one function, without its inputs.

    Attributes:
        content: everything but its inputs' fingerprints.
        inputs: whose values it takes: ids, then (by :func:`_link`) positions in the list of readings.
    """

    id: Hashable
    content: bytes = b""
    inputs: Sequence[Any] = ()
    note: str = ""
    fingerprint: bytes | None = None


def _link(readings: list[_Reading], number_of: dict[Hashable, int]) -> None:
    for reading in readings:
        if not reading.inputs:
            continue
        ids, reading.inputs = reading.inputs, ()
        try:
            numbers = [number_of.get(id, -1) for id in ids]
        except Exception as error:
            reading.note = f"an id that it takes cannot be looked up: {_describe(error)}"
            continue
        if -1 in numbers:
            reading.note = f"there is no function {_shown(ids[numbers.index(-1)])}, which it takes"
        else:
            reading.inputs = numbers


def _combine(readings: list[_Reading], settle: Settle | None) -> None:
    """Go through the DAG from its sources (Kahn 1962) and give each function its fingerprint or its note."""
    missing = [len(reading.inputs) for reading in readings]
    consumers: dict[int, list[int]] = {}
    for number in compress(range(len(readings)), missing):
        for source in readings[number].inputs:
            consumers.setdefault(source, []).append(number)
    ready = [number for number, count in enumerate(missing) if not count]
    roots: dict[int, str] = {}  # functions without a fingerprint: the one that it starts from
    for number in ready:
        _finish(readings, number, roots)
        reading = readings[number]
        if settle is not None and reading.fingerprint is not None:
            reading.fingerprint = settle(reading.id, reading.fingerprint)
        if number in consumers:
            for consumer in consumers[number]:
                missing[consumer] -= 1
                if not missing[consumer]:
                    ready.append(consumer)
    if len(ready) < len(readings):
        for reading, count in zip(readings, missing, strict=True):
            if count:
                reading.note = reading.note or "it is in a cycle, or behind one"


def _finish(readings: list[_Reading], number: int, roots: dict[int, str]) -> None:
    reading = readings[number]
    if reading.note:
        roots[number] = _shown(reading.id)
        return
    if not reading.inputs:
        reading.fingerprint = _hashed(reading.content)
        return
    sources = [readings[source].fingerprint for source in reading.inputs]
    if None in sources:
        root = roots[number] = roots[reading.inputs[sources.index(None)]]
        reading.note = f"it depends on {root}, which has no fingerprint"
        return
    reading.fingerprint = _hashed(b"".join((reading.content, *sources)))


class _Reader:
    """Reads functions, one by one."""

    def __init__(self) -> None:
        self.graph = _Graph()
        self._heads: dict[tuple[int, str, str], tuple[Any, bytes]] = {}
        self._shared: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self._names: dict[str, set[bytes]] = {}
        self._finder = ReferenceFinder()

    def read(self, function: Function, kind: int) -> _Reading:
        """Return what ``function``, of that kind, consists of, or why that is unknown."""
        try:
            inputs = [input_id(reference) for reference in function.args] if function.args else []
            body = self._plain_body(function)
            if body is None:
                body = b"other" + _hashed(b"".join(self._digests(function)))
                references = self._finder.find([*function.extra_args, *function.kwargs.values()])
                inputs += (reference.id for reference in references)
            head, end = self._shared.get((id(function.code), kind)) or self._share(function, kind)
            content = b"".join((head, len(body).to_bytes(8, "little"), body, end))
            return _Reading(function.id, content, inputs)
        except _Unfit as unfit:
            return _Reading(function.id, note=str(unfit))
        except Exception as error:
            return _Reading(function.id, note=_describe(error))

    def _share(self, function: Function, kind: int) -> tuple[bytes, bytes]:
        """Return what functions of one code and kind share: what is put before the rest, and what behind it."""
        shared = self._shared[id(function.code), kind] = self._head(function), written_surroundings(function)
        return shared

    def _head(self, function: Function) -> bytes:
        """Functions of one code share it."""
        code, version, inclusion = function.code, function.version, function.argument_inclusion
        if not (callable(code) and type(version) is str and type(inclusion) is str):
            raise _Unfit("its code, version or argument_inclusion is of a wrong type")
        key = (id(code), version, inclusion)
        known = self._heads.get(key)
        if known is None:
            rules = marshal.dumps((_RULES, sys.implementation.name, *sys.version_info[:2], version, inclusion), 2)
            known = self._heads[key] = code, _hashed(self.graph.digest(code) + rules)
            self._names.setdefault(function.name, set()).add(known[1])
        return known[1]

    def codes(self) -> dict[str, list[bytes]]:
        """Return the digests of the codes of each name."""
        return {name: sorted(digests) for name, digests in self._names.items()}

    def _plain_body(self, function: Function) -> bytes | None:
        """Id and constants at once, if they are as plain as they mostly are."""
        extra: Any = tuple(function.extra_args)
        named: Any = (*function.kwargs, *function.kwargs.values()) if function.kwargs else ()
        if not (_is_leaf(function.id) and (not extra or _is_leaf(extra)) and (not named or _is_leaf(named))):
            return None
        for reference in function.args:
            if isinstance(reference, Argument):
                return None
        plain: Any = (function.id, len(function.args), extra, named)
        return b"plain" + marshal.dumps(plain, 2)

    def _digests(self, function: Function) -> Iterator[bytes]:
        yield marshal.dumps((len(function.args), len(function.extra_args), list(function.kwargs)), 2)
        yield self._digest("its id", function.id)
        for position, reference in enumerate(function.args):
            if isinstance(reference, Argument):
                yield position.to_bytes(8, "little")
                yield self._digest(f"serialize of args[{position}]", reference.serialize)
                yield self._digest(f"deserialize of args[{position}]", reference.deserialize)
        for position, value in enumerate(function.extra_args):
            yield self._digest(f"extra_args[{position}]", value)
        for key, value in function.kwargs.items():
            yield self._digest(f"kwargs[{key!r}]", value)

    def _digest(self, what: str, value: Any) -> bytes:
        try:
            return self.graph.digest(value)
        except _Unfit as unfit:
            raise _Unfit(f"{what}: {unfit}") from None


class _Unfit(Exception):
    """Something has no canonical form; the message says what and why."""


class _Bag:
    """Parts without an order."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[bytes | _Node]) -> None:
        self.parts = parts


class _Node:
    """An object and what it consists of.

    Attributes:
        thing: the object; kept, since it is known by its identity.
        parts: bytes that stand for themselves, labels of what follows, other nodes; none before it is opened.
        digest: known once it and all that it reaches are closed.
        unfit: why it has no digest.
        number: when it was opened; 0 before.
        low: the earliest open node that it is known to reach.
    """

    __slots__ = ("digest", "low", "number", "parts", "thing", "unfit", "waiting")

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.parts: list[_Part] = []
        self.digest: bytes = b""
        self.unfit = ""
        self.number = self.low = 0
        self.waiting: Iterator[_Node] = iter(())

    def children(self) -> Iterator[_Node]:
        for part in self.parts:
            if type(part) is _Node:
                yield part
            elif type(part) is _Bag:
                yield from (each for each in part.parts if type(each) is _Node)


_Part: TypeAlias = "bytes | str | _Node | _Bag"


class _Graph:
    """Objects and what they refer to; gives each one a digest of all that it reaches.

    Objects that refer to each other get theirs together: the strongly connected components are found by Tarjan's
    algorithm (1972), without recursion. Two objects have the same digest only if they look the same however deep one
    looks into them; copies have the same digest, no matter what was looked at before.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, _Node] = {}
        self._anatomy = _Anatomy(self.part)
        self.visited = 0

    def clear(self) -> None:
        """Break the reference cycles, so that the objects looked at can be freed without a garbage collection."""
        for node in self._nodes.values():
            node.parts, node.waiting = [], iter(())
        self._nodes.clear()
        self._anatomy.clear()
        del self._anatomy

    def digest(self, thing: Any) -> bytes:
        """Return the digest of ``thing``.

        Raises:
            _Unfit: it, or something that it refers to, has no canonical form.
        """
        part = self.part(thing)
        if type(part) is bytes:
            return _hashed(part)
        assert type(part) is _Node
        if not part.digest:
            self._close(part)
        return part.digest

    def part(self, thing: Any) -> bytes | _Node:
        """Return what stands for ``thing`` among the parts of another object."""
        if _is_leaf(thing):
            return marshal.dumps(thing, 2)
        for _ in range(_MAX_TUPLE_LENGTH):
            if type(thing) is not Task:  # outside a ``with DAG()`` it is its code
                break
            thing = thing.code
        node = self._nodes.get(id(thing))
        if node is None:
            node = self._nodes[id(thing)] = _Node(thing)
        return node

    def _close(self, root: _Node) -> None:
        path: list[_Node] = []
        opened: list[_Node] = []
        child: _Node | None = root
        try:
            while child or path:
                if child:
                    self._open(child, path, opened)
                child = self._next(path[-1])
                if not child:
                    self._leave(path, opened)
        except _Unfit as unfit:
            # Every open node reaches a node of the path, and so the culprit.
            for node in opened:
                node.unfit, node.parts = str(unfit), []
            raise

    def _open(self, node: _Node, path: list[_Node], opened: list[_Node]) -> None:
        """Take ``node`` apart, as the newest of the path."""
        if node.unfit:
            raise _Unfit(node.unfit)
        self.visited += 1
        node.number = node.low = self.visited
        path.append(node)
        opened.append(node)
        try:
            if len(path) > _DEEPEST:
                raise _Unfit("what it refers to is nested too deep")
            node.parts = self._anatomy.parts(node.thing)
            node.waiting = node.children()
        except _Unfit as unfit:
            raise _Unfit(_place(path) + str(unfit)) from None
        except (Exception, SystemExit) as error:
            raise _Unfit(f"{_place(path)}{_kind(node.thing)} cannot be taken apart: {_describe(error)}") from None

    def _next(self, node: _Node) -> _Node | None:
        """Return a part of ``node`` that must be looked at first, if there is one left."""
        for child in node.waiting:
            if child.digest:
                continue
            if not child.number or child.unfit:
                return child
            node.low = min(node.low, child.number)
        return None

    def _leave(self, path: list[_Node], opened: list[_Node]) -> None:
        """The newest node of the path is done; if it reaches no earlier one, so is what was opened since."""
        node = path.pop()
        if path:
            path[-1].low = min(path[-1].low, node.low)
        if node.low < node.number:
            return
        start = len(opened) - 1
        while opened[start] is not node:
            start -= 1
        members = opened[start:]
        if len(members) == 1 and not any(child is node for child in node.children()):
            node.digest = _digest(node.parts)
        else:
            _refine(members)
        del opened[start:]
        for member in members:
            member.parts = []


def _refine(members: list[_Node]) -> None:
    """Give digests to objects that all reach each other.

    Colours are refined until they tell apart no more objects than before (the partition of Hopcroft and Karp for
    automata, by rounds). The final digest holds the set of all colours: two components that agree in it look the same.
    """
    for member in members:
        member.digest = bytes(NBYTES)
    count, rounds = 0, 0
    while len({member.digest for member in members}) > count:
        count = len({member.digest for member in members})
        rounds += 1
        if rounds * len(members) > _MAX_REFINEMENTS:
            for member in members:
                member.digest = b""
            raise _Unfit("too many objects refer to each other")
        colours = [_digest([member.digest, *member.parts]) for member in members]
        for member, colour in zip(members, colours, strict=True):
            member.digest = colour
    everything = b"".join(sorted({member.digest for member in members}))
    for member in members:
        member.digest = _hashed(member.digest + everything)


def _digest(parts: list[_Part]) -> bytes:
    return _hashed(b"".join(map(_framed, parts)))


def _framed(part: _Part) -> bytes:
    """Bytes that cannot be mistaken for those of other parts."""
    if type(part) is _Node:
        return b"n" + part.digest
    if type(part) is _Bag:
        return b"s%d:" % len(part.parts) + b"".join(sorted(map(_framed, part.parts)))
    if type(part) is str:
        label = part.encode("utf-8", "surrogatepass")
        return b"l%d:%b" % (len(label), label)
    assert type(part) is bytes
    return b"b%d:%b" % (len(part), part)


def _place(path: list[_Node]) -> str:
    """Say where the last node of ``path`` stands: the innermost function or class, and its name there."""
    for owner, child in zip(path[-2::-1], path[:0:-1], strict=True):
        name = _owner_name(owner.thing)
        if not name:
            continue
        label = ""
        for part in owner.parts:
            if type(part) is str:
                label = part
            elif part is child or (type(part) is _Bag and child in part.parts):
                break
        return f"{label} of {name}: " if label else f"{name}: "
    return ""


def _owner_name(thing: Any) -> str:
    if type(thing) is _Scope:
        return f"{thing.code.co_name}()"
    if type(thing) is types.FunctionType:
        return f"{thing.__name__}()"
    return f"class {type.__dict__['__name__'].__get__(thing)}" if issubclass(type(thing), type) else ""


@dataclass(slots=True)
class _Scope:
    """The globals of its module that code uses."""

    code: types.CodeType
    globals: dict[str, Any]


@dataclass(slots=True)
class _ModuleName:
    """A module by its name; it need not have been imported."""

    name: str


class _Anatomy:
    """Knows what objects consist of.

    Args:
        part: gives what stands for an object among the parts of another.
    """

    def __init__(self, part: Callable[[Any], bytes | _Node]) -> None:
        self._part = part
        self._codes = _Codes()
        self._modules = _Modules()
        self._module_names: dict[str, _ModuleName] = {}
        self._scopes: dict[tuple[int, int], _Scope] = {}
        numpy = sys.modules.get("numpy")
        self._array_type: Any = getattr(numpy, "ndarray", None)
        self._logger_type: Any = getattr(sys.modules.get("logging"), "Logger", None)
        self._handlers: dict[Any, Callable[[Any], list[_Part]]] = {
            str: lambda thing: [b"str", marshal.dumps(thing, 2)],
            bytes: lambda thing: [b"bytes", _hashed(thing)],
            bytearray: lambda thing: [b"bytearray", _hashed(thing)],
            memoryview: self._memory,
            pickle.PickleBuffer: lambda thing: self._memory(memoryview(thing)),
            list: self._sequence,
            tuple: self._sequence,
            dict: self._dict,
            types.MappingProxyType: lambda thing: self._dict(dict(thing)),
            set: self._set,
            frozenset: self._set,
            Handle: lambda thing: [b"handle", part(thing.id)],
            Argument: lambda thing: [b"argument", part(thing.id), part(thing.serialize), part(thing.deserialize)],
            types.FunctionType: self._function,
            types.CodeType: self._code,
            types.CellType: self._cell,
            types.MethodType: lambda thing: [b"method", part(thing.__func__), part(thing.__self__)],
            types.BuiltinFunctionType: self._builtin,
            types.MethodWrapperType: lambda thing: [b"method-wrapper", part(thing.__self__), thing.__name__],
            types.ModuleType: self._module,
            functools._lru_cache_wrapper: self._lru_cache,
            functools.cached_property: lambda thing: [b"cached", part(thing.func), part(thing.attrname)],
            property: lambda thing: [b"property", part(thing.fget), part(thing.fset), part(thing.fdel)],
            classmethod: lambda thing: [b"classmethod", part(thing.__func__)],
            staticmethod: lambda thing: [b"staticmethod", part(thing.__func__)],
            weakref.WeakSet: lambda thing: [b"weak"],
            **dict.fromkeys(OF_A_PROCESS, lambda thing: [b"of a process", type(thing).__name__]),
            contextvars.ContextVar: lambda thing: [b"context variable", part(thing.name), part(default_of(thing))],
            weakref.WeakKeyDictionary: lambda thing: [b"weak"],  # they are caches; singledispatch has one
            weakref.WeakValueDictionary: lambda thing: [b"weak"],
            _Scope: self._scope,
            _ModuleName: self._module_name,
            self._array_type: self._array,
        }
        descriptors = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
        for kind in (*descriptors, types.GetSetDescriptorType, types.MemberDescriptorType):
            self._handlers[kind] = lambda thing: [b"descriptor", part(thing.__objclass__), thing.__name__]

    def clear(self) -> None:
        """Break the reference cycles; nothing can be taken apart afterwards."""
        self._handlers.clear()

    def parts(self, thing: Any) -> list[_Part]:
        """Return the parts of ``thing``. May raise anything, since pickling an object runs its code."""
        kind = type(thing)  # not __class__, which proxies fake
        handler = self._handlers.get(kind)
        if handler is not None:
            return handler(thing)
        if issubclass(kind, type):
            return self._class(thing)
        if issubclass(kind, types.ModuleType):
            return self._module(thing)
        if issubclass(kind, Task):
            return [b"task", self._part(kind), self._part(thing.code)]
        if issubclass(kind, (set, frozenset)):
            state = self._part(_cleaned(getattr(thing, "__dict__", None)))
            return [b"set of", self._part(kind), *self._set(thing), state]
        if self._logger_type is not None and issubclass(kind, self._logger_type):
            return [b"logger"]  # named after the module, mostly
        return self._object(thing)

    def _named(self, name: str) -> _Node:
        """Return the node of the module ``name``."""
        known = self._module_names.get(name)
        if known is None:
            known = self._module_names[name] = _ModuleName(name)
        node = self._part(known)
        assert type(node) is _Node
        return node

    # Data

    def _sequence(self, thing: Any) -> list[_Part]:
        kind = type(thing).__name__.encode()
        if _SCALARS.issuperset(map(type, thing)):
            return [kind, b"scalars", _hashed(marshal.dumps(thing, 2))]
        return [kind, b"%d" % len(thing), *map(self._part, thing)]

    def _dict(self, thing: Any) -> list[_Part]:
        if _SCALARS.issuperset(map(type, thing)) and _SCALARS.issuperset(map(type, thing.values())):
            return [b"dict", b"scalars", _hashed(marshal.dumps(thing, 2))]
        parts: list[_Part] = [b"dict", b"%d" % len(thing)]
        for key, value in thing.items():
            parts += self._part(key), self._part(value)
        return parts

    def _set(self, thing: Any) -> list[_Part]:
        return [b"set" if issubclass(type(thing), set) else b"frozenset", _Bag([self._part(item) for item in thing])]

    def _memory(self, thing: memoryview) -> list[_Part]:
        content = pickle.PickleBuffer(thing).raw() if thing.contiguous else thing.tobytes()
        return [b"memory", thing.format.encode(), marshal.dumps(thing.shape, 2), _hashed(content)]

    def _array(self, thing: Any) -> list[_Part]:
        dtype, shape = thing.dtype, marshal.dumps(thing.shape, 2)
        if dtype.hasobject:
            return [b"array", self._part(dtype), shape, *map(self._part, thing.ravel().tolist())]
        described = self._part(dtype.str if dtype.fields is None else dtype)
        flat = sys.modules["numpy"].ascontiguousarray(thing).reshape(-1)
        return [b"array", described, shape, _hashed(flat.view("u1").data if flat.nbytes else b"")]

    def _object(self, thing: Any) -> list[_Part]:
        """As pickle takes it apart."""
        kind = type(thing)
        reducer = copyreg.dispatch_table.get(kind)
        reduced = thing.__reduce_ex__(5) if reducer is None else reducer(thing)
        if type(reduced) is str:
            return [b"global", reduced, self._owner(reduced, thing)]
        if type(reduced) is not tuple or not 2 <= len(reduced) <= 6:
            raise _Unfit(f"{_kind(thing)} gives pickle something else than a tuple")
        make, args, state, items, pairs, setter = reduced + (None,) * (6 - len(reduced))
        parts: list[_Part] = [b"object", self._part(make), b"%d" % len(args), *map(self._part, args)]
        parts += self._part(_cleaned(state)), self._part(setter)
        for sequence in (items, pairs and (each for pair in pairs for each in pair)):
            contents = list(sequence or ())
            parts += b"%d" % len(contents), *map(self._part, contents)
        return parts

    def _owner(self, name: str, thing: Any) -> bytes | _Node:
        """Return what tells the version of ``thing``, which pickle takes from some module by ``name``."""
        homes = self._modules.homes_of(name, thing)
        if not homes:
            raise _Unfit(f"{_kind(thing)} is {name!r} to pickle, and no module has it by that name")
        if self._modules.is_script(homes[0]):
            return self._part(type(thing))
        belongs = self._modules.belongs(homes[0])
        return self._named(homes[0]) if belongs is None else self._part(belongs)

    # Code

    def _code(self, code: types.CodeType) -> list[_Part]:
        facts = self._codes.facts(code)
        return [b"code", facts.signature, facts.stream, *map(self._part, facts.constants)]

    def _scope(self, scope: _Scope) -> list[_Part]:
        parts: list[_Part] = [b"scope"]
        package = scope.globals.get("__package__")
        for name in self._codes.globals(scope.code):
            parts.append(f"global {name!r}")
            if name in _PLACE_NAMES:
                continue
            value = scope.globals.get(name, _MISSING)
            if value is _MISSING:  # a builtin, or set by setup(rank)
                parts.append(b"builtin" if name in vars(builtins) else b"missing")
            else:
                parts.append(self._part(value))
        for imported in self._codes.imports(scope.code):
            parts += map(self._named, self._modules.imported(imported, package))
        return parts

    def _function(self, function: types.FunctionType) -> list[_Part]:
        home = self._modules.home_of(function)
        if home is not None and self._modules.holds(home, function.__qualname__, function):
            return [b"imported function", function.__qualname__, self._named(home)]
        # What an imported module made at run time (a decorator did, say) relies on that module's file.
        around = self._part(self._scope_of(function)) if home is None else self._named(home)
        parts: list[_Part] = [b"function", function.__name__, self._part(function.__code__), around]
        parts += "default", self._part(function.__defaults__), self._part(function.__kwdefaults__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            parts += f"closure variable {name!r}", self._part(cell)
        for name, value in function.__dict__.items():
            parts += f"attribute {name!r}", self._part(value)
        return parts

    def _scope_of(self, function: types.FunctionType) -> _Scope:
        """Functions of one code and module share it."""
        code, globals = function.__code__, function.__globals__
        key = (id(code), id(globals))
        if key not in self._scopes:
            self._scopes[key] = _Scope(code, globals)
        return self._scopes[key]

    def _cell(self, cell: types.CellType) -> list[_Part]:
        try:
            return [b"cell", self._part(cell.cell_contents)]
        except ValueError:
            return [b"empty cell"]

    def _builtin(self, function: Any) -> list[_Part]:
        owner = function.__self__
        if owner is None or type(owner) is types.ModuleType:
            home = function.__module__ or "builtins"
            return [b"builtin function", function.__qualname__, self._named(home)]
        return [b"builtin method", function.__name__, self._part(owner)]

    def _lru_cache(self, function: Any) -> list[_Part]:
        settings = dict(function.cache_parameters())
        return [b"lru_cache", self._part(function.__wrapped__), self._part(settings)]

    def _class(self, thing: Any) -> list[_Part]:
        home, name = thing.__module__, thing.__qualname__
        script = type(home) is not str or self._modules.is_script(home)
        if not script and (not thing.__flags__ & _HEAP_TYPE_FLAG or self._modules.holds(home, name, thing)):
            return [b"imported class", name, self._named(home)]
        parts: list[_Part] = [b"class", thing.__name__, self._part(type(thing))]
        parts += [] if script or home not in sys.modules else [self._named(home)]
        parts += b"bases", *map(self._part, thing.__bases__)
        attributes = dict(thing.__dict__)
        for name in sorted(attributes.keys() - _CLASS_METADATA):
            value = attributes[name]
            if name == "__annotations__" and not value:  # comes to be when it is looked at
                continue
            slot = type(value) in (types.GetSetDescriptorType, types.MemberDescriptorType)
            parts += f"attribute {name!r}", b"slot" if slot else self._part(value)
        return parts

    # Modules

    def _module(self, module: types.ModuleType) -> list[_Part]:
        name = _vars(module).get("__name__")
        if type(name) is str and sys.modules.get(name) is module and not self._modules.is_script(name):
            return [b"named", *map(self._named, [name, *self._modules.beneath(name)])]
        contents = _vars(module)
        parts: list[_Part] = [b"module"]
        for name in sorted(name for name in contents if type(name) is str and name not in _PLACE_NAMES | _METADATA):
            parts += f"global {name!r}", self._part(contents[name])
        return parts

    def _module_name(self, thing: _ModuleName) -> list[_Part]:
        name, modules = thing.name, self._modules
        if modules.is_script(name):
            module = sys.modules.get(name)
            return [b"script"] if module is None else [b"script", self._part(module)]
        belongs = modules.belongs(name)
        if belongs is not None:
            return [b"module", name, marshal.dumps(belongs, 2)]
        parent = name.rpartition(".")[0]
        parts: list[_Part] = [b"file", name, *([self._named(parent)] if parent else [])]
        code = modules.code(name)
        if type(code) is not types.CodeType:
            return [*parts, self._part(code)]
        spec = modules.spec(name)
        parts.append(self._part(code))
        for imported in self._codes.imports(code):
            parts += map(self._named, modules.imported(imported, spec and spec.parent))
        return parts


@dataclass(slots=True)
class _Facts:
    """The content of one code object, without the code objects inside it.

    Attributes:
        signature: its arguments, variables and flags.
        stream: its instructions, with names instead of their numbers, and constants left out.
        constants: these, in the order of use.
        globals: the names of the globals that it reads.
        imports: the modules that it imports: level, name, and the names taken from it.
    """

    signature: bytes
    stream: bytes
    constants: list[Any]
    globals: set[str] = field(default_factory=set)
    imports: set[tuple[int, str, tuple[str, ...]]] = field(default_factory=set)


class _Codes:
    """Reads code objects, each once."""

    def __init__(self) -> None:
        self._facts: dict[int, tuple[types.CodeType, _Facts]] = {}

    def facts(self, code: types.CodeType) -> _Facts:
        known = self._facts.get(id(code))
        if known is None:
            known = self._facts[id(code)] = code, _read_code(code)
        return known[1]

    def globals(self, code: types.CodeType) -> list[str]:
        """Return the names of the globals that ``code`` and what is nested in it read, sorted."""
        return sorted(set().union(*(facts.globals for facts in self._nested(code))))

    def imports(self, code: types.CodeType) -> list[tuple[int, str, tuple[str, ...]]]:
        """Return what ``code`` and what is nested in it import, sorted."""
        return sorted(set().union(*(facts.imports for facts in self._nested(code))))

    def _nested(self, code: types.CodeType) -> Iterator[_Facts]:
        stack = [code]
        while stack:
            facts = self.facts(stack.pop())
            yield facts
            stack.extend(constant for constant in facts.constants if type(constant) is types.CodeType)


def _read_code(code: types.CodeType) -> _Facts:
    """Take a code object apart.

    What depends on the layout of its tables is resolved, so that a docstring, which is a constant that no
    instruction uses, or a line number, which a class body stores from Python 3.13 on, changes nothing.
    """
    signature = (
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_HAS_DOCSTRING_FLAG),
        (code.co_name, code.co_varnames, code.co_freevars, code.co_cellvars, getattr(code, "co_exceptiontable", b"")),
    )
    facts = _Facts(marshal.dumps(signature, 2), b"", [])
    stream: list[int | str | None] = []
    recent: list[Any] = [0, None]  # the last constants, which are an import's level and names
    loaded = False  # whether the last instruction loaded a constant
    for step in dis.get_instructions(code):
        name = step.opname
        if name in ("EXTENDED_ARG", "CACHE"):
            continue
        if name == "STORE_NAME" and step.argval in _METADATA and loaded:
            del stream[-2:]
            facts.constants.pop()
            loaded = False
            continue
        if name in _GLOBAL_OPS:
            facts.globals.add(step.argval)
        if name == "IMPORT_NAME":
            level, names = recent
            facts.imports.add((level if type(level) is int else 0, step.argval, names or ()))
        if step.opcode in _HAS_CONST or name in _CONSTANT_OPS:
            facts.constants.append(step.argval)
            stream += step.opcode, None
        else:
            stream += step.opcode, step.argval if step.opcode in _HAS_NAME else step.arg
        loaded = name in _CONSTANT_OPS
        if loaded:
            recent = [recent[1], step.argval]
    facts.stream = marshal.dumps(stream, 2)
    return facts


class _Modules:
    """Where modules come from. None is imported to find out."""

    def __init__(self) -> None:
        self._by_value = {*cloudpickle.list_registry_pickle_by_value(), *CARRIED_NAMES}
        self._specs: dict[str, importlib.machinery.ModuleSpec | None] = {}
        self._distributions: dict[str, tuple[str, ...]] = {}
        self._scripts: dict[str, bool] = {}
        paths = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
        self._stdlib = tuple(f"{path}/" for path in paths if path)

    def is_script(self, name: str) -> bool:
        """Whether definitions of the module ``name`` are pickled by value."""
        known = self._scripts.get(name)
        if known is None:
            known = name in ("__main__", "__mp_main__") or name.startswith("handoff_dag_") or name in self._by_value
            parent = name.rpartition(".")[0]
            known = self._scripts[name] = known or (bool(parent) and self.is_script(parent))
        return known

    def home_of(self, function: types.FunctionType) -> str | None:
        """Return the imported module whose code ``function`` is; None if it travels by value.

        Its ``__module__`` does not tell: functools.wraps sets that to the wrapped function's.
        """
        name = function.__globals__.get("__name__")
        if type(name) is not str or self.is_script(name):
            return None
        module: Any = sys.modules.get(name)
        return name if module is not None and _vars(module) is function.__globals__ else None

    def holds(self, name: str, qualname: str, thing: Any) -> bool:
        """Whether ``thing`` is what ``qualname`` of the module ``name`` stands for."""
        module: Any = sys.modules.get(name)
        if module is None or "<" in qualname:
            return False
        first, *rest = qualname.split(".")
        found = _vars(module).get(first)
        try:
            for attribute in rest:
                found = getattr(found, attribute)
        except Exception:
            return False
        return found is thing

    def homes_of(self, name: str, thing: Any) -> list[str]:
        """Return the modules that hold ``thing`` by ``name``, those with a version first."""
        homes = [each for each in list(sys.modules) if self.holds(each, name, thing)]
        return sorted(homes, key=lambda home: (self.belongs(home) is None, home))

    def spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module, imported or not; None if there is none."""
        if name not in self._specs:
            self._specs[name] = self._find(name)
        return self._specs[name]

    def _find(self, name: str) -> importlib.machinery.ModuleSpec | None:
        module: Any = sys.modules.get(name)
        if module is not None:
            return _vars(module).get("__spec__")
        path: Sequence[str] | None = None
        parent = self.spec(name.rpartition(".")[0]) if "." in name else None
        if parent is not None:
            path = parent.submodule_search_locations
        if path is None and "." in name:
            return None
        found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        return next((spec for spec in found if spec is not None), None)

    def belongs(self, name: str) -> tuple[str, ...] | None:
        """Return the source of a module's version, or None if only its file shows a change."""
        top = name.partition(".")[0]
        if top == "handoff_mpi":
            return (f"{top} {VERSION}",)
        place = self._place(name) or self._place(top)
        if place in ("built-in", "frozen") or name == "builtins":
            return ("python",)
        if "/site-packages/" in place or "/dist-packages/" in place:
            if top not in self._distributions:
                self._distributions[top] = self._distributions_of(top)
            return self._distributions[top] or None
        if place.startswith(self._stdlib):
            return ("python",)
        if not place and name not in sys.modules:
            return ("absent",)
        return None

    def _place(self, name: str) -> str:
        spec = self.spec(name)
        if spec is None:
            return ""
        return spec.origin or next(iter(spec.submodule_search_locations or ()), "")

    def _distributions_of(self, top: str) -> tuple[str, ...]:
        """Most are named as their module; looking through the files of all takes longer."""
        from importlib import metadata  # slow to import, and for functions that use installed packages alone

        return self._versions([top]) or self._versions(metadata.packages_distributions().get(top, ()))

    @staticmethod
    def _versions(names: Iterable[str]) -> tuple[str, ...]:
        from importlib import metadata

        try:
            versions = [(name, metadata.version(name)) for name in sorted(set(names))]
        except metadata.PackageNotFoundError:
            return ()
        return tuple(f"{name} {version}" for name, version in versions if version)

    def imported(self, imported: tuple[int, str, tuple[str, ...]], package: Any) -> list[str]:
        """Return the names of the modules that an import statement imports, those beneath packages left out."""
        level, name, names = imported
        try:
            if level:
                name = importlib.util.resolve_name("." * level + name, package)
        except (ImportError, TypeError, AttributeError):
            return []
        if not names:  # it binds the whole package
            return [name, *self.beneath(name.partition(".")[0])]
        found = [name]
        spec = None if self.belongs(name) is not None else self.spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            found += [f"{name}.{each}" for each in names if self.spec(f"{name}.{each}") is not None]
        return found

    def beneath(self, name: str) -> list[str]:
        """Return the modules in a package of the user's own, those which are loaded: any attribute may lead there."""
        if self.belongs(name) is not None or self.is_script(name):
            return []
        return sorted(each for each in list(sys.modules) if each.startswith(f"{name}."))

    def code(self, name: str) -> types.CodeType | bytes:
        """Return the code of a module of the user's own, or its bytes if it is compiled."""
        spec = self.spec(name)
        if spec is None:
            raise _Unfit(f"the module {name!r} has no file")
        origin = spec.origin
        if origin is None:  # a namespace package
            return b""
        if origin.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            return importlib.machinery.ExtensionFileLoader(name, origin).get_data(origin)
        if origin.endswith(tuple(importlib.machinery.BYTECODE_SUFFIXES)):
            return importlib.machinery.SourcelessFileLoader(name, origin).get_code(name) or b""
        source = importlib.machinery.SourceFileLoader(name, origin).get_data(origin)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they came up when it was imported
            return compile(source, "<module>", "exec", dont_inherit=True)


def _is_leaf(thing: Any) -> bool:
    """Whether ``thing`` is a small immutable built-in, or a short tuple of such: marshal has one form of it."""
    kind = type(thing)
    if kind in _NUMBERS:
        return True
    if kind is tuple:
        if len(thing) > _MAX_TUPLE_LENGTH or not _SCALARS.issuperset(map(type, thing)):
            return False
        return _NUMBERS.issuperset(map(type, thing)) or all(map(_is_leaf, thing))
    return kind in _SIZED and len(thing) <= _MAX_LEAF_LENGTH


def _cleaned(state: Any) -> Any:
    """Return an object's state without what functools.update_wrapper put there."""
    if type(state) is tuple and len(state) == 2:
        return tuple(map(_cleaned, state))
    if type(state) is dict and not _WRAPPER_METADATA.isdisjoint(key for key in state if type(key) is str):
        return {key: value for key, value in state.items() if type(key) is not str or key not in _WRAPPER_METADATA}
    return state


def _vars(module: Any) -> dict[str, Any]:
    """Return a module's contents without running what lazy modules do when looked at."""
    try:
        contents = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return contents if type(contents) is dict else {}


def _hashed(content: Any) -> bytes:
    return blake2b(content, digest_size=NBYTES).digest()


def _kind(thing: Any) -> str:
    """Name the type of ``thing``, also if its metaclass raises."""
    return f"a {type.__dict__['__name__'].__get__(type(thing))!r}"


def _shown(thing: Any) -> str:
    try:
        text = repr(thing)
    except Exception:
        return _kind(thing)
    return text if len(text) <= 80 else text[:77] + "..."


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
