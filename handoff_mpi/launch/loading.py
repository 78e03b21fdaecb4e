"""Loading ``dag.py``: once, on rank 0, its functions made to travel by value."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from handoff_mpi.dag import DAG
from handoff_mpi.encoding import carry_by_value
from handoff_mpi.errors import DAGError, HandoffError, UsageError


@dataclass(slots=True)
class DagFile:
    """What ``dag.py`` holds.

    Attributes:
        path: its file.
        setup: its ``setup(rank)``, if it has one.
        build: gives its DAG.
    """

    path: Path
    setup: Callable[[int], Any] | None
    build: Callable[[], DAG]


def load_dag_file(target: str, args: list[str]) -> DagFile:
    """Load ``path`` or ``path:name`` and return what it holds.

    Args:
        target: a Python file with a ``dag`` or a ``build(args)``; ``:name`` picks another name.
        args: what followed ``--``; given to ``build``.

    Raises:
        UsageError: there is no such file, it cannot be loaded, or holds no DAG.
    """
    path, name = _split(target)
    module = _import(path)
    setup = getattr(module, "setup", None)
    if setup is not None and not callable(setup):
        raise UsageError(f"{path}: setup must be a function of the rank, not {setup!r}")
    return DagFile(path, setup, lambda: _dag(module, path, name, args))


def _split(target: str) -> tuple[Path, str | None]:
    path, colon, name = target.rpartition(":")
    if not colon or Path(target).exists():
        path, name = target, ""
    file = Path(path).absolute()
    if not file.is_file():
        kind = "is a directory" if file.is_dir() else "does not exist"
        raise UsageError(f"{path} {kind}; name the Python file that holds the DAG")
    return file, name or None


def _import(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    name = "handoff_dag_" + "".join(c if c.isalnum() else "_" for c in path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except DAGError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{path} cannot be loaded: {_where(error, path)}") from error
    carry_by_value(module)
    return module


def _dag(module: ModuleType, path: Path, name: str | None, args: list[str]) -> DAG:
    if name is None:
        may_build = bool(args) and callable(getattr(module, "build", None))
        name = "dag" if isinstance(getattr(module, "dag", None), DAG) and not may_build else "build"
    found = getattr(module, name, None)
    if found is None:
        how = f"define `dag = DAG(...)` or `def build(args)` in it, or name one as {path.name}:NAME"
        raise UsageError(f"{path} holds no {'DAG' if name == 'build' else repr(name)}: {how}")
    if isinstance(found, DAG):
        if args:
            raise UsageError(f"{path}: arguments after -- are for a build(args) function, and {name} is a DAG")
        return found
    if not callable(found):
        raise UsageError(f"{path}: {name} is {found!r}, neither a DAG nor a function that builds one")
    try:
        dag = found(args)
    except HandoffError:
        raise
    except SystemExit as error:  # argparse inside build(args)
        if not error.code:
            raise  # it was asked for help, and gave it
        raise UsageError(f"{path}: {name}({args!r}) ended with {error.code!r}") from error
    except Exception as error:
        raise UsageError(f"{path}: {name}({args!r}) failed: {_where(error, path)}") from error
    if not isinstance(dag, DAG):
        raise UsageError(f"{path}: {name}({args!r}) returned {dag!r}, not a DAG")
    return dag


def _where(error: BaseException, path: Path) -> str:
    """Return an error on one line, with the line of ``path`` it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"line {lines[-1]}: " if lines else ""
    return f"{place}{type(error).__name__}: {error}".split("\n")[0]
