"""Loading ``dag.py``: once, on rank 0, its functions made to travel by value."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from handoff_mpi.callbacks import call_here
from handoff_mpi.dag import DAG
from handoff_mpi.encoding import carry_by_value
from handoff_mpi.errors import DAGError, HandoffError, Interrupted, UsageError
from handoff_mpi.python_path import add_directories
from handoff_mpi.worker.calls import describe


@dataclass(slots=True)
class DagFile:
    """What ``dag.py`` holds.

    Attributes:
        path: its file.
        setup: its ``setup(rank)``, if it has one.
        build: gives its DAG; None where it was asked for help, and has given it.
    """

    path: Path
    setup: Callable[[int], Any] | None
    build: Callable[[], DAG | None]


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
    if not colon or os.path.lexists(target):
        path, name = target, ""
    problem = _why_no_file(path)
    if problem:
        shown = path if path and path.isprintable() else repr(path)
        raise UsageError(f"{shown} {problem}; name the Python file that holds the DAG")
    return Path(path).absolute(), name or None


def _why_no_file(path: str) -> str:
    try:
        if Path(path).is_file():
            return ""
        if Path(path).is_dir():
            return "is a directory"
        return "is no regular file" if os.path.lexists(path) else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"


def _import(path: Path) -> ModuleType:
    add_directories([str(path.parent)])
    name = "handoff_dag_" + "".join(c if c.isalnum() else "_" for c in path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        call_here(spec.loader.exec_module, (module,), {})
    except SyntaxError as error:
        place = f"{error.filename or path}, line {error.lineno}" if error.lineno else path
        raise UsageError(f"{place}: {error.msg}") from error
    except (DAGError, Interrupted):
        raise
    except BaseException as error:  # of a rank 0 that leaves in any other way, the other ranks would wait for ever
        raise UsageError(f"{path} cannot be loaded: {_where(error, path)}") from error
    carry_by_value(module)
    return module


def _dag(module: ModuleType, path: Path, name: str | None, args: list[str]) -> DAG | None:
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
        dag = call_here(found, (args,), {})
    except HandoffError:
        raise
    except SystemExit as error:  # argparse inside build(args)
        if not error.code:
            return None  # it was asked for help, and gave it
        raise UsageError(f"{path}: {name}({args!r}) ended with {error.code!r}") from error
    except BaseException as error:
        raise UsageError(f"{path}: {name}({args!r}) failed: {_where(error, path)}") from error
    if not isinstance(dag, DAG):
        raise UsageError(f"{path}: {name}({args!r}) returned {dag!r}, not a DAG")
    return dag


def _where(error: BaseException, path: Path) -> str:
    """Return an error on one line, with the line of ``path`` it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"line {lines[-1]}: " if lines else ""
    return f"{place}{type(error).__name__}: {describe(error)[1]}".split("\n")[0]
