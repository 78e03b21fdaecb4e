"""The life of a task, as a table: what may happen in which state, and what becomes of the task.

This table is the whole truth: the scheduler moves tasks by it alone, and the drawing in the manual (design.md) is made
from it.
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """The state of a task."""

    WAITING = 0
    READY = 1
    DISPATCHED = 2
    DONE = 3
    FAILED = 4
    SKIPPED = 5

    @property
    def is_final(self) -> bool:
        return self in (State.DONE, State.FAILED, State.SKIPPED)


class Cause(IntEnum):
    """The cause of a transition."""

    INPUTS_DONE = 0
    PLACED = 1
    OK = 2
    RETRY = 3
    RANK_LOST = 4
    RETRACTED = 5
    INPUT_LOST = 6
    ERROR = 7
    VALUE_LOST = 8
    INPUT_FAILED = 9
    GIVEN_UP = 10
    RESTORED = 11
    SENT_AHEAD = 12
    UNDECIDED = 13
    ELEMENTS_DONE = 14
    DEVICE_LOST = 15
    DROPPED = 16


#: What dispatches; a tuple, because looking into a set would hash by the name.
DISPATCHES = (Cause.PLACED, Cause.SENT_AHEAD)

WAITING, READY, DISPATCHED, DONE, FAILED, SKIPPED = State

#: (state, cause) to the state that follows. What is not here cannot happen.
TRANSITIONS: dict[tuple[State, Cause], State] = {
    (WAITING, Cause.INPUTS_DONE): READY,
    (READY, Cause.PLACED): DISPATCHED,
    (WAITING, Cause.SENT_AHEAD): DISPATCHED,
    (DISPATCHED, Cause.OK): DONE,
    (DISPATCHED, Cause.RETRY): READY,
    (DISPATCHED, Cause.UNDECIDED): READY,
    (READY, Cause.RETRY): READY,
    (DISPATCHED, Cause.RANK_LOST): READY,
    (DISPATCHED, Cause.DEVICE_LOST): READY,
    (DISPATCHED, Cause.RETRACTED): READY,
    (DISPATCHED, Cause.INPUT_LOST): WAITING,
    (READY, Cause.INPUT_LOST): WAITING,
    (DISPATCHED, Cause.ERROR): FAILED,
    (READY, Cause.ERROR): FAILED,
    (READY, Cause.GIVEN_UP): FAILED,
    (READY, Cause.DROPPED): FAILED,
    (DONE, Cause.VALUE_LOST): WAITING,
    (WAITING, Cause.INPUT_FAILED): SKIPPED,
    (READY, Cause.INPUT_FAILED): SKIPPED,
    (WAITING, Cause.RESTORED): DONE,
    (READY, Cause.RESTORED): DONE,
    (READY, Cause.ELEMENTS_DONE): DONE,
    (WAITING, Cause.ELEMENTS_DONE): DONE,
    (WAITING, Cause.GIVEN_UP): FAILED,
    (WAITING, Cause.DROPPED): FAILED,
}

#: The same as rows, for the hot path: ``TABLE[state][cause]`` is a state or -1.
TABLE = [[int(TRANSITIONS.get((state, cause), -1)) for cause in Cause] for state in State]


def mermaid() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> WAITING", "    [*] --> READY: no inputs"]
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, cause), then in TRANSITIONS.items():
        arrows.setdefault((state, then), []).append(cause.name.lower().replace("_", " "))
    for (state, then), causes in arrows.items():
        lines.append(f"    {state.name} --> {then.name}: {', '.join(causes)}")
    lines += [f"    {state.name} --> [*]" for state in State if state.is_final]
    return "\n".join(lines)
