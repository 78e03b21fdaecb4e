"""Lets a thread unpickle for the program, which gets its own classes, or for a call of a function.

Calls run in copies of the modules that are carried by value: see :mod:`handoff_mpi.carried_modules`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Reading(threading.local):
    """Whether the objects that are unpickled in this thread are for the program, and not for a call of a function."""

    wants_originals = False


reading = _Reading()


@contextmanager
def reading_originals() -> Iterator[None]:
    """Unpickle inside a ``with`` block for the program: objects get its original classes where it has them."""
    before, reading.wants_originals = reading.wants_originals, True
    try:
        yield
    finally:
        reading.wants_originals = before


@contextmanager
def reading_copies() -> Iterator[None]:
    """Unpickle inside a ``with`` block for a call of a function: objects get the classes of its modules' copies."""
    before, reading.wants_originals = reading.wants_originals, False
    try:
        yield
    finally:
        reading.wants_originals = before
