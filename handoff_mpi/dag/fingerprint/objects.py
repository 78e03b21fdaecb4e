"""Takes objects apart: which parts of an object count in a fingerprint."""

from __future__ import annotations

import builtins
import contextvars
import copyreg
import functools
import marshal
import pickle
import sys
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from handoff_mpi.dag.fingerprint.bytecode import Codes, Import
from handoff_mpi.dag.fingerprint.modules import Modules, code_of
from handoff_mpi.dag.fingerprint.nodes import Bag, Node, Part, Unfit
from handoff_mpi.dag.fingerprint.values import METADATA, SCALARS, cleaned, hashed, kind_of, vars_of
from handoff_mpi.dag.function import Argument
from handoff_mpi.dag.handle import ArrayElement, ArrayHandle, ArraySlice, Handle, WindowedHandle
from handoff_mpi.dag.task import Task
from handoff_mpi.rebuilding import OF_A_PROCESS, default_of

_MISSING = object()
#: What tells where code comes from rather than what it does; read by a function, they count by name alone.
_PLACE_NAMES = frozenset(
    {"__name__", "__file__", "__spec__", "__loader__", "__package__", "__cached__", "__path__", "__builtins__"}
)
#: Of classes, what comes to be while they are used, too.
_CLASS_METADATA = METADATA | {"__dict__", "__weakref__", "_abc_impl"}
_CLASS_METADATA |= {"__annotations_cache__", "__slotnames__", "_value2member_map_"}
_HEAP_TYPE_FLAG = 1 << 9


def owner_name(thing: object) -> str:
    if type(thing) is _Scope:
        return f"{thing.code.co_name}()"
    if type(thing) is types.FunctionType:
        return f"{thing.__name__}()"
    return f"class {type.__dict__['__name__'].__get__(thing)}" if issubclass(type(thing), type) else ""


@dataclass(slots=True)
class _Scope:
    """The globals of its module that code uses."""

    code: types.CodeType
    globals: dict[str, object]


@dataclass(slots=True)
class _ModuleName:
    """A module by its name; it need not have been imported."""

    name: str


#: Returns the parts of an object, by its exact type.
_Handlers: TypeAlias = "dict[object, Callable[[Any], list[Part]]]"


class Anatomy:
    """Knows what objects consist of.

    Args:
        part: gives what stands for an object among the parts of another.
    """

    def __init__(self, part: Callable[[object], bytes | Node]) -> None:
        self._part = part
        self._codes = Codes()
        self._modules = Modules()
        self._module_names: dict[str, _ModuleName] = {}
        self._scopes: dict[tuple[int, int], _Scope] = {}
        numpy = sys.modules.get("numpy")
        self._array_type: object = getattr(numpy, "ndarray", None)
        self._logger_type: Any = getattr(sys.modules.get("logging"), "Logger", None)
        self._handlers: _Handlers = {
            **self._of_data(),
            **self._of_code(),
            **_of_wrappers(part),
            **_of_process_state(part),
            _Scope: self._scope,
            _ModuleName: self._module_name,
        }

    def _of_data(self) -> _Handlers:
        return {
            str: lambda thing: [b"str", marshal.dumps(thing, 2)],
            bytes: lambda thing: [b"bytes", hashed(thing)],
            bytearray: lambda thing: [b"bytearray", hashed(thing)],
            memoryview: self._memory,
            pickle.PickleBuffer: lambda thing: self._memory(memoryview(thing)),
            list: self._sequence,
            tuple: self._sequence,
            dict: self._dict,
            types.MappingProxyType: lambda thing: self._dict(dict(thing)),
            set: self._set,
            frozenset: self._set,
            self._array_type: self._array,
        }

    def _of_code(self) -> _Handlers:
        return {
            types.FunctionType: self._function,
            types.CodeType: self._code,
            types.CellType: self._cell,
            types.BuiltinFunctionType: self._builtin,
            types.ModuleType: self._module,
            functools._lru_cache_wrapper: self._lru_cache,
        }

    def clear(self) -> None:
        """Break the reference cycles; nothing can be taken apart afterwards."""
        self._handlers.clear()

    def parts(self, thing: Any) -> list[Part]:
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
            state = self._part(cleaned(getattr(thing, "__dict__", None)))
            return [b"set of", self._part(kind), *self._set(thing), state]
        if self._logger_type is not None and issubclass(kind, self._logger_type):
            return [b"logger"]  # named after the module, mostly
        return self._object(thing)

    def _named(self, name: str) -> Node:
        """Return the node of the module ``name``."""
        known = self._module_names.get(name)
        if known is None:
            known = self._module_names[name] = _ModuleName(name)
        node = self._part(known)
        assert type(node) is Node
        return node

    # Data

    def _sequence(self, thing: Any) -> list[Part]:
        kind = type(thing).__name__.encode()
        if SCALARS.issuperset(map(type, thing)):
            return [kind, b"scalars", hashed(marshal.dumps(thing, 2))]
        return [kind, b"%d" % len(thing), *map(self._part, thing)]

    def _dict(self, thing: Any) -> list[Part]:
        if SCALARS.issuperset(map(type, thing)) and SCALARS.issuperset(map(type, thing.values())):
            return [b"dict", b"scalars", hashed(marshal.dumps(thing, 2))]
        parts: list[Part] = [b"dict", b"%d" % len(thing)]
        for key, value in thing.items():
            parts += self._part(key), self._part(value)
        return parts

    def _set(self, thing: Any) -> list[Part]:
        return [b"set" if issubclass(type(thing), set) else b"frozenset", Bag([self._part(item) for item in thing])]

    def _memory(self, thing: memoryview) -> list[Part]:
        content = pickle.PickleBuffer(thing).raw() if thing.contiguous else thing.tobytes()
        return [b"memory", thing.format.encode(), marshal.dumps(thing.shape, 2), hashed(content)]

    def _array(self, thing: Any) -> list[Part]:
        dtype, shape = thing.dtype, marshal.dumps(thing.shape, 2)
        if dtype.hasobject:
            return [b"array", self._part(dtype), shape, *map(self._part, thing.ravel().tolist())]
        described = self._part(dtype.str if dtype.fields is None else dtype)
        flat = sys.modules["numpy"].ascontiguousarray(thing).reshape(-1)
        return [b"array", described, shape, hashed(flat.view("u1").data if flat.nbytes else b"")]

    def _object(self, thing: object) -> list[Part]:
        """As pickle takes it apart."""
        kind = type(thing)
        reducer = copyreg.dispatch_table.get(kind)
        reduced = thing.__reduce_ex__(5) if reducer is None else reducer(thing)
        if type(reduced) is str:
            return [b"global", reduced, self._owner(reduced, thing)]
        if type(reduced) is not tuple or not 2 <= len(reduced) <= 6:
            raise Unfit(f"{kind_of(thing)} gives pickle something else than a tuple")
        make, args, state, items, pairs, setter = reduced + (None,) * (6 - len(reduced))
        parts: list[Part] = [b"object", self._part(make), b"%d" % len(args), *map(self._part, args)]
        parts += self._part(cleaned(state)), self._part(setter)
        for sequence in (items, pairs and (each for pair in pairs for each in pair)):
            contents = list(sequence or ())
            parts += b"%d" % len(contents), *map(self._part, contents)
        return parts

    def _owner(self, name: str, thing: object) -> bytes | Node:
        """Return what tells the version of ``thing``, which pickle takes from some module by ``name``."""
        homes = self._modules.homes_of(name, thing)
        if not homes:
            raise Unfit(f"{kind_of(thing)} is {name!r} to pickle, and no module has it by that name")
        if self._modules.is_script(homes[0]):
            return self._part(type(thing))
        belongs = self._modules.belongs(homes[0])
        return self._named(homes[0]) if belongs is None else self._part(belongs)

    # Code

    def _code(self, code: types.CodeType) -> list[Part]:
        facts = self._codes.facts(code)
        return [b"code", facts.signature, facts.stream, *map(self._part, facts.constants)]

    def _scope(self, scope: _Scope) -> list[Part]:
        parts: list[Part] = [b"scope"]
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

    def _function(self, function: types.FunctionType) -> list[Part]:
        home = self._modules.home_of(function)
        if home is not None and self._modules.holds(home, function.__qualname__, function):
            return [b"imported function", function.__qualname__, self._named(home)]
        # What an imported module made at run time (a decorator did, say) relies on that module's file.
        around = self._part(self._scope_of(function)) if home is None else self._named(home)
        parts: list[Part] = [b"function", function.__name__, self._part(function.__code__), around]
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

    def _cell(self, cell: types.CellType) -> list[Part]:
        try:
            return [b"cell", self._part(cell.cell_contents)]
        except ValueError:
            return [b"empty cell"]

    def _builtin(self, function: Any) -> list[Part]:
        owner = function.__self__
        if owner is None or type(owner) is types.ModuleType:
            home = function.__module__ or "builtins"
            return [b"builtin function", function.__qualname__, self._named(home)]
        return [b"builtin method", function.__name__, self._part(owner)]

    def _lru_cache(self, function: Any) -> list[Part]:
        settings = dict(function.cache_parameters())
        return [b"lru_cache", self._part(function.__wrapped__), self._part(settings)]

    def _class(self, thing: Any) -> list[Part]:
        home, name = thing.__module__, thing.__qualname__
        script = type(home) is not str or self._modules.is_script(home)
        if not script and (not thing.__flags__ & _HEAP_TYPE_FLAG or self._modules.holds(home, name, thing)):
            return [b"imported class", name, self._named(home)]
        parts: list[Part] = [b"class", thing.__name__, self._part(type(thing))]
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

    def _module(self, module: types.ModuleType) -> list[Part]:
        name = vars_of(module).get("__name__")
        if type(name) is str and sys.modules.get(name) is module and not self._modules.is_script(name):
            return [b"named", *map(self._named, [name, *self._modules.beneath(name)])]
        contents = vars_of(module)
        parts: list[Part] = [b"module"]
        for name in sorted(name for name in contents if type(name) is str and name not in _PLACE_NAMES | METADATA):
            parts += f"global {name!r}", self._part(contents[name])
        return parts

    def _module_name(self, thing: _ModuleName) -> list[Part]:
        name, modules = thing.name, self._modules
        if modules.is_script(name):
            module = sys.modules.get(name)
            return [b"script"] if module is None else [b"script", self._part(module)]
        belongs = modules.belongs(name)
        if belongs is not None:
            return [b"module", name, marshal.dumps(belongs, 2)]
        parent = name.rpartition(".")[0]
        parts: list[Part] = [b"file", name, *([self._named(parent)] if parent else [])]
        code, imports = self._file(name)
        parts.append(code)
        spec = modules.spec(name)
        for imported in imports:
            parts += map(self._named, modules.imported(imported, spec and spec.parent))
        return parts

    def _file(self, name: str) -> tuple[bytes | Node, list[Import]]:
        """Return what stands for the code of a module of the user's own, and what that imports."""
        source = self._modules.source(name)
        if source is None:
            binary = self._modules.binary(name)
            return self._part(binary), self._codes.imports(binary) if type(binary) is types.CodeType else []
        content, known = hashed(source), _files.get(name)
        if known is None or known.content != content or not known.node.digest:
            code = code_of(source)
            node = self._part(code)
            assert type(node) is Node
            known = _files[name] = _File(content, node, self._codes.imports(code))
        return known.node, known.imports


@dataclass(slots=True)
class _File:
    """The source of a module, as it was read last.

    Attributes:
        content: the digest of its bytes.
        node: its code; its digest is unknown if something of it has none.
        imports: what it imports.
    """

    content: bytes
    node: Node
    imports: list[Import]


#: By module. All files are read for each DAG, and compiled and taken apart if they have changed since the last one:
#: that takes a hundred times as long, and a loop of runs reads the same ones each time.
_files: dict[str, _File] = {}


def _parts_of_argument(argument: Argument) -> list[object]:
    """Return what tells arguments apart, in fewer parts where it is not about elements of arrays."""
    parts = [argument.id, argument.serialize, argument.deserialize]
    if type(argument.handle) in (ArraySlice, ArrayElement) or argument.missing is not None:
        parts += [argument.handle, argument.missing]
    return parts


def _of_wrappers(part: Callable[[object], bytes | Node]) -> _Handlers:
    handlers: _Handlers = {
        Handle: lambda thing: [b"handle", part(thing.id)],
        ArrayHandle: lambda thing: [b"handle", part(thing.id)],
        WindowedHandle: lambda thing: [b"handle", part(thing.id)],
        ArraySlice: lambda thing: [b"slice", part(thing.id), part(thing.elements)],
        ArrayElement: lambda thing: [b"element", part(thing.id), part(thing.index)],
        Argument: lambda thing: [b"argument", *map(part, _parts_of_argument(thing))],
        types.MethodType: lambda thing: [b"method", part(thing.__func__), part(thing.__self__)],
        types.MethodWrapperType: lambda thing: [b"method-wrapper", part(thing.__self__), thing.__name__],
        functools.cached_property: lambda thing: [b"cached", part(thing.func), part(thing.attrname)],
        property: lambda thing: [b"property", part(thing.fget), part(thing.fset), part(thing.fdel)],
        classmethod: lambda thing: [b"classmethod", part(thing.__func__)],
        staticmethod: lambda thing: [b"staticmethod", part(thing.__func__)],
    }
    descriptors = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
    for kind in (*descriptors, types.GetSetDescriptorType, types.MemberDescriptorType):
        handlers[kind] = lambda thing: [b"descriptor", part(thing.__objclass__), thing.__name__]
    return handlers


def _of_process_state(part: Callable[[object], bytes | Node]) -> _Handlers:
    """Return the handlers of objects whose contents belong to one process, so that they are described without them."""
    return {
        **dict.fromkeys(OF_A_PROCESS, lambda thing: [b"of a process", type(thing).__name__]),
        contextvars.ContextVar: lambda thing: [b"context variable", part(thing.name), part(default_of(thing))],
        weakref.WeakSet: lambda thing: [b"weak"],
        weakref.WeakKeyDictionary: lambda thing: [b"weak"],  # they are caches; singledispatch has one
        weakref.WeakValueDictionary: lambda thing: [b"weak"],
    }
