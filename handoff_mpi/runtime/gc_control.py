"""Keeping Python's garbage collector from going through a large DAG again and again.

The collector visits every living object whenever enough objects were made since, and rank 0 makes millions that live
as long as their run: a fifth of its time would go there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from handoff_mpi.process_context import this_process

#: Smaller DAGs are visited in a few milliseconds.
FREEZE_FROM_FUNCTIONS = 20_000


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
def frozen(functions: int) -> Iterator[None]:
    """Collect inside only what is made inside, if the DAG has so many ``functions`` that this saves time.

    ``gc.freeze`` resets the collector's counts, so that in a loop of runs the oldest objects would never be visited:
    what the counts were is kept, and a collection is made when it is due. What the program itself has frozen stays
    frozen.
    """
    if functions < FREEZE_FROM_FUNCTIONS or gc.get_freeze_count():
        yield
        return
    skipped = this_process.of(SkippedCollections)
    skipped.note()
    gc.freeze()
    count = gc.get_freeze_count()
    try:
        yield
    finally:
        if gc.get_freeze_count() <= count:  # else a function has frozen what there is for good
            gc.unfreeze()
            skipped.make_up()


class SkippedCollections:
    """The collections of young objects that ``gc.freeze`` keeps from counting towards one of the oldest.

    A part of the process context.
    """

    def __init__(self) -> None:
        self._collections = 0
        self._survivors = 0

    def note(self) -> None:
        """The counts are about to be reset."""
        _, young, middle = gc.get_count()
        self._collections += young + middle * gc.get_threshold()[1]

    def make_up(self) -> None:
        """Visit the oldest objects too if Python would have by now, going by its own rule.

        That is: there were so many collections of younger objects, which left more than a quarter of what the last
        visit left.
        """
        first, second, third = gc.get_threshold()
        is_due = self._collections > second * third and 4 * self._collections * first > self._survivors
        if is_due and first and gc.isenabled():
            gc.collect()
            self._collections, self._survivors = 0, len(gc.get_objects())
