"""Keeping Python's garbage collector from going through a large DAG again and again.

It looks at everything that is alive whenever enough has been made since, and rank 0 makes millions of objects that
live as long as their run: a fifth of its time would go there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Collect nothing inside: for building tables, which makes no garbage of the collector's kind."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def frozen() -> Iterator[None]:
    """Collect inside only what is made inside."""
    is_ours = not gc.get_freeze_count()  # what the program itself has frozen must stay so
    if is_ours:
        gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()
