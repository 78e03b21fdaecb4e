"""Sets the directories from which Python imports, in this process and in the Python processes that it starts.

A process that this package starts imports what this process would: its flags (``-I``, ``-P``, ``-E``, ``-W`` ...) are
the same, and so is ``sys.path``. The current directory is on it only if Python itself has put it there for the command
of the user (``python -m``), or the user has. Python puts the current directory first for ``python -c``, and has no flag
against that before 3.11; so such a process sets its path before it imports anything but ``sys``, which is built in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder

#: The path that this package itself was found on, before a file of the user was loaded.
_first_path = [entry for entry in sys.path if isinstance(entry, str)]
_STDLIB = os.path.dirname(os.__file__)  # noqa: PTH120


#: In the path of a module that is installed.
_INSTALLED = ("site-packages", "dist-packages", _STDLIB)
#: Directories of this process alone: on another host, one of that name could be anybody's.
_private: list[str] = []


class ModuleName(str):
    """The name of a module, where a path could stand as well."""

    __slots__ = ()


def python_command() -> list[str]:
    """Return the words that start this interpreter with the flags of this process."""
    import subprocess

    words: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    known = {word.partition("=")[0] for word in words}
    for name, value in sys._xoptions.items():  # subprocess returns only some of them
        if name not in known:
            words += ["-X", name if value is True else f"{name}={value}"]
    return [sys.executable, *words]


def python_program(imports: str, statements: str) -> list[str]:
    """Return a command that executes ``statements`` in a fresh Python; words behind it are in ``sys.argv[1:]`` there.

    It executes ``imports`` first, with the path that this process had when it began, so that nothing beside a file of
    the user takes the place of a room of this package. Then its path becomes that of this process.
    """
    path = [entry for entry in sys.path if isinstance(entry, str)]
    lines = ("import sys", f"sys.path[:] = {_first_path!a}", imports, f"sys.path[:] = {path!a}", statements)
    return [*python_command(), "-c", "\n".join(lines)]


def own_command() -> list[str]:
    """Return a command that is this package's command line, as the user has called it: by ``-m`` or by its script."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name == "handoff_mpi.__main__":
        return [*python_command(), "-m", "handoff_mpi"]
    return python_program("from handoff_mpi.program import program", "program()")


def add_directories(directories: Iterable[str]) -> None:
    """Add directories from which this process imports.

    They come behind the standard library, which a file beside ``dag.py`` cannot replace, and before what is installed,
    as the directory of a script does; under ``-P`` or ``-I`` behind all, as Python would not add them.
    """
    position = _behind_stdlib()
    for directory in directories:
        if directory not in sys.path:
            sys.path.insert(position, directory)
            position += 1


def add_private_directory(directory: str) -> None:
    """Make this process, and the children that it starts, import from a directory that other ranks do not use."""
    _private.append(directory)
    sys.path.append(directory)


def shared_path() -> list[str]:
    """Return the entries of ``sys.path`` that other ranks use as well."""
    return [entry for entry in sys.path if isinstance(entry, str) and entry not in _private]


def _behind_stdlib() -> int:
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
        return len(sys.path)
    places = enumerate(map(str, sys.path))
    positions = [place for place, entry in places if entry == _STDLIB or entry.endswith("lib-dynload")]
    return max(positions, default=-1) + 1


def source_of(module: str) -> str | None:
    """Return the file of a module that need not be loaded, without importing what it is in; None if there is none."""
    places = None
    origin = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), places)
        if spec is None:
            return None
        places, origin = spec.submodule_search_locations, spec.origin
    return origin


def is_of_user(module: str) -> bool:
    """Whether a module is the user's own: neither part of Python nor installed."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "handoff_mpi":
        return False
    try:
        file = getattr(sys.modules.get(top), "__file__", None) or source_of(top)
    except Exception:  # attributes of the user's module may raise
        return False
    return isinstance(file, str) and not any(part in file for part in _INSTALLED)
