"""The working directory, the environment variables and the copies of inputs that belong to one function."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from handoff_mpi.dag.function import INLINE, Function
from handoff_mpi.formatting import show
from handoff_mpi.numerals import plain

#: An absolute path, or None for the directory of the rank; name to value, None for a variable that is removed; and
#: whether arrays among its arguments are copies that it may write to.
Surroundings: TypeAlias = "tuple[str | None, dict[str, str | None], bool]"


def surroundings_of(function: Function, directory: str) -> Surroundings | None:
    """Return what calls of ``function`` have of their own, None if nothing.

    Args:
        directory: what a relative ``cwd`` starts from.
    """
    if function.cwd is None and function.env is None and not function.writable:
        return None
    cwd: str | None = _path(function.cwd)
    if cwd is not None and not cwd.startswith("/"):
        cwd = f"{directory}/{cwd}"
    return cwd, dict(function.env or {}), function.writable


def written_surroundings(function: Function) -> bytes:
    """Return ``cwd`` and ``env`` as they were given, for a fingerprint; nothing if there are none."""
    if function.cwd is None and function.env is None:
        return b""
    return b"surroundings" + marshal.dumps((_path(function.cwd), sorted((function.env or {}).items())), 2)


def find_wrong_surroundings(function: Function) -> Iterable[str]:
    """Yield what is wrong with ``cwd``, ``env`` and ``writable``."""
    cwd, env = function.cwd, function.env
    is_inline = isinstance(function.type, str) and function.type == INLINE
    if not isinstance(function.writable, bool):
        yield f"writable must be True or False, not {show(function.writable)}"
    if is_inline and not (cwd is None and env is None and not function.writable):
        yield "an inline function is called where its consumer is: give cwd, env and writable to that"
    if cwd is not None:
        path = _path(cwd)
        if not isinstance(path, str) or not path or "\0" in path:
            yield f"cwd must be the path of a directory, not {show(cwd)}"
    if env is not None and not isinstance(env, Mapping):
        yield f"env must be a mapping of names to values, not {show(env)}"
    elif env is not None:
        yield from _wrong_variables(env)


def _wrong_variables(env: Mapping[Any, object]) -> Iterable[str]:
    for name, value in env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            yield f"env names {show(name)}, which cannot be the name of a variable"
        elif value is not None and (not isinstance(value, str) or "\0" in value):
            hint = f"; write {str(value)!r}" if type(plain(value)) in (int, float) else ""
            yield f"env[{show(name)}] must be a string without NUL characters, or None, not {show(value)}{hint}"


def _path(cwd: Any) -> Any:
    """Return the string that a path stands for, anything else as it is."""
    try:
        return cwd if cwd is None or isinstance(cwd, str) else type(cwd).__fspath__(cwd)
    except Exception:
        return cwd
