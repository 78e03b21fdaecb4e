"""Puts other modules into ``sys.modules`` while calls of functions run, and the program's back between calls.

So lookups by name (pickle, inspect, typing, multiprocessing) find, during a call, the objects that the call uses; see
:mod:`handoff_mpi.carried_modules`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

#: The copies of modules whose originals are in ``sys.modules`` between calls.
_entering: dict[str, ModuleType] = {}

#: The number of running calls, mostly nested; and the entries of ``sys.modules`` before the outermost.
_calls = 0
_outside: dict[str, ModuleType | None] = {}


def replace_during_calls(name: str, copy: ModuleType) -> None:
    """Have ``copy`` take the place of the module ``name`` during each call, and during one that runs now."""
    _entering[name] = copy
    if _calls:
        _outside.setdefault(name, sys.modules[name])
        sys.modules[name] = copy


def enter_copies() -> None:
    """Put the copies of modules into ``sys.modules`` in place of the originals, as a call begins."""
    global _calls
    _calls += 1
    if _calls == 1 and _entering:
        for name in _entering:
            _outside[name] = sys.modules.get(name)
        sys.modules.update(_entering)


def leave_copies() -> None:
    """Put the originals back into ``sys.modules`` when the outermost call has ended."""
    global _calls
    _calls = max(0, _calls - 1)
    if not _calls and _outside:
        for name, module in _outside.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        _outside.clear()


@contextmanager
def copies_entered() -> Iterator[None]:
    """Run a ``with`` block with the copies in ``sys.modules``, as within a call."""
    enter_copies()
    try:
        yield
    finally:
        leave_copies()
