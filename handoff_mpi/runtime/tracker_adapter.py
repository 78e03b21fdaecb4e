"""Asks the user's resource tracker after each placement, and tells it of each release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType

from handoff_mpi.callbacks import CallbackFailed, call, shown
from handoff_mpi.console import print_message
from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources import PlainAmounts, ResourceTracker
from handoff_mpi.resources.amounts import plain_number
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.scheduler import DISPATCHES, Dispatch, Event, Refused, Transition
from handoff_mpi.scheduler.transitions import Updated

_SAID_NO = "it said no"


class TrackerAdapter:
    """Grants of the tracker.

    Args:
        tracker: the user's.
        offered: returns what a rank offers now.
        clock: returns the time in seconds, to measure how long a request took.
    """

    def __init__(
        self,
        tracker: ResourceTracker,
        offered: Callable[[int], PlainAmounts] = lambda rank: MappingProxyType({}),
        clock: Callable[[], float] = clock,
    ) -> None:
        self._tracker = tracker
        self._offered = offered
        self._clock = clock
        self._granted: dict[int, tuple[int, dict[str, int | float]]] = {}
        self._told: set[str] = set()

    def request(self, command: Dispatch, specs: Sequence[TaskSpec]) -> list[Event]:
        """Ask for what the placement needs; take out of it what was refused, and return the refusals as events."""
        refused: list[Event] = []
        granted: list[tuple[int, int]] = []
        for task, attempt in command.tasks:
            cost = {name: plain_number(amount) for name, amount in specs[task].cost.items()}
            begun = self._clock()
            is_granted, trouble = self._ask(command.rank, cost)
            if is_granted:
                self._granted[task] = (command.rank, cost)
                granted.append((task, attempt))
            else:
                refused.append(Refused(task, attempt, trouble or _SAID_NO, bool(trouble), self._clock() - begun))
        command.tasks = granted
        return refused

    def _ask(self, rank: int, cost: dict[str, int | float]) -> tuple[bool, str]:
        """Return whether the tracker grants ``cost``, and what it did instead of answering."""
        try:
            answer = call(self._tracker.request, rank, dict(cost))
            if is_true(answer):
                return True, ""
            if not call(bool, answer):
                return False, ""
            trouble = f"resource_tracker.request returned {shown(answer)}, which is neither True nor False"
        except CallbackFailed as error:
            trouble = f"resource_tracker.request failed: {error}"
        self._tell(trouble)
        return False, trouble

    def settle(self, log: Iterable[Transition]) -> None:
        """Release what tasks held that are not dispatched any more, and register what ranks offer since an update."""
        for task, _, cause, _, rank, detail in log:
            if task < 0:
                if isinstance(detail, Updated):
                    self._register(rank)
            elif cause not in DISPATCHES and task in self._granted:
                self._call("release", *self._granted.pop(task))

    def close(self) -> None:
        """Release what is still granted: the run is over, and what was left running is not waited for."""
        while self._granted:
            self._call("release", *self._granted.popitem()[1])

    def _register(self, rank: int) -> None:
        self._call("register", rank, dict(self._offered(rank)))

    def _call(self, name: str, rank: int, amounts: PlainAmounts) -> None:
        """Call a method whose answer does not count; an exception is printed."""
        try:
            call(getattr(self._tracker, name), rank, amounts)
        except CallbackFailed as error:
            self._tell(f"resource_tracker.{name} failed: {error}")

    def _tell(self, trouble: str) -> None:
        if trouble not in self._told and len(self._told) < 10:  # once each: there may be very many
            self._told.add(trouble)
            print_message(trouble)


def is_true(answer: object) -> bool:
    """Whether a tracker's answer is True: Python's or numpy's own, and no other object that is true."""
    if answer is True:
        return True
    kind = type(answer)
    return kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_") and bool(answer)
