"""Child processes that outlast a run: starting one takes as long as thousands of short calls."""

from __future__ import annotations

from collections.abc import Iterable

from handoff_mpi.worker.child_process import ChildProcess


class ChildPool:
    """A rank's idle children between the runs of one job, and those that end meanwhile. Its creator must close it."""

    def __init__(self) -> None:
        self._children: list[ChildProcess] = []
        self._ending: list[ChildProcess] = []

    def take(self, run: str, seeds: bool = True, devices: str = "") -> ChildProcess | None:
        """Return a child that serves ``run`` from now on, as a new one would; None if there is none.

        Args:
            devices: those that it is shown.
        """
        for child in [each for each in reversed(self._children) if each.devices == devices]:
            self._children.remove(child)
            if child.begin_run(run, seeds):
                return child
            self.let_end(child)
        return None

    def keep(self, children: Iterable[ChildProcess]) -> None:
        """Keep idle children for another run; those that cannot serve one end by themselves."""
        for child in children:
            if child.is_reusable:
                child.give_back_freed_memory()
                self._children.append(child)
            else:
                self.let_end(child)

    def let_all_end(self) -> None:
        """Have all end, and do not wait."""
        while self._children:
            self.let_end(self._children.pop())

    def let_end(self, child: ChildProcess) -> None:
        """Have a child end, and do not wait: that may take seconds, and the rank has messages to answer."""
        child.hang_up()
        self._ending = [each for each in self._ending if not each.has_ended()] + [child]

    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def close(self) -> None:
        """End them: send the request to all before waiting for one."""
        close_all([*self._ending, *self._children])
        self._ending.clear()
        self._children.clear()


def close_all(children: Iterable[ChildProcess]) -> None:
    """End idle children; all get the request before one is waited for, as each takes some hundredths of a second."""
    children = list(children)
    for child in children:
        child.hang_up()
    for child in children:
        child.close()
