"""Determines the exit status while Python ends: a rank decides by it whether the whole job has failed.

Python shows an exception that nobody catches (``sys.last_value``), but not a SystemExit: it reads the exception's
``code`` and calls exit handlers, which receive nothing. So the reading is observed, through the type's own descriptor.
Exit handlers of :mod:`threading` and :mod:`atexit` run after all this: threading's before Python waits for threads,
which may never end, and atexit's after that.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import opcode
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

EXIT_RAISED = 1
EXIT_INTERRUPTED = 130
_RETURNS = frozenset(number for name, number in opcode.opmap.items() if name in ("RETURN_VALUE", "RETURN_CONST"))


class ExitWatch:
    """Calls ``finish`` once when the program of this process ends, before the exit handlers of the program.

    Args:
        finish: takes the exit status, and whether it comes from an exception that nobody has caught. Where the status
            is 0 it is called after all threads have ended, else before Python waits for them.
    """

    def __init__(self, finish: Callable[[int, bool], object]) -> None:
        self._finish: Callable[[int, bool], object] | None = finish
        self._process = os.getpid()
        self._status = ExitStatus()
        threading._register_atexit(self._begin)  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Call nothing at the end."""
        self._finish = None

    def _begin(self) -> None:
        if self._finish is not None and os.getpid() == self._process:  # not in a fork
            if self._status.find():
                self._end()
            else:
                atexit.register(self._end)  # the one that is registered last runs first

    def _end(self) -> None:
        atexit.unregister(self._end)
        finish, self._finish = self._finish, None
        if finish is not None and os.getpid() == self._process:
            finish(self._status.find(), self._status.has_raised)


class ExitStatus:
    """Watches the main thread's outermost frame: it ends by returning, or by an exception that nobody catches."""

    def __init__(self) -> None:
        self._frame = _outermost_frame()
        self._error_before = getattr(sys, "last_value", None)
        _observe_codes()

    def find(self) -> int:
        """Return the status that this process ends with; only for an exit handler, in the process that began."""
        if self._has_returned():
            return 0
        if self.has_raised:
            return EXIT_INTERRUPTED if isinstance(sys.last_value, KeyboardInterrupt) else EXIT_RAISED
        return EXIT_RAISED if _codes is None or not _codes else status_of(_codes[0])

    @property
    def has_raised(self) -> bool:
        """Whether an exception other than SystemExit has ended the program."""
        error = getattr(sys, "last_value", None)
        return error is not None and error is not self._error_before and not self._has_returned()

    def _has_returned(self) -> bool:
        code = self._frame.f_code.co_code
        return 0 <= self._frame.f_lasti < len(code) and code[self._frame.f_lasti] in _RETURNS


def status_of(code: object) -> int:
    """Return the exit status that Python makes of the ``code`` of a SystemExit."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else EXIT_RAISED


def _outermost_frame() -> FrameType:
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


#: The code of the SystemExit that was looked at last, in the main thread: Python itself is the last to look.
_codes: list[object] | None = None


class _ObservedCode:
    """Stands for the attribute ``code`` of SystemExit."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual

    def __get__(self, error: BaseException | None, kind: type | None = None) -> object:
        if error is None:
            return self._usual
        code = self._usual.__get__(error, kind)
        if threading.current_thread() is threading.main_thread():
            _codes[:] = [code]  # type: ignore[index]
        return code

    def __set__(self, error: BaseException, code: object) -> None:
        self._usual.__set__(error, code)


def _observe_codes() -> None:
    """Replace the attribute ``code`` of SystemExit, which Python does not support; do nothing outside CPython."""
    global _codes
    if _codes is not None or sys.implementation.name != "cpython":
        return
    (attributes,) = gc.get_referents(SystemExit.__dict__)
    attributes["code"] = _ObservedCode(attributes["code"])
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(SystemExit))
    _codes = []
    if sys.version_info < (3, 12):
        _replace_exit()


def _replace_exit() -> None:
    """Before Python 3.12 ``sys.exit`` raises a bare code, from which no exception is made, with no ``code`` to read."""
    bare = sys.exit

    def exit(status: object = None, /) -> NoReturn:
        """Exit the interpreter by raising SystemExit(status)."""
        raise SystemExit(status)

    for module in [*sys.modules.values()]:  # sys, and those that have imported the name from it
        for name, value in [*getattr(module, "__dict__", {}).items()]:
            if value is bare:
                setattr(module, name, exit)
