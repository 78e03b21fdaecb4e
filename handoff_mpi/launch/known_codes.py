"""Remembers how functions are encoded that certainly have not changed since.

A map sends its function as it is at that moment. Most are sent by name, which takes some microseconds. One that a
script defines is sent with the globals that it uses, which takes a hundred: as much as a small map. It need not be
encoded again while all that it leads to is immutable and the same: its code, its defaults, its closure and its globals.
What leads to a list, to an array or to an instance may have changed, and is encoded for each map.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from handoff_mpi.annotation_names import names_in_annotations
from handoff_mpi.carried_modules import carried_as
from handoff_mpi.serialization import encode_code, is_sent_by_name
from handoff_mpi.worker.draws import all_names

#: So many functions are remembered, those that were mapped last.
_MAX_KNOWN = 16
_MISSING = object()
_IMMUTABLE = frozenset({int, float, complex, bool, str, bytes, type(None), BuiltinFunctionType})


class _State:
    """The state of a function and of those that it names, as far as they travel by value.

    Attributes:
        is_certain: whether nothing that it leads to could change without :meth:`is_same` seeing it.
    """

    def __init__(self, function: FunctionType) -> None:
        self.is_certain = True
        self._globals: list[tuple[dict[str, Any], str, object]] = []
        self._functions: dict[FunctionType, tuple[object, ...]] = {}
        self._waiting = [function]
        while self._waiting and self.is_certain:
            each = self._waiting.pop()
            if each not in self._functions:
                self._functions[each] = _parts(each)
                self._look_into(each)

    def is_same(self) -> bool:
        """Whether all is as it was."""
        for namespace, name, value in self._globals:
            if namespace.get(name, _MISSING) is not value:
                return False
        for function, parts in self._functions.items():
            for before, now in zip(parts, _parts(function), strict=False):
                if before is not now:
                    return False
        return True

    def _look_into(self, function: FunctionType) -> None:
        if function.__kwdefaults__ or vars(function):
            self.is_certain = False
        for value in (*(function.__defaults__ or ()), *function.__annotations__.values()):
            self._take(value)
        for cell in function.__closure__ or ():
            try:
                self._take(cell.cell_contents)
            except ValueError:  # it is empty, and may be filled
                self.is_certain = False
        namespace = function.__globals__
        for name in {*all_names(function.__code__), *names_in_annotations(function, namespace)}:
            value = namespace.get(name, _MISSING)
            self._globals.append((namespace, name, value))
            if value is not _MISSING:
                self._take(value)

    def _take(self, value: object) -> None:
        kind = type(value)
        if kind in _IMMUTABLE:
            return
        if kind is ModuleType:
            self.is_certain &= not carried_as(value.__name__)  # type: ignore[attr-defined]
        elif kind is tuple:
            for each in value:  # type: ignore[attr-defined]
                self._take(each)
        elif kind is FunctionType and not is_sent_by_name(value):
            self._waiting.append(value)  # type: ignore[arg-type]
        elif kind is not FunctionType:
            self.is_certain &= issubclass(kind, type) and is_sent_by_name(value)


class _Name:
    """The name of a function that is sent by name.

    Attributes:
        is_certain: whether it is sent so.
    """

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        self._module, self._name = function.__module__, function.__qualname__
        self.is_certain = self.is_same() and is_sent_by_name(function)

    def is_same(self) -> bool:
        """Whether the name still stands for it, and it for the name."""
        function, module = self._function, sys.modules.get(self._module)
        if function.__module__ != self._module or function.__qualname__ != self._name:
            return False
        return getattr(module, self._name, None) is function


def _parts(function: FunctionType) -> tuple[object, ...]:
    """Return the parts of a function that may be replaced; as many as before, or others."""
    cells = function.__closure__ or ()
    contents = [_MISSING if (found := _content(cell)) is cell else found for cell in cells]
    sizes = len(vars(function)), function.__kwdefaults__ is None
    return (function.__code__, function.__defaults__, *sizes, *contents)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return cell


class KnownCodes:
    """Encodes functions, and remembers those that have not changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[FunctionType, object], tuple[_State | _Name, bytes]] = {}
        self._latest: Callable[[], object] = _nothing

    def encode(self, function: object, code: Callable[..., Any], how: object) -> bytes:
        """Return ``code`` encoded, which calls ``function`` in the way that ``how`` stands for.

        Raises:
            EncodingError: it cannot be sent.
        """
        if type(function) is not FunctionType:
            return encode_code(code)
        known = self._known.pop((function, how), None)
        if known is None and self._latest() is not function:  # many are made for one map each
            self._latest = weakref.ref(function)
            return encode_code(code)
        if known is None or (known[0].is_certain and not known[0].is_same()):
            state = _State if carried_as(function.__module__) else _Name
            known = state(function), encode_code(code)
        self._known[function, how] = known
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return known[1] if known[0].is_certain else encode_code(code)


def _nothing() -> None:
    """Stands for a reference to a function where there was none."""
