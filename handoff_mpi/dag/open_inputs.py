"""Follows the chains of a function's open inputs to those that wait for no input themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: The largest numbers of functions examined and of chains kept.
MAX_VISITED, MAX_CHAINS = 100_000, 5


@dataclass(slots=True)
class OpenInputs:
    """The open functions among all that a function depends on.

    Attributes:
        count: how many functions that are, as far as they were looked at.
        is_all: whether all were looked at.
        roots: how many of them wait for no input.
        chains: for the nearest roots, the functions from an input to the root.
    """

    count: int
    is_all: bool
    roots: int
    chains: list[list[int]]


def find_open_inputs(
    task: int, inputs_of: Callable[[int], Iterable[int]], is_open: Callable[[int], bool], most: int = MAX_VISITED
) -> OpenInputs:
    """Return what is open among the functions that ``task`` depends on, by breadth-first search.

    Args:
        inputs_of: returns the functions whose values a function takes.
        is_open: whether the value of a function is still to be made.
        most: the largest number of functions examined.
    """
    via: dict[int, int] = {task: -1}
    found = OpenInputs(0, True, 0, [])
    front = [task]
    for each in front:  # grows meanwhile
        inputs = [one for one in inputs_of(each) if is_open(one)]
        if each != task and not inputs:
            found.roots += 1
            if len(found.chains) < MAX_CHAINS:
                found.chains.append(_chain(each, via))
        new = [one for one in dict.fromkeys(inputs) if one not in via]
        if len(via) + len(new) > most:
            found.is_all = False
            break
        via.update(dict.fromkeys(new, each))
        front += new
    found.count = len(via) - 1
    return found


def _chain(root: int, via: dict[int, int]) -> list[int]:
    chain = [root]
    while via[chain[-1]] != -1 and via[via[chain[-1]]] != -1:
        chain.append(via[chain[-1]])
    return chain[::-1]
