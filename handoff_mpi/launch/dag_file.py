"""Loading ``dag.py``: once, on rank 0, its functions made to travel by value."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from handoff_mpi.callbacks import call_here
from handoff_mpi.dag import DAG
from handoff_mpi.errors import DAGError, HandoffError, Interrupted, UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.launch.dag_hints import describe_no_dag
from handoff_mpi.launch.top_level import TopLevel
from handoff_mpi.python_path import ModuleName, add_directories
from handoff_mpi.serialization import carry_by_value
from handoff_mpi.suggestions import did_you_mean
from handoff_mpi.worker.error_report import describe

#: Begins the names of modules whose files have names that nothing can be imported by.
PREFIX = "handoff_dag_"
_RELATIVE = re.compile(rb"^\s*from\s+\.", re.MULTILINE)
#: Of names in messages, and of files that are looked through for one of a similar name.
_MAX_CHARS, _MAX_FILES = 200, 10_000


@dataclass(slots=True)
class DagFile:
    """The contents of ``dag.py``.

    Attributes:
        path: its file.
        setup: its ``setup(rank)``, if it has one.
        build: gives its DAG; None where it was asked for help, and has given it.
        top_level: what it has changed in this process while it was loaded.
    """

    path: Path
    setup: Callable[[int], object] | None
    build: Callable[[], DAG | None]
    top_level: TopLevel


def load_dag_file(target: str, args: list[str]) -> DagFile:
    """Load ``path`` or ``path:name`` and return what it holds.

    Args:
        target: a Python file, or a :class:`ModuleName`, with a ``dag`` or a ``build(args)``; ``:name`` picks another
            name.
        args: what followed ``--``; given to ``build``.

    Raises:
        UsageError: there is no such file, it cannot be loaded, or holds no DAG.
    """
    name: str | None
    if isinstance(target, ModuleName):
        module_name, _, name = str(target).partition(":")
        spec, path = _find_module(module_name)
    else:
        path, name = _split(target)
        spec = _spec_of_file(path)
    top_level = TopLevel(path)
    module = _import(spec, path, top_level)
    setup = _held(module, "setup")
    if setup is not None and not callable(setup):
        raise UsageError(f"{path}: setup must be a function of the rank, not {show(setup)}")
    top_level.setup = setup
    return DagFile(path, setup, lambda: _dag(module, path, name or None, args), top_level)


def _split(target: str) -> tuple[Path, str | None]:
    path, colon, name = target.rpartition(":")
    if not colon or os.path.lexists(target):
        path, name = target, ""
    problem = _why_no_file(path)
    if problem:
        shown = path if path and path.isprintable() and len(path) <= _MAX_CHARS else show(path, _MAX_CHARS)
        raise UsageError(f"{shown} {problem}{_near_file(path) or '; name the Python file that holds the DAG'}")
    return Path(path).absolute(), name or None


def _why_no_file(path: str) -> str:
    try:
        if Path(path).is_file():
            return ""
        if Path(path).is_dir():
            return "is a directory"
        return "is not a regular file" if os.path.lexists(path) else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error.strerror if isinstance(error, OSError) else error})"


def _near_file(path: str) -> str:
    try:
        names = [entry.name for entry in itertools.islice(Path(path).parent.iterdir(), _MAX_FILES)]
    except (OSError, ValueError):
        return ""
    files = {name.removesuffix(".py").casefold(): name for name in names if name.endswith(".py")}
    names = [name for name in files.values() if name != Path(path).name]
    return did_you_mean(Path(path).name, names, files, one_line)


def _find_module(name: str) -> tuple[ModuleSpec, Path]:
    add_directories([str(Path.cwd())])  # as ``python -m`` does
    try:
        spec = call_here(importlib.util.find_spec, (name,), {})
    except BaseException as error:  # the packages that it is in are imported for that
        why = one_line(f"{type(error).__name__}: {describe(error)[1]}", _MAX_CHARS)
        raise UsageError(f"the module {_short(name)} cannot be found: {why}") from error
    if spec is None or spec.loader is None or not spec.has_location:
        raise UsageError(f"there is no module {_short(name)} that is a Python file; name the module that holds the DAG")
    return spec, Path(spec.origin or "").absolute()


class _ScriptLoader(SourceFileLoader):
    """Compiles a file each time, as Python does with a script: a cached one may be that of before the last edit.

    Python takes the cache of a module that has the same size and the same second of its last change.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _spec_of_file(path: Path) -> ModuleSpec:
    """Return how a file is loaded: as a module that a fresh Python imports by the same name, if there can be one."""
    real = Path(os.path.realpath(path))  # Python adds the directory of that, too
    package = _package_of(real)
    add_directories([str(real.parents[package.count(".") + 1] if package else real.parent)])
    name = f"{package}.{real.stem}" if package else _name_of(real, path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file (its name must end in .py)")
    if type(spec.loader) is SourceFileLoader:
        spec.loader = _ScriptLoader(name, str(path))
    if package:
        try:
            call_here(importlib.import_module, (package,), {})
        except BaseException as error:
            raise UsageError(f"{path}: its package {package} cannot be imported: {_where(error, path)}") from error
    return spec


def _package_of(path: Path) -> str:
    """Return the package that a file with relative imports is in; empty for other files."""
    try:
        if not _RELATIVE.search(path.read_bytes()):
            return ""
    except OSError:
        return ""
    names: list[str] = []
    for directory in path.parents:
        if not (directory / "__init__.py").is_file() or not directory.name.isidentifier():
            break
        names.insert(0, directory.name)
    return ".".join(names)


def _name_of(real: Path, path: Path) -> str:
    if _is_importable(real, path):
        return real.stem
    name = PREFIX + "".join(c if c.isalnum() else "_" for c in path.stem)
    while name in sys.modules and not _is_from(sys.modules[name], path):
        name += "_"
    return name


def _is_importable(real: Path, path: Path) -> bool:
    """Whether ``import`` of its stem finds this file, and would find nothing without it."""
    stem = real.stem
    if real.suffix != ".py" or "." in stem or not stem.isprintable() or stem.startswith("handoff_mpi"):
        return False
    if stem in sys.builtin_module_names or stem in sys.stdlib_module_names or _is_hidden(real):
        return False
    if stem in sys.modules and not _is_from(sys.modules[stem], path):
        return False
    elsewhere = [entry for entry in sys.path if os.path.realpath(entry or ".") != str(real.parent)]
    found = PathFinder.find_spec(stem, elsewhere)
    return found is None or found.origin is None


def _is_hidden(path: Path) -> bool:
    """Whether ``import`` finds something else in its directory."""
    if any((path.parent / f"{path.stem}{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        return True
    return (path.parent / path.stem / "__init__.py").exists()


def _is_from(module: ModuleType, path: Path) -> bool:
    return getattr(module, "__file__", None) == str(path)


def _import(spec: ModuleSpec, path: Path, top_level: TopLevel) -> ModuleType:
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    carry_by_value(module)
    try:
        with top_level.noting():
            call_here(spec.loader.exec_module, (module,), {})
    except SyntaxError as error:
        place = f"{error.filename or path}, line {error.lineno}" if error.lineno else path
        raise UsageError(f"{place}: {error.msg}") from error
    except DAGError as error:
        raise _placed(error, path) from error
    except Interrupted:
        raise
    except BaseException as error:  # of a rank 0 that leaves in any other way, the other ranks would wait for ever
        raise UsageError(f"{path} cannot be loaded: {_where(error, path)}") from error
    return module


def _held(module: ModuleType, name: str) -> object:
    """Return what a module holds by a name; its ``__getattr__``, if it has one, may raise anything."""
    try:
        return getattr(module, name, None)
    except Exception:
        return None


def _dag(module: ModuleType, path: Path, name: str | None, args: list[str]) -> DAG | None:
    asked_for = name
    if name is None:
        may_build = bool(args) and callable(_held(module, "build"))
        name = "dag" if isinstance(_held(module, "dag"), DAG) and not may_build else "build"
    found = _held(module, name)
    if found is None:
        raise UsageError(describe_no_dag(module, path, asked_for))
    if isinstance(found, DAG):
        if args:
            raise UsageError(f"{path}: arguments after -- are for a build(args) function, and {_short(name)} is a DAG")
        return found
    if not callable(found):
        raise UsageError(f"{path}: {_short(name)} is {show(found)}, neither a DAG nor a function that builds one")
    what = f"{_short(name)}({show(args)})"
    try:
        dag = call_here(found, (args,), {})
    except DAGError as error:
        raise _placed(error, path) from error
    except HandoffError:
        raise
    except SystemExit as error:  # argparse inside build(args)
        if not error.code:
            return None  # it was asked for help, and gave it
        raise UsageError(f"{path}: {what} ended with {show(error.code)}") from error
    except BaseException as error:
        is_of_words = not args and type(error) is IndexError
        hint = (
            "; its argument holds the words behind `--` of the command line, and there are none" if is_of_words else ""
        )
        raise UsageError(f"{path}: {what} failed: {_where(error, path)}{hint}") from error
    if not isinstance(dag, DAG):
        hint = "; end it with `return dag`" if dag is None else ""
        raise UsageError(f"{path}: {what} returned {show(dag)}, not a DAG{hint}")
    return dag


def _where(error: BaseException, path: Path) -> str:
    """Return an error on one line, with the line of ``path`` it came from."""
    line = _line_in(error, path)
    place = f"line {line}: " if line else ""
    return f"{place}{type(error).__name__}: {describe(error)[1]}".split("\n")[0]


def _placed(error: DAGError, path: Path) -> DAGError:
    """Return the same error with the line of ``path`` that it came from."""
    line = _line_in(error, path)
    place = f"{path}, line {line}" if line else str(path)
    return DAGError(error.problems, where=f"{place}: {error.where}" if error.where else place)


def _line_in(error: BaseException, path: Path) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _short(name: str) -> str:
    return one_line(name, _MAX_CHARS)
