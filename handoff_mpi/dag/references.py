"""Finds handles and :class:`Argument` objects among the constants of functions.

Ranks put a value in place of each reference that pickle meets in a constant, so an object that can be pickled may hold
some: containers of any class, dataclasses, arrays of objects. Code is the exception: what a function or a class refers
to (closure, globals, defaults, attributes) is shared by all of its calls, so references in there are refused.
"""

from __future__ import annotations

import dis
import functools
import gc
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

from handoff_mpi.dag.call_template import Placeholder
from handoff_mpi.dag.function import DECLARES, REFERENCES, Argument, Function, input_id
from handoff_mpi.dag.handle import ArrayElement, ArraySlice, Handle
from handoff_mpi.formatting import show
from handoff_mpi.imported_modules import imported_module
from handoff_mpi.serialization import EncodingError, dumps

Reference: TypeAlias = "Handle | Argument"

#: Constants of these types hold no references.
ATOMS: frozenset[type] = frozenset(
    {type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...), type(NotImplemented), Placeholder}
)
#: Nor do those that these modules define.
_LEAF_MODULES = frozenset({"datetime", "decimal", "fractions", "ipaddress", "pathlib", "re", "uuid"})
#: What these refer to does not count as part of a constant.
_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType)
_SKIPPED = ATOMS | {type}
#: References of which there is something to check.
SPECIAL: frozenset[type] = frozenset({Argument, ArrayElement, ArraySlice})
#: So many objects are looked at before pickle is asked instead.
_MAX_LOOKED_AT = 20_000
_MAX_LINES = 20
_MAX_WRAPPED = 100
#: Globals of these types are looked into.
_HOLDERS = (*REFERENCES, list, tuple, dict)


class ReferenceFinder:
    """Finds the references in constants; each object of a class of its own is looked at once.

    Attributes:
        has_special: whether any reference found so far is more than the handle of a value: an :class:`Argument`, which
            may name a codec, or a handle of some elements of an array.
    """

    def __init__(self) -> None:
        self.has_special = False
        self._known: dict[int, tuple[object, list[Reference]]] = {}

    def find(self, values: Iterable[Any]) -> list[Reference]:
        """Return the references in ``values``, each object once, in order of appearance; to any depth."""
        values = list(values)
        if ATOMS.issuperset(map(type, values)):
            return []
        found: dict[int, Reference] = {}
        seen: set[int] = set()
        stack = values[::-1]
        while stack:
            item = stack.pop()
            kind = type(item)
            if kind in REFERENCES:
                found[id(item)] = item
                self.has_special |= kind in SPECIAL
            elif kind in ATOMS or id(item) in seen:
                continue
            elif kind in _PARTS:
                seen.add(id(item))
                parts = _PARTS[kind](item)
                if not ATOMS.issuperset(map(type, parts)):
                    stack += reversed(parts)
            else:
                seen.add(id(item))
                inside = self._in_object(item)
                found.update((id(each), each) for each in inside)
                self.has_special |= not SPECIAL.isdisjoint(map(type, inside))
        return list(found.values())

    def _in_object(self, item: object) -> list[Reference]:
        known = self._known.get(id(item))
        if known is None:
            known = self._known[id(item)] = item, _pickled_references(item) if _may_hold_references(item) else []
        return known[1]


def inputs_of(function: Function, finder: ReferenceFinder | None = None) -> list[Hashable]:
    """Return the ids of the functions whose values ``function`` takes, each once, in order of appearance."""
    ids = [*taken_whole(function, finder), *function.linked_ids]
    return list(dict.fromkeys(ids)) if len(ids) > 1 else ids


def taken_whole(function: Function, finder: ReferenceFinder | None = None) -> list[Hashable]:
    """Return the ids of the functions whose values it takes whole: of an array, not element by element."""
    ids = [input_id(reference) for reference in function.args]
    if function.extra_args or function.kwargs:
        constants = [*function.extra_args, *function.kwargs.values()]
        ids += [reference.id for reference in (finder or ReferenceFinder()).find(constants)]
    return [*ids, *function.element_ids]


def inline_ids(function: Function, inlines: Mapping[Hashable, Function]) -> list[Hashable]:
    """Return the ids of the inline functions that are evaluated for ``function``."""
    found: dict[Hashable, None] = {}
    stack = [function]
    while stack:
        ids = [id for id in inputs_of(stack.pop()) if id in inlines and id not in found]
        found.update(dict.fromkeys(ids))
        stack += [inlines[id] for id in ids]
    return list(found)


def _in_order(items: Any) -> list[Any]:
    """Return the items of a set, its references last, by id: handles hash differently in each process."""
    references = [item for item in items if type(item) in REFERENCES]
    others = [item for item in items if type(item) not in REFERENCES]
    return [*others, *sorted(references, key=lambda each: show(input_id(each), 1000))]


_PARTS: dict[type, Any] = {
    list: list,
    tuple: list,
    dict: lambda item: [*item.keys(), *item.values()],
    set: _in_order,
    frozenset: _in_order,
}


def _may_hold_references(item: object) -> bool:
    """Whether a reference can be reached from ``item``: a quick look, which runs no code of users."""
    stack = [item]
    seen: set[int] = set()
    while stack:
        each = stack.pop()
        kind = type(each)
        if kind in REFERENCES:
            return True
        if kind in ATOMS or id(each) in seen or _is_leaf(kind):
            continue
        seen.add(id(each))
        if len(seen) > _MAX_LOOKED_AT:
            return True
        stack += [part for part in _referents(each, kind) if type(part) not in _SKIPPED]
    return False


def _is_leaf(kind: type) -> bool:
    return issubclass(kind, _CODE) or kind in DECLARES or _module_of(kind) in _LEAF_MODULES


def _module_of(kind: type) -> str:
    """Return the name of the module of a class, also where the class or its metaclass has put something else there."""
    try:
        module = type.__dict__["__module__"].__get__(kind)
    except AttributeError:
        return ""
    return module if type(module) is str else ""


def _referents(item: Any, kind: type) -> list[object]:
    numpy = imported_module("numpy")
    if numpy is not None and issubclass(kind, numpy.ndarray) and item.dtype.hasobject:
        return [*gc.get_referents(item), *item.ravel().tolist()]
    return gc.get_referents(item)


def _pickled_references(item: object) -> list[Reference]:
    """Return the references that pickle meets in ``item``, outside of code."""
    found: dict[int, Reference] = {}

    def note(reference: Reference) -> tuple[object, ...]:
        found[id(reference)] = reference
        return int, ()

    try:
        dumps(item, dict.fromkeys(REFERENCES, note))
    except EncodingError:
        pass  # what sends the item later says why it cannot be pickled
    return list(found.values())


# -- where references hide ----------------------------------------------------------------------------


def describe_hidden(value: object, name: str, resolved: Collection[int] = ()) -> list[str]:
    """Return where references stand in ``value``, such as ``x[0], closure variable 'h' of f()``, a line each.

    Args:
        resolved: identities of those that get their values, unless they stand in code.
    """
    lines: list[str] = []
    seen: set[int] = set()
    queue: list[tuple[object, str, bool]] = [(value, name, False)]
    for item, path, is_in_code in queue:
        if len(seen) > _MAX_LOOKED_AT or len(lines) > _MAX_LINES:
            break
        if type(item) in REFERENCES:
            if is_in_code or id(item) not in resolved:
                lines.append(f"{path} holds {show(item)}")
        elif type(item) not in ATOMS and id(item) not in seen:
            seen.add(id(item))
            is_code = is_in_code or issubclass(type(item), (FunctionType, type))
            queue += ((part, place, is_code) for part, place in _named_parts(item, path))
    return lines


def hidden_references(function: Function) -> list[str]:
    """Return where references stand that no value can be put into the place of, a line each."""
    parts: list[tuple[str, object]] = [("its code", function.code)]
    parts += [(f"extra_args[{index}]", value) for index, value in enumerate(function.extra_args)]
    parts += [(f"kwargs[{key!r}]", value) for key, value in function.kwargs.items()]
    found = ReferenceFinder().find([*function.extra_args, *function.kwargs.values()])
    for argument in (each for each in (*function.args, *found) if isinstance(each, Argument)):
        parts += [(f"{side} of {show(argument)}", getattr(argument, side)) for side in ("serialize", "deserialize")]
    resolved = set(map(id, found))
    return [line for name, value in parts for line in describe_hidden(value, name, resolved)]


def hidden_in_globals(code: object) -> list[str]:
    """Return which globals that ``code`` reads hold references; those of what ranks import by name are not pickled."""
    for _ in range(_MAX_WRAPPED):
        if type(code) is functools.partial:
            code = code.func
    function = code.__func__ if type(code) is MethodType else code
    if type(function) is not FunctionType:
        return []
    held = [function.__globals__.get(name) for name in _all_names(function.__code__)]
    if not any(type(each) in _HOLDERS for each in held):
        return []
    name = f"{function.__name__}()"
    values = [(each, f"global {key!r} of {name}") for key, each in globals_of(function) if type(each) in _HOLDERS]
    return [line for each, path in values for line in describe_hidden(each, path)]


def _named_parts(item: Any, path: str) -> Iterator[tuple[object, str]]:
    kind = type(item)
    if kind is FunctionType:
        yield from ((each, f"{path}, {place}") for each, place in _parts_of_function(item))
    elif issubclass(kind, ModuleType) or kind in DECLARES:
        return
    elif issubclass(kind, type):
        yield from ((each, f"{path}, attribute {key!r} of class {item.__name__}") for key, each in vars(item).items())
    elif issubclass(kind, dict):
        yield from ((key, f"a key of {path}") for key in dict.keys(item))
        yield from ((each, f"{path}[{show(key)}]") for key, each in dict.items(item))
    elif issubclass(kind, (list, tuple)):
        yield from ((each, f"{path}[{index}]") for index, each in enumerate(item))
    else:
        yield from _parts_of_object(item, path)


def _parts_of_object(item: object, path: str) -> Iterator[tuple[object, str]]:
    named = _attributes(item)
    yield from ((each, f"{path}.{name}") for name, each in named.items())
    yield type(item), path
    known = {id(each) for each in named.values()} | {id(getattr(item, "__dict__", None))}
    for each in _referents(item, type(item)):
        if id(each) not in known and not issubclass(type(each), _CODE[:2]):
            yield each, f"{path} ({type(item).__name__})"


def _attributes(item: object) -> dict[str, object]:
    names = [name for base in type(item).__mro__ for name in _slots(base)]
    found: dict[str, object] = {}
    for name in names:
        try:
            found[name] = object.__getattribute__(item, name)
        except AttributeError:
            continue
    try:
        found.update(object.__getattribute__(item, "__dict__"))
    except (AttributeError, TypeError):
        pass
    return found


def _slots(base: type) -> tuple[str, ...]:
    slots = base.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(name for name in slots if isinstance(name, str))


def _parts_of_function(function: FunctionType) -> Iterator[tuple[object, str]]:
    name = f"{function.__name__}()"
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield cell.cell_contents, f"closure variable {variable!r} of {name}"
        except ValueError:  # it is empty
            continue
    for each in function.__defaults__ or ():
        yield each, f"a default of {name}"
    for key, each in (function.__kwdefaults__ or {}).items():
        yield each, f"the default of {key!r} of {name}"
    yield from ((each, f"attribute {key!r} of {name}") for key, each in vars(function).items())
    yield from ((each, f"global {key!r} of {name}") for key, each in globals_of(function))


def _all_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if type(each) is CodeType:
            yield from _all_names(each)


def globals_of(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the globals that ``function`` reads, by name; those that can hold nothing are left out."""
    stack: list[CodeType] = [function.__code__]
    while stack:
        code = stack.pop()
        stack += (each for each in code.co_consts if type(each) is CodeType)
        # Attributes have names as globals have; taking code apart to tell them is slow, and hardly ever needed.
        names = [name for name in code.co_names if type(function.__globals__.get(name)) not in ATOMS]
        names = [name for name in names if name in _names_of_globals(code)] if names else names
        for name in names:
            yield name, function.__globals__[name]


def _names_of_globals(code: CodeType) -> set[str]:
    return {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
