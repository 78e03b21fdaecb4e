"""The parts that pickle makes a value of, so that a message can name the innermost one that is at fault."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

from handoff_mpi.dag.function import AS_LIST, REFERENCES, Argument, Function
from handoff_mpi.dag.references import ATOMS, globals_of
from handoff_mpi.formatting import show
from handoff_mpi.imported_modules import imported_module
from handoff_mpi.serialization import is_sent_by_name

#: A part of a value, and what it is there: "attribute x", "item 3".
Part: TypeAlias = "tuple[str, Any]"

#: So many parts are tried, or listed.
MAX_TRIED = 2_000
MAX_LISTED = 300
MAX_DEPTH = 50
#: What a class has of its own accord says nothing about a fault.
_OF_EVERY_CLASS = frozenset({"__dict__", "__weakref__", "__module__", "__doc__", "__qualname__"})


def roots_of_code(functions: Sequence[Function]) -> list[Part]:
    """Return the code that calls of the first of ``functions`` need; the others are its inline functions."""
    roots: list[Part] = []
    for each, whose in _with_names(functions):
        roots.append((f"the code{whose}", each.code))
        roots += [
            (f"{side} of argument {number}{whose}", getattr(argument, side))
            for number, argument in enumerate(each.args, 1)
            if type(argument) is Argument
            for side in ("serialize", "deserialize")
        ]
    return roots


def roots_of_values(functions: Sequence[Function]) -> list[Part]:
    """Return the constants among the arguments of the first of ``functions``, and of its inline functions."""
    roots: list[Part] = []
    for each, whose in _with_names(functions):
        first = 1 + (1 if each.argument_inclusion == AS_LIST else len(each.args))
        roots += [(f"argument {number}{whose}", value) for number, value in enumerate(each.extra_args, first)]
        roots += [(f"argument {name}{whose}", value) for name, value in each.kwargs.items()]
    return roots


def _with_names(functions: Sequence[Function]) -> Iterator[tuple[Function, str]]:
    yield functions[0], ""
    yield from ((each, f" of the inline function {show(each.id)}") for each in functions[1:])


def find_innermost(roots: Iterable[Part], is_at_fault: Callable[[object], object]) -> str:
    """Return where the innermost part at fault is, as "attribute x of argument 1"; an empty string if nowhere."""
    return _Search(is_at_fault).search(roots, "")


class _Search:
    """Goes down into the parts that are at fault; one that is so as it refers to a part above it is passed over."""

    def __init__(self, is_at_fault: Callable[[object], object]) -> None:
        self._is_at_fault = is_at_fault
        self._tried: dict[int, object] = {}  # kept alive, as they are known by identity
        self._above: set[int] = set()

    def search(self, parts: Iterable[Part], path: str) -> str:
        """Return where the innermost of ``parts`` is, which are themselves at ``path``."""
        last_resort = ""
        for phrase, part in parts:
            if not self._is_new(part) or not self._is_at_fault(part):
                continue
            here, inner = f"{phrase} of {path}" if path else phrase, parts_of(part)
            found = self._search_below(part, inner, here)
            if found or not any(id(each) in self._above for _, each in inner):
                return found or here
            last_resort = last_resort or here
        return last_resort

    def _search_below(self, part: object, inner: list[Part], path: str) -> str:
        if len(self._above) >= MAX_DEPTH:
            return path
        self._above.add(id(part))
        try:
            return self.search(inner, path)
        finally:
            self._above.discard(id(part))

    def _is_new(self, part: object) -> bool:
        """Whether ``part`` is to be tried, and was not yet."""
        if not _may_be_at_fault(part) or id(part) in self._tried or len(self._tried) >= MAX_TRIED:
            return False
        self._tried[id(part)] = part
        return True


def _may_be_at_fault(part: object) -> bool:
    return type(part) not in ATOMS and type(part) not in REFERENCES


def list_parts(roots: Iterable[Part]) -> list[object]:
    """Return the first parts of ``roots``, and of their parts, each once."""
    found: dict[int, object] = {}
    queue = [part for _, part in roots]
    for part in queue:
        if len(found) >= MAX_LISTED:
            break
        if not _may_be_at_fault(part) or id(part) in found:
            continue
        found[id(part)] = part
        queue += [each for _, each in parts_of(part)]
    return list(found.values())


def parts_of(value: object) -> list[Part]:
    """Return what pickle makes ``value`` of; code of the user may run for that."""
    try:
        return list(_parts(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # it cannot be taken apart, which may be what is wrong with it
        return []


def _parts(value: Any) -> Iterator[Part]:
    kind = type(value)
    if (kind is FunctionType or issubclass(kind, type)) and is_sent_by_name(value):
        return
    if kind is FunctionType:
        yield from _parts_of_function(value)
    elif kind is MethodType:
        yield from (("the object", value.__self__), ("the function", value.__func__))
    elif kind is functools.partial:
        yield "the function", value.func
        yield from ((f"argument {number}", each) for number, each in enumerate(value.args, 1))
        yield from ((f"argument {show(name)}", each) for name, each in value.keywords.items())
    elif issubclass(kind, type):
        yield from ((f"attribute {name}", each) for name, each in vars(value).items() if name not in _OF_EVERY_CLASS)
    elif kind is dict:
        yield from _parts_of_mapping(value.items())
    elif kind in (list, tuple, set, frozenset):
        yield from ((f"item {index}", each) for index, each in enumerate(value))
    elif _is_array_of_objects(value):
        yield from ((f"item {index}", each) for index, each in enumerate(value.ravel().tolist()))
    elif not issubclass(kind, ModuleType):
        yield from _parts_of_object(value)


def _is_array_of_objects(value: Any) -> bool:
    numpy = imported_module("numpy")
    return numpy is not None and issubclass(type(value), numpy.ndarray) and bool(value.dtype.hasobject)


def _parts_of_function(function: FunctionType) -> Iterator[Part]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"closure variable {name}", cell.cell_contents
        except ValueError:  # it is empty
            continue
    yield from (("a default", each) for each in function.__defaults__ or ())
    yield from ((f"the default of {name}", each) for name, each in (function.__kwdefaults__ or {}).items())
    yield from ((f"attribute {name}", each) for name, each in vars(function).items())
    yield from ((f"global {name}", each) for name, each in globals_of(function))


def _parts_of_mapping(items: Iterable[tuple[object, object]]) -> Iterator[Part]:
    for key, each in items:
        yield f"key {show(key)}", key
        yield f"item {show(key)}", each


def _parts_of_object(value: object) -> Iterator[Part]:
    reduced = value.__reduce_ex__(5)
    if isinstance(reduced, str):
        return
    _, args, state, items, pairs = (*reduced, None, None, None)[:5]
    yield from (
        ("the class" if isinstance(each, type) else f"constructor argument {number}", each)
        for number, each in enumerate(args, 1)
    )
    yield from _parts_of_state(state)
    yield from ((f"item {index}", each) for index, each in enumerate(items or ()))
    yield from _parts_of_mapping(pairs or ())


def _parts_of_state(state: Any) -> Iterator[Part]:
    """A state is mostly the attributes; of a class with slots it is a pair of mappings."""
    is_pair = type(state) is tuple and len(state) == 2 and type(state[1]) is dict
    for each in state if is_pair else (state,):
        if type(each) is dict:
            yield from ((f"attribute {name}", part) for name, part in each.items())
        elif each is not None:
            yield "the state", each
