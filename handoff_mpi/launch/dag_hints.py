"""Why a file holds no DAG, in words: what it holds instead, and where in it one is made."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from handoff_mpi.dag import DAG
from handoff_mpi.formatting import one_line, show, type_name
from handoff_mpi.suggestions import did_you_mean

_MAX_NBYTES = 5_000_000
_MAX_LISTED = 5


def describe_no_dag(module: ModuleType, path: Path, name: str | None) -> str:
    """Return that ``module``, loaded from ``path``, holds nothing of that name, and what to do.

    Args:
        name: what was asked for; None for a ``dag`` or a ``build``.
    """
    held = {key: value for key, value in vars(module).items() if not key.startswith("__")}
    dags = [key for key, value in held.items() if isinstance(value, DAG)]
    if name is not None:
        known = dags or [key for key, value in held.items() if callable(value)]
        return f"{path} holds no {show(name)}{did_you_mean(name, known, shown=_shown) or _listed(dags)}"
    if dags:
        return f"{path} holds no DAG named dag{_listed(dags)}: name one as {path.name}:{_shown(dags[0])}"
    return f"{path} holds no DAG: {_where_it_is(held, path)}"


def _where_it_is(held: dict[str, object], path: Path) -> str:
    if "dag" in held:
        return f"its dag is {_article(held['dag'])}; make it `dag = DAG(...)`, or define `def build(args)`"
    usual = f"define `dag = DAG(...)` or `def build(args)` in it, or name one as {path.name}:NAME"
    return next(_made_in(_parse(path), path), usual)


def _article(thing: object) -> str:
    return "None" if thing is None else f"of the class {type_name(thing)}, not a DAG"


def _listed(dags: list[str]) -> str:
    if not dags:
        return ""
    more = f" and {len(dags) - _MAX_LISTED:,} more" if len(dags) > _MAX_LISTED else ""
    return f"; it holds the DAG{'s' if len(dags) > 1 else ''} {', '.join(map(_shown, dags[:_MAX_LISTED]))}{more}"


def _shown(name: str) -> str:
    return one_line(name, 80)


def _parse(path: Path) -> list[ast.stmt]:
    try:
        source = path.read_bytes()
        return ast.parse(source).body if len(source) < _MAX_NBYTES else []
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _made_in(body: list[ast.stmt], path: Path) -> Iterator[str]:
    """Yield where the source makes a DAG that a file that is loaded does not hold."""
    makers = {each.name: each for each in body if isinstance(each, ast.FunctionDef) and _makes_dag(each)}
    for each in body:
        if isinstance(each, ast.If) and _is_for_scripts(each.test) and (_makes_dag(each) or _calls(each, makers)):
            where = f"the block `if __name__ == '__main__'` in line {each.lineno}"
            yield f"{where} runs in scripts alone; make the DAG above it, or return it from `def build(args)`"
    for name, each in makers.items():
        remedy = f"make that `def build(args)` that returns it, or name it as {path.name}:{name}"
        yield f"{name}() in line {each.lineno} makes one, but nothing calls it; {remedy}"


def _is_for_scripts(test: ast.expr) -> bool:
    if not isinstance(test, ast.Compare) or len(test.comparators) != 1:
        return False
    sides = (test.left, test.comparators[0])
    names = {each.id for each in sides if isinstance(each, ast.Name)}
    return "__name__" in names and any(isinstance(each, ast.Constant) and each.value == "__main__" for each in sides)


def _makes_dag(tree: ast.AST) -> bool:
    return bool(_called(tree) & {"DAG"})


def _calls(tree: ast.AST, makers: dict[str, ast.FunctionDef]) -> bool:
    return bool(_called(tree) & {*makers, "main"})


def _called(tree: ast.AST) -> set[str]:
    """Return the names of what is called in ``tree``, without what they are attributes of."""
    calls = [each.func for each in ast.walk(tree) if isinstance(each, ast.Call)]
    names = {each.id for each in calls if isinstance(each, ast.Name)}
    return names | {each.attr for each in calls if isinstance(each, ast.Attribute)}
