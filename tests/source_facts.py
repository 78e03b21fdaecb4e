"""The facts that the tests of style look at, of one file of Python: each is parsed once for all of them."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass, field
from pathlib import Path

_FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
_DOCUMENTED = ast.Module, ast.ClassDef, *_FUNCTIONS


@dataclass
class Facts:
    """The facts of one file.

    Attributes:
        first_lines: of its docstrings.
        constants: the names of its constants.
        lengths: (name of a function, how many lines its body has, its docstring not counted).
        imports: its imports, wherever they stand.
        texts: its strings but docstrings, formatted ones in pieces.
        does_anything: whether it has a statement in a function; others declare types and constants.
    """

    first_lines: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    lengths: list[tuple[str, int]] = field(default_factory=list)
    imports: list[ast.Import | ast.ImportFrom] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    does_anything: bool = False


@functools.cache
def facts_of(path: Path) -> Facts:
    """Return the facts of a file."""
    tree = ast.parse(path.read_text())
    facts = Facts(constants=[*_constants(tree)])
    docs: set[int] = set()
    for node in ast.walk(tree):  # a statement before what is in it
        if isinstance(node, _DOCUMENTED):
            facts.first_lines.append((ast.get_docstring(node) or "").partition("\n")[0])
        if isinstance(node, _FUNCTIONS):
            facts.lengths.append((node.name, _body_lines(node)))
            facts.does_anything |= not all(map(_is_declared, node.body))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            facts.imports.append(node)
        elif isinstance(node, ast.Expr):
            docs.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            facts.texts.append(node.value)
    return facts


def _constants(tree: ast.Module):
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [each for target in targets for each in getattr(target, "elts", [target])]
        yield from (name.id for name in names if isinstance(name, ast.Name) and name.id.isupper())


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[ast.get_docstring(function) is not None :]
    return 1 + body[-1].end_lineno - body[0].lineno if body else 0


def _is_declared(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, ``...`` or ``pass``."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)
