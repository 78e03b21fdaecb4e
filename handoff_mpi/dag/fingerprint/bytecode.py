"""Reads code objects: their instructions, constants, and the globals that they use."""

from __future__ import annotations

import dis
import marshal
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handoff_mpi.dag.fingerprint.values import METADATA

_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CONSTANT_OPS = frozenset({"LOAD_CONST", "LOAD_SMALL_INT"})
_HAS_CONST = frozenset(dis.hasconst)
_HAS_NAME = frozenset(dis.hasname)
_HAS_DOCSTRING_FLAG = 0x4000000  # from Python 3.13 on

#: What an import statement imports: its level, the module's name, and the names that are taken from it.
Import: TypeAlias = "tuple[int, str, tuple[str, ...]]"


@dataclass(slots=True)
class _Facts:
    """The content of one code object, without the code objects inside it.

    Attributes:
        signature: its arguments, variables and flags.
        stream: its instructions, with names instead of their numbers, and constants left out.
        constants: these, in the order of use.
        globals: the names of the globals that it reads.
        imports: what it imports.
    """

    signature: bytes
    stream: bytes
    constants: list[object]
    globals: set[str] = field(default_factory=set)
    imports: set[Import] = field(default_factory=set)


class Codes:
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

    def imports(self, code: types.CodeType) -> list[Import]:
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
        if name == "STORE_NAME" and step.argval in METADATA and loaded:
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
