"""Which values leave a rank's memory when it is short. Pure, and apart from the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from handoff_mpi.worker.events import QueuedCall

#: The bytes spilled at once, about a second of writing; then the rank measures its memory again and polls for messages.
PORTION_NBYTES = 256 * 1024 * 1024
PORTION_COUNT = 64
_NEVER = 1 << 62


def choose_spilled(
    in_memory: Mapping[int, int],
    running: Sequence[QueuedCall | None],
    queues: Iterable[Iterable[QueuedCall]],
    excess_nbytes: int,
    max_count: int,
) -> list[int]:
    """Return which values to move out now: the last wanted first, among equals the largest.

    What a running call wants stays, and what the next of each queue does.

    Args:
        in_memory: task to the size of its value in bytes.
        running, queues: the calls of each slot, in their order.
        excess_nbytes: how much less should be in use.
        max_count: how many values to move out at most.
    """
    place = _places(running, queues)
    choice = [task for task in in_memory if place.get(task) != 0]
    choice.sort(key=lambda task: (-place.get(task, _NEVER), -in_memory[task]))
    chosen: list[int] = []
    for task in choice[:max_count]:
        if excess_nbytes <= 0:
            break
        chosen.append(task)
        excess_nbytes -= in_memory[task]
    return chosen


def _places(running: Sequence[QueuedCall | None], queues: Iterable[Iterable[QueuedCall]]) -> dict[int, int]:
    """Return task to how many calls come before the first that wants its value."""
    place = {task: 0 for work in running if work is not None for task in work.wants}
    for queue in queues:
        for position, work in enumerate(queue):
            for task in work.wants:
                place[task] = min(place.get(task, position), position)
    return place
