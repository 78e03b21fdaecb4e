"""Restores process-wide state that a call may change (working directory, environment, umask) after each call.

A short call takes little more than a microsecond, and so would a look at all three. The umask is set after each,
whether or not it has changed. This module looks at the directory and the environment where a function of :mod:`os`
was called that changes them (these functions note that here), and after any call that was not that short: an extension
may change them too, or code that took hold of those functions before this module was imported.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: After a longer call all of the state is checked.
SHORT_CALL_S = 20e-6

_CHANGING = ("chdir", "fchdir", "umask", "putenv", "unsetenv")  # os.environ calls the last two
_set_umask = os.umask
_UMASK = re.compile(r"^Umask:\s*([0-7]+)", re.MULTILINE)
#: That of the call that runs in this process.
_current: ProcessState | None = None
_may_have_changed = False


def _note_change() -> None:
    global _may_have_changed
    _may_have_changed = True
    if _current is not None and _current.on_change is not None:
        _current.on_change()


def _watch(name: str) -> None:
    """Have a function of :mod:`os` note that it was called."""
    original = getattr(os, name)

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        _note_change()
        return original(*args, **kwargs)

    if original in os.supports_fd:
        os.supports_fd.add(watched)
    for module in (os, sys.modules[original.__module__]):
        setattr(module, name, watched)


for _name in _CHANGING:
    _watch(_name)


def _noting(name: str) -> Callable[..., object]:
    original = getattr(dict, name)

    @functools.wraps(original)
    def noted(self: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
        _note_change()
        return original(self, *args, **kwargs)

    return noted


class _NotedDict(dict[object, object]):
    """The mapping behind ``os.environ``: libraries change it directly, to leave the C library's variables alone."""

    __slots__ = ()


for _name in ("__setitem__", "__delitem__", "__ior__", "update", "setdefault", "pop", "popitem", "clear"):
    setattr(_NotedDict, _name, _noting(_name))


def _watch_environment() -> object:
    """Have the mapping behind ``os.environ`` note its changes; return it."""
    environ: Any = os.environ
    if type(environ._data) is not _NotedDict:
        noted = _NotedDict(environ._data)
        if os.supports_bytes_environ:
            os.environb._data = noted  # type: ignore[attr-defined]  # they share it
        environ._data = noted
    return environ._data


class ProcessState:
    """Restores what calls in this process change.

    Attributes:
        on_change: called when a call has used what changes the state; None where the end of the call tells.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], object] | None = None
        self._directory: str | None = None
        self._umask = -1
        self._outer: ProcessState | None = None  # of the call that has made this one: it runs a DAG itself
        self._environ: Any = None
        self._data: Any = None
        self._variables: dict[object, object] = {}

    def begin(self) -> None:
        """Calls begin: what is found at the first one is what holds after each."""
        global _current
        if self._umask < 0:
            self._directory, self._umask = _directory_now(), _read_umask()
            self.keep_variables()
        self._outer, _current = _current, self

    def keep_variables(self) -> None:
        """This package has just changed the environment: so it is to stay."""
        self._environ = os.environ
        self._data = _watch_environment()
        self._variables = dict(self._data)

    def finish(self) -> None:
        """No more calls follow, or one that has made this one begin continues."""
        global _current
        inner = _current
        while inner is not None and inner is not self and inner._outer is not self:
            inner = inner._outer
        if inner is self:
            _current = self._outer
        elif inner is not None:  # of a thread that has begun later, and continues
            inner._outer = self._outer
        self._outer = None

    def enter(self, directory: str | None, variables: Mapping[str, str | None]) -> None:
        """Give the call a working directory and variables of its own.

        Raises:
            OSError: the directory cannot be used.
        """
        if directory is not None:
            try:
                os.chdir(directory)
            except OSError as error:
                raise OSError(error.errno, f"its cwd cannot be used: {error.strerror}", directory) from None
        for name, value in variables.items():
            if value is not None:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)

    def restore(self, duration_s: float) -> None:
        """A call has ended after ``duration_s`` seconds: restore what it has changed."""
        global _may_have_changed
        _set_umask(self._umask)
        environ: object = os.environ
        if (
            _may_have_changed
            or duration_s > SHORT_CALL_S
            or environ is not self._environ
            or environ._data is not self._data
        ):
            self._restore()
            _may_have_changed = False

    def _restore(self) -> None:
        if _directory_now() != self._directory:
            self._restore_directory()
        if os.environ is not self._environ:
            os.environ = self._environ  # noqa: B003 (a function has put another mapping there)
        if self._environ._data is not self._data:
            self._environ._data = self._data
        if self._data != self._variables:
            self._restore_variables()

    def _restore_directory(self) -> None:
        if self._directory is not None:
            try:
                os.chdir(self._directory)
            except OSError:
                pass  # it was deleted: calls that need it will say so

    def _restore_variables(self) -> None:
        environ, decode = self._environ, self._environ.decodekey
        for key in environ._data.keys() - self._variables.keys():
            del environ[decode(key)]
        for key, value in self._variables.items():
            if environ._data.get(key) != value:
                environ[decode(key)] = environ.decodevalue(value)

    @property
    def directory(self) -> str | None:
        return self._directory

    def variables(self) -> dict[str, str]:
        """Return the environment without what the running call has changed."""
        environ = self._environ
        return {environ.decodekey(key): environ.decodevalue(value) for key, value in self._variables.items()}


def directory_between_calls() -> str | None:
    """Return the working directory of this process outside of the running call; None if it was deleted."""
    return _directory_now() if _current is None else _current.directory


def variables_between_calls() -> dict[str, str]:
    """Return the environment of this process outside of the running call."""
    return dict(os.environ) if _current is None else _current.variables()


def is_in_call() -> bool:
    """Whether a call of a function runs in this process."""
    return _current is not None


def _directory_now() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (a Path costs more than the rest)
    except OSError:  # it was deleted
        return None


def _read_umask() -> int:
    """Return the umask without setting it, where the system tells: another thread may be making a file."""
    try:
        told = _UMASK.search(Path("/proc/self/status").read_text(errors="replace"))
    except OSError:
        told = None
    if told is not None:
        return int(told[1], 8)
    umask = _set_umask(0o077)
    _set_umask(umask)
    return umask
