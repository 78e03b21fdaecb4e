"""Values that ``--rerun`` of a launch replaces count no more, nor does what earlier launches made of them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence

from handoff_mpi.results.launches import Identity, Launch

#: The reason of functions that run again because ``--rerun`` names them.
NAMED_BY_RERUN = "--rerun names it"


def named_in_words(reasons: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Return the tasks that ``--rerun`` names, as far as the reasons of a launch tell: earlier versions have no more.

    Args:
        reasons: why tasks run again that an earlier launch had done, as the journal has them.
    """
    return reasons.get(NAMED_BY_RERUN, ())


def dropped_by(launch: int) -> str:
    """Return why a function runs again that a launch did not hold, which dropped its value."""
    return f"--rerun of launch {launch} replaced what its value was made of"


def made_of(
    launches: Iterable[Launch],
    replaced: Collection[Hashable],
    unchanged: Collection[Identity],
    accepted: Collection[Identity],
) -> Iterator[tuple[Launch, set[int], set[int]]]:
    """Yield of each launch the tasks that are replaced, and those that it made, directly or not, by its own inputs.

    Args:
        launches: in order.
        replaced: identities, and the ids of what is replaced with any code and arguments.
        unchanged: the functions that take what they took, so that others know whether that is replaced. Arrays are
            looked at all the same: their elements may have taken something else.
        accepted: what functions go by whose change was accepted. Only these have the same identity in another launch
            although they take something else.
    """
    known, targets = {*replaced}, {*accepted}
    for launch in launches:
        of, arrays = [*map(launch.identity, range(len(launch.tasks)))], set(launch.arrays)
        children: dict[int, list[int]] = {}
        for task, row in enumerate(launch.tasks):
            for each in row[3] if task in arrays or of[task] not in unchanged else ():
                children.setdefault(each, []).append(task)
        start = [task for task, each in enumerate(of) if each in known or each[0] in known]
        stack, found = [*start], set[int]()
        while children and stack:
            stack += (new := children.pop(stack.pop(), []))
            found.update(new)
        known.update(targets.intersection(of[task] for task in found))
        yield launch, {*start}, found
