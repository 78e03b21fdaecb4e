"""Which global random generators a function draws from: a static look at what its code can reach.

What a function calls is looked up by the names in its code among its globals, closure and defaults; what these call in
the same way, in modules of the user and of installed libraries. Modules of Python itself and of numpy are not followed:
what draws there is known by name. Nothing of the user's is executed.

The look may find too much, which costs microseconds a call: a function that is named and not called, code too large to
follow, or a module that is not loaded yet. It misses what no name in the code leads to: methods of objects that a
function receives, code found by a computed name, C extensions.
"""

from __future__ import annotations

import dis
import enum
import functools
import re
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from handoff_mpi.python_path import is_of_user, source_of


class Generators(enum.IntFlag):
    """A set of global generators. ``UNKNOWN``: the code is too large to follow, or imports what is not loaded yet."""

    NONE = 0
    RANDOM = 1
    NUMPY = 2
    UNKNOWN = 4


NONE, RANDOM, NUMPY, UNKNOWN = Generators.NONE, Generators.RANDOM, Generators.NUMPY, Generators.UNKNOWN

#: The most functions and classes that are followed from one reference of a function; beyond that it is unknown.
_MAX_FOLLOWED = 400
_MAX_CONTAINER = 100
#: Constructors of generators that are not global.
_MAKERS = frozenset({"Random", "SystemRandom", "default_rng", "Generator", "RandomState", "SeedSequence", "SFC64"})
_MAKERS |= {"PCG64", "PCG64DXSM", "MT19937", "Philox"}
_MODULES = ("random", "numpy.random", "numpy.random.mtrand")
_ATTRIBUTE_OPS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
#: Instructions that may stand between a name and the attribute that is read of it.
_FILLERS = frozenset({"CACHE", "PUSH_NULL", "PRECALL", "NOP", "EXTENDED_ARG"})
_NOT_FOLLOWED = frozenset({*sys.stdlib_module_names, "cloudpickle", "handoff_mpi", "mpi4py", "numpy"})
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_IMPORT_STATEMENT = re.compile(rb"^\s*(?:import|from)\s+([\w.]+)", re.MULTILINE | re.ASCII)
_MAX_SOURCES = 100
_MISSING = object()
_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
#: Modules of whose objects the attribute ``code`` is what they call: of a task, and of a fold.
_WITH_CODE = frozenset({"handoff_mpi.dag.task", "handoff_mpi.dag.folding"})
_BOUND = frozenset({MethodType, BuiltinFunctionType})
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


class DrawFinder:
    """Finds which generators codes draw from; what several of them refer to is followed once."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[object, Generators] = weakref.WeakKeyDictionary()

    def find(self, code: object) -> Generators:
        """Return the generators that ``code`` draws from."""
        found = NONE
        try:
            for each in _reached(code):
                found |= each if type(each) is Generators else self._follow(each)
        except Exception:  # objects of the user may answer anything
            found = RANDOM | UNKNOWN
        return found

    def _follow(self, first: object) -> Generators:
        if not issubclass(type(first), (FunctionType, type)):
            return _follow(first)
        known = self._known.get(first)
        if known is None:
            known = self._known[first] = _follow(first)
        return known


def names_reached(code: object) -> set[str]:
    """Return the names of globals and attributes in ``code`` and in what it calls of the user's own modules."""
    names: set[str] = set()
    for each in islice(_walk(code), _MAX_FOLLOWED):
        if type(each) is FunctionType:
            names.update(all_names(each.__code__))
    return names


def objects_reached(code: object) -> Iterator[tuple[FunctionType, str, object]]:
    """Yield the variables outside of it that ``code`` refers to, and those of what it calls: function, name, value."""
    for each in islice(_walk(code), _MAX_FOLLOWED):
        if type(each) is FunctionType:
            yield from ((each, *named) for named in _named(each))
            yield from ((each, f"a default of {each.__name__}()", value) for value in each.__defaults__ or ())


def all_names(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes in ``code`` and in the code within it."""
    yield from code.co_names
    for each in code.co_consts:
        if type(each) is CodeType:
            yield from all_names(each)


def _follow(first: object) -> Generators:
    found = NONE
    for followed, each in enumerate(_walk(first)):
        if type(each) is Generators:
            found |= each
        if followed > _MAX_FOLLOWED:
            return RANDOM | UNKNOWN
        if found & RANDOM and found & NUMPY:
            break
    return found


def _walk(first: object) -> Iterator[object]:
    """Yield all that can be reached, each once, the nearest first: functions, classes, generators, other objects."""
    waiting = deque([first])
    seen: set[int] = set()
    anchors: list[object] = []  # what is known by identity must stay alive
    while waiting:
        each = waiting.popleft()
        if type(each) is Generators:
            yield each
        elif type(each) not in _PLAIN and id(each) not in seen:
            seen.add(id(each))
            anchors.append(each)
            yield each
            waiting += _reached(each)


def _reached(item: Any) -> Iterator[object]:
    """Yield what ``item`` may call, and the generators that it draws from."""
    kind = type(item)
    if kind in _PLAIN or isinstance(item, ModuleType):
        return
    if kind is FunctionType:
        if _is_followed(item.__globals__.get("__name__")):
            yield from _of_function(item)
    elif kind in _BOUND:
        yield from _of_bound(item)
    elif kind is functools.partial:
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, (staticmethod, classmethod, functools._lru_cache_wrapper)):
        yield item.__wrapped__
    elif isinstance(item, property):
        yield from (item.fget, item.fset)
    elif kind in (list, tuple, set, frozenset):
        yield from islice(item, _MAX_CONTAINER)
    elif kind is dict:
        yield from islice(item.values(), _MAX_CONTAINER)
    elif issubclass(kind, type):
        if _is_followed(item.__module__):
            yield from (*vars(item).values(), *item.__bases__)
    elif kind.__module__ in _WITH_CODE:
        yield item.code
    else:
        yield kind
        if _is_followed(kind.__module__) and kind.__dictoffset__:
            yield from islice(object.__getattribute__(item, "__dict__").values(), _MAX_CONTAINER)


def _of_function(function: FunctionType) -> Iterator[object]:
    for _, value in _named(function):
        yield value
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    yield from _generators_named(function)


def _named(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield globals, closure variables and attributes of modules that the code of a function names."""
    names = frozenset(all_names(function.__code__))
    yield from _members(_globals_named(function, names), names, set())
    for name in _imported(function.__code__):
        if name in sys.modules and _is_followed(name):
            yield from _members(vars(sys.modules[name]), names, set())
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it is empty
            continue


def _globals_named(function: FunctionType, names: frozenset[str]) -> dict[str, object]:
    """Return the globals that ``names`` mean. An attribute may be called as one of them: where that would make a draw
    of it, as in ``np.random``, the code is taken apart.
    """
    namespace = function.__globals__
    found = {name: namespace[name] for name in names if name in namespace}
    if any(map(_is_of_generator, found.values())):
        loaded = set(_globals_loaded(function.__code__))
        found = {name: value for name, value in found.items() if name in loaded}
    return found


def _globals_loaded(code: CodeType) -> Iterator[str]:
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL_OPS)
    for each in code.co_consts:
        if type(each) is CodeType:
            yield from _globals_loaded(each)


def _is_of_generator(value: object) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__ in _MODULES
    return type(value) in _BOUND and any(type(each) is Generators for each in _of_bound(value))


def _members(namespace: dict[str, object], names: frozenset[str], seen: set[int]) -> Iterator[tuple[str, object]]:
    """Yield what ``names`` mean in a namespace, and in the modules that they mean there."""
    seen.add(id(namespace))
    for name in names:
        value = namespace.get(name, _MISSING)
        if value is _MISSING or type(value) in _PLAIN:
            continue
        if not isinstance(value, ModuleType):
            yield name, value
        elif _is_followed(value.__name__) and id(vars(value)) not in seen:
            yield from _members(vars(value), names, seen)


def _generators_named(function: FunctionType) -> Iterator[Generators]:
    """Yield the generators whose modules the code of a function, or code within it, names."""
    names = frozenset(all_names(function.__code__))
    imported = set(_imported(function.__code__))
    found = _globals_named(function, names)
    modules = {name: value.__name__ for name, value in found.items() if isinstance(value, ModuleType)}
    named = {"random", *(name for name, module in modules.items() if module in _MODULES)}
    parents = {"np", "numpy", *(name for name, module in modules.items() if module == "numpy")}
    loaded = imported.union(modules.values())
    if any(name not in sys.modules and _may_draw(name) for name in imported):
        yield RANDOM | UNKNOWN
    has_random, has_numpy = "random" in loaded, not loaded.isdisjoint(_MODULES[1:])
    has_numpy |= "numpy" in loaded and "random" in names
    if (has_random or has_numpy) and (names.isdisjoint(_MAKERS) or _draws(function.__code__, named, parents)):
        yield (RANDOM if has_random else NONE) | (NUMPY if has_numpy else NONE)


def _draws(code: CodeType, modules: set[str], parents: set[str]) -> bool:
    """Whether code uses more of ``modules``, variables or attributes of ``parents``, than what makes generators:
    ``random.random()``, but not ``random.Random(1).random()``.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname not in _FILLERS]
    latest = ""
    for before, step, following in zip([None, *steps], steps, [*steps[1:], None], strict=False):
        if step.opname == "IMPORT_NAME":
            latest = step.argval
        is_loaded = step.opname.startswith("LOAD_") and step.argval in modules
        if step.opname in _ATTRIBUTE_OPS:
            is_loaded &= before is not None and before.argval in parents
        if is_loaded and (following is None or following.argval not in _MAKERS):
            return True
        if step.opname == "IMPORT_FROM" and latest in _MODULES and step.argval not in _MAKERS:
            return True
    return any(_draws(each, modules, parents) for each in code.co_consts if type(each) is CodeType)


def _of_bound(item: Any) -> Iterator[object]:
    """Yield the generator of a function such as ``from random import choice``, what is called by another method."""
    owner = item.__self__
    random, numpy = sys.modules.get("random"), sys.modules.get("numpy.random")
    if random is not None and owner is getattr(random, "_inst", _MISSING):
        yield RANDOM
    elif numpy is not None and owner is getattr(getattr(numpy, "mtrand", None), "_rand", _MISSING):
        yield NUMPY
    elif type(item) is MethodType:
        yield from (item.__func__, type(owner))


def _imported(code: CodeType) -> Iterator[str]:
    """Yield the names of the modules that the code, or code within it, imports."""
    if _IMPORT_NAME in code.co_code[::2]:
        yield from (step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME" and step.argval)
    for each in code.co_consts:
        if type(each) is CodeType:
            yield from _imported(each)


def _may_draw(module: str) -> bool:
    """Whether a module that is not loaded may draw: one of the user only if its source, or that of what it imports,
    names ``random``.
    """
    waiting = [module]
    seen: set[str] = set()
    while waiting and len(seen) < _MAX_SOURCES:
        name = waiting.pop()
        if name in seen or not _is_followed(name):
            continue
        seen.add(name)
        file = source_of(name)
        if file is None:
            continue
        if not is_of_user(name) or not file.endswith(".py"):
            return True
        try:
            source = Path(file).read_bytes()
        except OSError:
            return True
        if b"random" in source:
            return True
        waiting += (match.decode() for match in _IMPORT_STATEMENT.findall(source))
    return bool(waiting)


def _is_followed(module: object) -> bool:
    return type(module) is str and module.partition(".")[0] not in _NOT_FOLLOWED
