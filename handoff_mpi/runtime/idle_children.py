"""Idle children that serve no slot for now: each was started for the devices of some claims, and is kept for the next.

A child costs its slot some tenths of a second when it starts, and a device some hundred megabytes once CUDA runs in the
child. So one is kept for each combination of devices, for any slot that needs it next, and at most as many as slots.
"""

from __future__ import annotations

from handoff_mpi.worker.child_process import ChildProcess


class IdleChildren:
    """Children that wait for a call that has claimed their devices."""

    def __init__(self) -> None:
        self._children: list[ChildProcess] = []

    def take(self, devices: str) -> ChildProcess | None:
        """Return the child that was put aside last of those that are shown these devices; None if none lives."""
        for child in reversed(self._children):
            if child.devices == devices and not child.has_ended():
                self._children.remove(child)
                return child
        return None

    def put(self, child: ChildProcess, most: int) -> list[ChildProcess]:
        """Put an idle child aside; return those that are to end, so that at most so many are kept."""
        if child.is_spent or child.has_ended():
            return [child]
        child.is_captured = False  # the next slot has other files
        self._children.append(child)
        ending = self._children[: max(0, len(self._children) - most)]
        del self._children[: len(ending)]
        return ending

    def all(self) -> list[ChildProcess]:
        return [*self._children]

    def take_all(self) -> list[ChildProcess]:
        """Return all of them, and keep none."""
        children, self._children = self._children, []
        return children
