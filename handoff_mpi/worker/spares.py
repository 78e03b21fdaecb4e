"""Child processes that outlast a run: starting one takes as long as thousands of short calls."""

from __future__ import annotations

from collections.abc import Iterable

from handoff_mpi.worker.runners import Child


class Spares:
    """A rank's idle children between the runs of one job. Whoever makes it closes it."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def take(self, run: str) -> Child | None:
        """Return a child that serves ``run`` from now on, as a new one would; None if there is none."""
        while self._children:
            child = self._children.pop()
            if child.begin_run(run):
                return child
            child.close()
        return None

    def keep(self, children: Iterable[Child]) -> list[Child]:
        """Keep idle children for another run; return those that cannot be."""
        rest = []
        for child in children:
            if child.is_reusable:
                child.give_back_freed_memory()
                self._children.append(child)
            else:
                rest.append(child)
        return rest

    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def close(self) -> None:
        """End them; all are told before one is waited for."""
        close_all(self._children)
        self._children.clear()


def close_all(children: Iterable[Child]) -> None:
    """End idle children; all are told before one is waited for: each takes some hundredths of a second to end."""
    children = list(children)
    for child in children:
        child.hang_up()
    for child in children:
        child.close()
